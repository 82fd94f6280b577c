"""SSIM as computed by `dump_ssim`, a tool of the daala codec: the SSIM in the SRGAN paper's tables."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

TAP_SUM = 256  # taps are integers with this sum
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def daala_ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of (B, C, H, W) planes in 0…255, mean over channels, per image: (B,) float64.

    The Gaussian window grows with the height, σ = 1.5 · H / 256. At the edges only the taps inside the image are used;
    their sum weights the window's moments and its share of the mean over windows. Raises ValueError if the shapes
    differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: {tuple(x.shape)} and {tuple(y.shape)}")
    batch, channels, height, width = x.shape
    x, y = (plane.double().flatten(0, 1).unsqueeze(1) for plane in (x, y))  # (B · C, 1, H, W)
    taps = window_taps(height).to(x.device)

    def window_sum(plane: Tensor) -> Tensor:
        radius = len(taps) // 2
        rows = F.conv2d(plane, taps.view(1, 1, -1, 1), padding=(radius, 0))
        return F.conv2d(rows, taps.view(1, 1, 1, -1), padding=(0, radius))

    weight = window_sum(torch.ones(1, 1, height, width, dtype=x.dtype, device=x.device))
    sum_x, sum_y = window_sum(x), window_sum(y)
    square_x, square_y, product = sum_x * sum_x, sum_y * sum_y, sum_x * sum_y
    variances = (window_sum(x * x) * weight - square_x) + (window_sum(y * y) * weight - square_y)
    covariance = window_sum(x * y) * weight - product
    c1, c2 = C1 * weight**2, C2 * weight**2
    similarity = (2 * product + c1) * (2 * covariance + c2) / ((square_x + square_y + c1) * (variances + c2))
    return ((weight * similarity).sum((1, 2, 3)) / weight.sum()).view(batch, channels).mean(1)


def window_taps(height: int) -> Tensor:
    """The window's integer taps for an image of that height: (2 · radius + 1,) float64, whose sum is 256."""
    sigma = 1.5 * height / 256
    peak = TAP_SUM / (sigma * math.sqrt(2 * math.pi))
    radius = math.floor(sigma * math.sqrt(2 * math.log(2 * peak))) if 2 * peak > 1 else 0  # beyond it taps round to 0
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
    taps = (peak * torch.exp(-(offset**2) / (2 * sigma**2))).round()
    taps[radius] += TAP_SUM - taps.sum()
    return taps
