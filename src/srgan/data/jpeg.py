"""JPEG compression and decompression of batches on the device (ITU-T T.81).

Colours are converted to YCbCr (JFIF) with chroma halved in both directions (4:2:0). 8×8 blocks are transformed by the
DCT, and the coefficients are rounded to multiples of the quantisation tables. Then all is reversed. Entropy coding is
lossless and left out. Gradients stop at the rounding.
"""

import io
import math
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

RED, GREEN, BLUE = (0.299, 0.587, 0.114)  # luma of RGB, BT.601
BLOCK = 8


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] after JPEG compression; `quality` (B,), 1 to 100, is that of each image.

    Up to rounding this is what libjpeg does with its default tables and subsampling, but for the chroma of the last row
    and column where a side is no multiple of 16.
    """
    height, width = images.shape[-2:]
    tables = quantisation_tables()[quality.cpu()].to(images.device, non_blocking=True)  # (B, 2, 8, 8)
    images = F.pad(images * 255, (0, -width % 16, 0, -height % 16), mode="replicate").round()
    y, chroma = _ycbcr(images)
    y = _quantised(y.round(), tables[:, :1])
    chroma = _upsampled(_quantised(_halved(chroma), tables[:, 1:]))
    return _rgb(y, chroma)[..., :height, :width].div(255)


@lru_cache(maxsize=1)
def quantisation_tables() -> Tensor:
    """Divisors of luma and chroma by quality: (101, 2, 8, 8), the first of quality 0 unused. They are Pillow's own."""
    tables = torch.ones(101, 2, BLOCK, BLOCK)
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (BLOCK, BLOCK)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            for index, table in image.quantization.items():  # pyright: ignore[reportAttributeAccessIssue]
                tables[quality, index] = torch.tensor(table).view(BLOCK, BLOCK)
    return tables


@lru_cache(maxsize=4)
def _cosines(device: torch.device) -> Tensor:
    """The orthonormal cosine transform of 8 samples (DCT-II) as a matrix: rows are frequencies."""
    frequency, sample = torch.arange(BLOCK)[:, None], torch.arange(BLOCK)
    matrix = torch.cos(math.pi * frequency * (2 * sample + 1) / (2 * BLOCK)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.to(device)


def _quantised(planes: Tensor, tables: Tensor) -> Tensor:
    """Transform 8×8 blocks of (B, C, H, W), round to multiples of the tables (B, 1, 8, 8), and transform back."""
    count, channels, height, width = planes.shape
    cosines = _cosines(planes.device)
    blocks = planes.view(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4) - 128
    divisors = tables[:, :, None, None]
    ratio = (cosines @ blocks @ cosines.T) / divisors
    coefficients = ratio.sign() * (ratio.abs() + 0.5 + 1e-4).floor() * divisors  # libjpeg: halves away from zero
    blocks = (cosines.T @ coefficients @ cosines + 128).round().clamp(0, 255)
    return blocks.transpose(3, 4).reshape(count, channels, height, width)


def _ycbcr(images: Tensor) -> tuple[Tensor, Tensor]:
    """Y (B, 1, H, W), and Cb and Cr (B, 2, H, W), rounded, of RGB in 0…255."""
    red, green, blue = images.split(1, dim=1)
    y = RED * red + GREEN * green + BLUE * blue
    cb, cr = (blue - y) / (2 - 2 * BLUE) + 128, (red - y) / (2 - 2 * RED) + 128
    return y, torch.cat([cb, cr], dim=1).round().clamp(0, 255)


def _rgb(y: Tensor, chroma: Tensor) -> Tensor:
    cb, cr = (chroma - 128).split(1, dim=1)
    red, blue = y + (2 - 2 * RED) * cr, y + (2 - 2 * BLUE) * cb
    green = (y - RED * red - BLUE * blue) / GREEN
    return torch.cat([red, green, blue], dim=1).round().clamp(0, 255)


def _halved(chroma: Tensor) -> Tensor:
    """Means of 2×2 pixels; halves and quarters are rounded down in even columns and up in odd ones, as libjpeg does."""
    sums = 4 * F.avg_pool2d(chroma, 2)
    bias = torch.arange(sums.shape[-1], device=sums.device) % 2 + 1
    return ((sums + bias) / 4).floor()


def _upsampled(chroma: Tensor) -> Tensor:
    """Double both sides by weights of ¾ and ¼; halves are rounded up in even columns, down in odd ones (libjpeg)."""
    sixteenths = F.interpolate(16 * chroma, scale_factor=2, mode="bilinear", align_corners=False).round()
    bias = 8 - torch.arange(sixteenths.shape[-1], device=chroma.device) % 2
    return ((sixteenths + bias) / 16).floor()
