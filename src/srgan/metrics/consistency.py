"""LR consistency: does the SR, degraded again, give the LR back?"""

from collections.abc import Callable

from torch import Tensor

from srgan.images import to_uint8
from srgan.metrics.protocol import ImageMean
from srgan.metrics.psnr import EXACT, psnr

Degradation = Callable[[Tensor], Tensor]  # (B, 3, H, W) uint8 → (B, 3, h, w) uint8


def lr_psnr(sr: Tensor, lr: Tensor, degradation: Degradation) -> Tensor:
    """PSNR in dB between lr and sr degraded again, per image: (B,) float64; infinite if equal.

    sr: (B, 3, H, W) and lr: (B, 3, h, w), in [0, 1] or uint8. 8-bit R, G and B of the whole image, no shaving: a model
    that shifts colours or positions loses here, whichever protocol it is scored by.
    """
    return psnr(degradation(to_uint8(sr)), to_uint8(lr))


class LRConsistency(ImageMean):
    """Mean over images of `lr_psnr`; an LR reproduced exactly counts as 100 dB."""

    def __init__(self, degradation: Degradation) -> None:
        super().__init__()
        self.degradation = degradation

    def update(self, sr: Tensor, lr: Tensor) -> None:
        """sr: (B, 3, H, W), lr: (B, 3, h, w), in [0, 1] or uint8."""
        self.add(lr_psnr(sr, lr, self.degradation).clamp(max=EXACT))
