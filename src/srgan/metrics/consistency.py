"""LR consistency: how closely the SR, degraded again, reproduces the LR, pixel by pixel and in its mean colour."""

from collections.abc import Callable

from torch import Tensor

from srgan.images import to_uint8
from srgan.metrics.psnr import psnr

Degradation = Callable[[Tensor], Tensor]  # (B, 3, H, W) uint8 → (B, 3, h, w) uint8


def lr_psnr(sr: Tensor, lr: Tensor, degradation: Degradation) -> Tensor:
    """PSNR in dB between lr and the degraded sr, per image: (B,) float64; infinite if they are equal.

    sr: (B, 3, H, W) and lr: (B, 3, h, w), in [0, 1] or uint8. Compares 8-bit RGB of whole images
    without cutting a border, so a model that shifts colours or positions scores low here.
    """
    return psnr(degradation(to_uint8(sr)), to_uint8(lr))


def colour_drift(sr: Tensor, lr: Tensor, degradation: Degradation) -> Tensor:
    """Largest shift of a channel's mean between lr and the degraded sr, in grey levels, per image: (B,) float64.

    sr: (B, 3, H, W) and lr: (B, 3, h, w), in [0, 1] or uint8. Compares 8-bit RGB of whole images.
    """
    difference = degradation(to_uint8(sr)).double() - to_uint8(lr).double()
    return difference.mean((2, 3)).abs().amax(1)
