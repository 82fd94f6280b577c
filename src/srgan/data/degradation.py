"""The degradation from HR to LR, run on whole batches on the device."""

from typing import Protocol

import torch
from torch import Tensor

from srgan.errors import UserError
from srgan.imresize import Border, imresize, resize_matrix
from srgan.pilresize import pil_resize, pil_resize_matrix


class Degradation(Protocol):
    """Makes LR from HR, reduced by `scale`. Its random draws depend on the seed alone.

    One that draws nothing may be replayed by a CUDA graph. It has to hold on to the memory that it used last, which the
    graph goes on reading: tensors in a function's cache may be evicted.
    """

    name: str  # printed with scores
    scale: int
    draws: bool  # True if LR depends on the seed

    def __call__(self, hr: Tensor, seed: int = 0) -> Tensor:
        """LR of `hr` (B, 3, H, W) uint8, whose sides are multiples of the scale: (B, 3, H / scale, W / scale) uint8."""
        ...


class BicubicDegradation:
    """MATLAB's bicubic reduction by `scale`, bit-exact for 8-bit images, after an optional Gaussian blur (§2.1).

    Args:
        scale: the factor of reduction, an integer ≥ 2.
        blur_sigma: standard deviation of the Gaussian in HR pixels; 0 for none, as in the paper's tables.
        border: how the image continues beyond its edge, see `resize_matrix`; `replicate` made the published benchmark
        files.

    Raises UserError for a scale below 2 or a negative blur.
    """

    draws = False

    def __init__(self, scale: int, blur_sigma: float = 0.0, border: Border = "replicate") -> None:
        check_reduction(scale)
        if blur_sigma < 0:
            raise UserError(f"blur_sigma {blur_sigma}: expected 0 (no blur) or a width in pixels")
        self.scale = scale
        self.blur_sigma = blur_sigma
        self.border: Border = border
        more = [f"blur {blur_sigma:g}"] * bool(blur_sigma) + [f"{border} border"] * (border != "replicate")
        self.name = f"bicubic ({', '.join(more)})" if more else "bicubic"

    def __call__(self, hr: Tensor, seed: int = 0) -> Tensor:
        """LR of `hr` (…, 3, H, W) uint8, whose sides are multiples of the scale. The seed is not used."""
        if self.blur_sigma:
            from torchvision.transforms.v2 import functional as transforms  # its import takes seconds

            size = 2 * round(3 * self.blur_sigma + 0.5) + 1
            if size // 2 >= min(hr.shape[-2:]):
                raise UserError(
                    f"degradation.blur_sigma={self.blur_sigma:g} reaches {size // 2} pixels, more than an image of"
                    f" {hr.shape[-1]}×{hr.shape[-2]} has; take less blur, or larger crops"
                )
            hr = transforms.gaussian_blur(hr, [size, size], [self.blur_sigma])
        sides, options = hr.shape[-2:], (1 / self.scale, self.border, torch.float64, hr.device)
        self._held = [resize_matrix(side, *options) for side in sides]
        return imresize(hr, 1 / self.scale, self.border)


class PillowDegradation:
    """Pillow's bicubic reduction by `scale`, an integer ≥ 2, bit-exact: what papers on faces use."""

    name = "Pillow's bicubic"
    draws = False

    def __init__(self, scale: int) -> None:
        check_reduction(scale)
        self.scale = scale

    def __call__(self, hr: Tensor, seed: int = 0) -> Tensor:
        """LR of `hr` (…, 3, H, W) uint8, whose sides divide by the scale; nothing is drawn, so the seed is unused."""
        self._held = [pil_resize_matrix(side, side // self.scale, hr.device) for side in hr.shape[-2:]]
        return pil_resize(hr, hr.shape[-2] // self.scale, hr.shape[-1] // self.scale)


def check_reduction(scale: object) -> None:
    """Raise UserError unless `scale` is an integer of at least 2."""
    if not isinstance(scale, int) or scale < 2:
        raise UserError(f"scale {scale}: expected a whole number from 2; try scale=4")
