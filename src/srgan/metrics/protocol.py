"""Named protocols: what exactly is compared when a PSNR or an SSIM is reported."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from srgan.images import luma, shave, to_uint8


@dataclass(frozen=True)
class Protocol:
    """How sr and hr become the two planes that are compared.

    Args:
        name: as printed beside the numbers.
        rounded: round Y to an integer, as MATLAB's rgb2ycbcr does for 8-bit images.
        border: pixels shaved on each side; None for as many as the scale.
    """

    name: str
    rounded: bool
    border: int | None

    def prepare(self, images: Tensor, scale: int) -> Tensor:
        """(B, 3, H, W) in [0, 1], or uint8 → Y (B, 1, H', W') float64 in 16…235, from 8-bit values, shaved."""
        y = luma(to_uint8(images))
        if self.rounded:
            y = torch.floor(y + 0.5)
        border = scale if self.border is None else self.border
        if min(y.shape[-2:]) <= 2 * border:
            raise ValueError(f"an image of {tuple(y.shape[-2:])} is nothing but border after shaving {border} pixels")
        return shave(y, border)


MATLAB = Protocol("matlab", rounded=True, border=None)  # most super-resolution papers since 2014


class ProtocolMetric(Metric):
    """Mean over images of a score of each image under a protocol; adds up over batches of any size and processes."""

    total: Tensor
    count: Tensor

    def __init__(self, scale: int, protocol: Protocol = MATLAB) -> None:
        super().__init__()
        self.scale = scale
        self.protocol = protocol
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @abstractmethod
    def score(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, 1, H, W) planes → (B,)."""

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """sr, hr: (B, 3, H, W) in [0, 1], or uint8."""
        values = self.score(self.protocol.prepare(sr, self.scale), self.protocol.prepare(hr, self.scale))
        self.total += values.sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        return self.total / self.count
