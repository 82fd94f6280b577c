"""Protocols: named definitions of exactly what is compared when PSNR or SSIM is reported."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from srgan.images import luma, shave, to_uint8


@dataclass(frozen=True)
class Protocol:
    """How sr and hr are turned into the planes that are compared, and which SSIM compares them.

    Args:
        name: printed beside the numbers.
        planes: unrounded Y, Y rounded to an integer (as MATLAB's rgb2ycbcr does for 8-bit images) or cut off to one, or
            R, G and B.
        border: pixels cut off on each side; None cuts off as many as the scale.
        ssim: that of Wang et al. 2004, or that of the daala codec's tools.
    """

    name: str
    planes: Literal["y", "rounded y", "truncated y", "rgb"]
    border: int | None
    ssim: Literal["wang", "daala"]

    def prepare(self, images: Tensor, scale: int) -> Tensor:
        """Turn images (B, 3, H, W) in [0, 1], or uint8, into planes (B, 1 or 3, H − 2 border, W − 2 border).

        Images are rounded to 8 bits first; planes are float64 in 0…255. Raises ValueError if the border leaves nothing.
        """
        images = to_uint8(images)
        planes = images.double() if self.planes == "rgb" else luma(images)
        if self.planes == "rounded y":
            planes = torch.floor(planes + 0.5)
        elif self.planes == "truncated y":
            planes = torch.floor(planes + 1e-9)  # an integer stays one, whatever the sum rounds to
        border = scale if self.border is None else self.border
        if min(planes.shape[-2:]) <= 2 * border:
            raise ValueError(
                f"an image of {tuple(planes.shape[-2:])} is nothing but border after shaving {border} pixels"
            )
        return shave(planes, border)


PAPER = Protocol("paper", planes="y", border=4, ssim="daala")  # Ledig et al. 2017, Tables 1 and 2
MATLAB = Protocol("matlab", planes="rounded y", border=None, ssim="wang")  # most super-resolution papers since 2014
RGB = Protocol("rgb", planes="rgb", border=None, ssim="wang")  # used by BasicSR's and mmagic's model zoos
PROTOCOLS = {protocol.name: protocol for protocol in (PAPER, MATLAB, RGB)}
# Faces ×8: the published code of SPARNet (Chen et al. 2020) truncates Y, removes no border, and has Wang's SSIM.
FACES = Protocol("faces", planes="truncated y", border=0, ssim="wang")
FACES_ROUNDED = Protocol("faces_rounded", planes="rounded y", border=0, ssim="wang")  # what truncating changes
ON_REQUEST = {protocol.name: protocol for protocol in (FACES, FACES_ROUNDED)}
