"""Named protocols: what exactly is compared when a PSNR or an SSIM is reported."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from srgan.images import luma, shave, to_uint8


@dataclass(frozen=True)
class Protocol:
    """How sr and hr become the planes that are compared, and by which SSIM.

    Args:
        name: as printed beside the numbers.
        planes: Y as it comes, Y rounded to an integer (MATLAB's rgb2ycbcr on 8-bit images), or R, G and B.
        border: pixels shaved on each side; None for as many as the scale.
        ssim: Wang et al.'s, or that of the daala codec's tools.
    """

    name: str
    planes: Literal["y", "rounded y", "rgb"]
    border: int | None
    ssim: Literal["wang", "daala"]

    def prepare(self, images: Tensor, scale: int) -> Tensor:
        """(B, 3, H, W) in [0, 1], or uint8 → planes (B, 1 or 3, H', W') float64 in 0…255, from 8-bit values, shaved."""
        images = to_uint8(images)
        planes = images.double() if self.planes == "rgb" else luma(images)
        if self.planes == "rounded y":
            planes = torch.floor(planes + 0.5)
        border = scale if self.border is None else self.border
        if min(planes.shape[-2:]) <= 2 * border:
            raise ValueError(
                f"an image of {tuple(planes.shape[-2:])} is nothing but border after shaving {border} pixels"
            )
        return shave(planes, border)


PAPER = Protocol("paper", planes="y", border=4, ssim="daala")  # Ledig et al. 2017, Tables 1 and 2
MATLAB = Protocol("matlab", planes="rounded y", border=None, ssim="wang")  # most super-resolution papers since 2014
RGB = Protocol("rgb", planes="rgb", border=None, ssim="wang")  # the model zoos of BasicSR and mmagic
PROTOCOLS = {protocol.name: protocol for protocol in (PAPER, MATLAB, RGB)}
