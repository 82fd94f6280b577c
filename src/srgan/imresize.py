"""MATLAB's `imresize(image, scale, "bicubic")`, bit-exact for 8-bit images.

A separable resize is two matrix products, rows first: `R_rows @ image @ R_columnsᵀ`. For uint8 images each of the
two passes rounds half up and clamps to 0…255, as MATLAB does but PIL and torch don't.
"""

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

Border = Literal["replicate", "symmetric"]


def cubic(x: Tensor) -> Tensor:
    """Cubic convolution kernel, a = −0.5 (Keys 1981, Eq. 15). Support (−2, 2)."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))


@lru_cache(maxsize=32)  # for 12 megapixels four of them take 100 MB
@torch.inference_mode(False)  # so that a matrix first made in inference can be used in training
def resize_matrix(
    length: int, scale: float, border: Border, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    """The matrix (ceil(scale · length), length) that resizes one axis.

    To reduce, the kernel is stretched by 1/scale (antialiasing). Beyond the border `replicate` repeats the edge
    pixel (MATLAB of 2015 and before, the published benchmark files), `symmetric` mirrors with the edge pixel
    included (newer MATLAB). The matrix is cached, so don't write to it. Raises ValueError for another border.
    """
    if border not in ("replicate", "symmetric"):
        raise ValueError(f"border {border!r}: expected replicate or symmetric")
    stretch = min(scale, 1.0)
    support = 4 / stretch
    out_length = math.ceil(scale * length - 1e-9)
    taps = math.ceil(support) + 2
    x = torch.arange(1, out_length + 1, dtype=torch.float64)
    center = x / scale + 0.5 * (1 - 1 / scale)  # 1-based, as in MATLAB
    index = (center - support / 2).floor()[:, None] + torch.arange(taps, dtype=torch.float64)
    weight = stretch * cubic(stretch * (center[:, None] - index))
    weight = weight / weight.sum(1, keepdim=True)
    index = index.long() - 1
    if border == "symmetric":
        index = index.remainder(2 * length)
        index = torch.where(index < length, index, 2 * length - 1 - index)
    else:
        index = index.clamp(0, length - 1)
    matrix = torch.zeros(out_length, length, dtype=torch.float64).scatter_add_(1, index, weight)
    return matrix.to(dtype=dtype, device=device)


def imresize(images: Tensor, scale: float, border: Border = "replicate") -> Tensor:
    """Resize (…, H, W) by `scale` to (…, ceil(scale · H), ceil(scale · W)).

    uint8 images give uint8 images, bit for bit MATLAB's (computed in float64). Floating point images keep their type
    and are neither rounded nor clamped; the result is differentiable.
    """
    return _resized(images, *_matrices(images, scale, border))


class Imresize(nn.Module):
    """`imresize` by a fixed scale, as a module.

    In training it keeps a reference to the matrices that it used last, because a CUDA graph continues to read them even
    after images of many other sizes have evicted them from the cache.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self._held: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        matrices = _matrices(images, self.scale, "replicate")
        if self.training:
            self._held = matrices
        return _resized(images, *matrices)


def _matrices(images: Tensor, scale: float, border: Border) -> tuple[Tensor, Tensor]:
    """The matrices for the rows and the columns of `images`."""
    dtype = torch.float64 if images.dtype == torch.uint8 else images.dtype
    height, width = images.shape[-2:]
    rows, columns = (resize_matrix(side, scale, border, dtype, images.device) for side in (height, width))
    return rows, columns


def _resized(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    eight_bit = images.dtype == torch.uint8
    with torch.autocast(images.device.type, enabled=False):
        x = rows @ images.to(rows.dtype)  # (…, H', W)
        if eight_bit:
            x = _round_to_8_bits(x)
        x = x @ columns.T  # (…, H', W')
        return _round_to_8_bits(x).to(torch.uint8) if eight_bit else x


def _round_to_8_bits(x: Tensor) -> Tensor:
    # Products with dyadic weights are exact; others have errors of ~1e-14, which must not turn n + ½ into n.
    return (x + (0.5 + 1e-9)).floor().clamp(0, 255)
