"""LR consistency: how near the LR comes an SR that is degraded again, in all and in its mean colour."""

from collections.abc import Callable

from torch import Tensor

from srgan.images import to_uint8
from srgan.metrics.psnr import psnr

Degradation = Callable[[Tensor], Tensor]  # (B, 3, H, W) uint8 → (B, 3, h, w) uint8


def lr_psnr(sr: Tensor, lr: Tensor, degradation: Degradation) -> Tensor:
    """PSNR in dB between lr and the degraded sr, per image: (B,) float64; infinite if equal.

    sr: (B, 3, H, W) and lr: (B, 3, h, w), in [0, 1] or uint8. The 8-bit R, G and B of whole images are compared, with
    no border cut off, so that a model that shifts colours or positions loses here under every protocol.
    """
    return psnr(degradation(to_uint8(sr)), to_uint8(lr))


def colour_drift(sr: Tensor, lr: Tensor, degradation: Degradation) -> Tensor:
    """How far the mean of R, G or B lies from lr's, in grey levels, per image: (B,) float64; that which is farthest.

    sr: (B, 3, H, W) and lr: (B, 3, h, w), in [0, 1] or uint8. The 8-bit degraded sr is compared, whole.
    """
    difference = degradation(to_uint8(sr)).double() - to_uint8(lr).double()
    return difference.mean((2, 3)).abs().amax(1)
