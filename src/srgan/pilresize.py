"""Pillow's `Image.resize(size, Image.BICUBIC)` of 8-bit images, reproduced to the last bit on any device.

Unlike MATLAB (see imresize), Pillow resizes the width before the height, leaves out what lies beyond the border, and
takes its weights as whole multiples of 2⁻²²: each pass is a sum of products of integers, which float64 holds exactly.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from srgan.imresize import cubic

UNIT = 2**22  # the weight 1; Pillow's PRECISION_BITS are 22 for 8-bit images
SUPPORT = 2.0  # of the cubic kernel


@lru_cache(maxsize=32)
def pil_resize_matrix(length: int, out_length: int, device: torch.device) -> Tensor:
    """The weights (out_length, length) of one axis in units of 2⁻²², float64. Cached: don't write to it."""
    scale = length / out_length
    stretch = max(scale, 1.0)  # antialiasing
    matrix = torch.zeros(out_length, length, dtype=torch.float64)
    for row in range(out_length):
        center = (row + 0.5) * scale
        first = max(0, math.floor(center - SUPPORT * stretch + 0.5))
        last = min(length, math.floor(center + SUPPORT * stretch + 0.5))
        taps = torch.arange(first, last, dtype=torch.float64)
        weights = cubic((taps - center + 0.5) / stretch)
        weights = weights / weights.sum()
        matrix[row, first:last] = weights.sign() * (weights.abs() * UNIT + 0.5).floor()
    return matrix.to(device)


def pil_resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize (…, H, W) uint8 to (…, height, width) uint8 as Pillow's bicubic does, bit for bit."""
    rows = pil_resize_matrix(images.shape[-2], height, images.device)
    columns = pil_resize_matrix(images.shape[-1], width, images.device)
    with torch.autocast(images.device.type, enabled=False):
        x = _to_8_bits(images.double() @ columns.T)  # (…, H, width)
        return _to_8_bits(rows @ x).to(torch.uint8)  # (…, height, width)


def _to_8_bits(sums: Tensor) -> Tensor:
    return ((sums + UNIT // 2) / UNIT).floor().clamp(0, 255)
