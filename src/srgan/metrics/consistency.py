"""LR consistency: does the SR, degraded again, give the LR back?"""

from collections.abc import Callable

from torch import Tensor

from srgan.images import to_uint8
from srgan.metrics.psnr import psnr

Degradation = Callable[[Tensor], Tensor]  # (B, 3, H, W) uint8 → (B, 3, h, w) uint8


def lr_psnr(sr: Tensor, lr: Tensor, degradation: Degradation) -> Tensor:
    """PSNR in dB between lr and sr degraded again, per image: (B,) float64; infinite if equal.

    sr: (B, 3, H, W) and lr: (B, 3, h, w), in [0, 1] or uint8. 8-bit R, G and B of the whole image, no shaving: a model
    that shifts colours or positions loses here, whichever protocol it is scored by.
    """
    return psnr(degradation(to_uint8(sr)), to_uint8(lr))
