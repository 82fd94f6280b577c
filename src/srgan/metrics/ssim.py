"""Structural similarity (SSIM) per image, as in Wang et al. 2004 and its published code."""

import torch
from torch import Tensor
from torch.nn import functional as F

from srgan.metrics.daala import daala_ssim
from srgan.metrics.protocol import Protocol

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM of (B, C, H, W) planes in 0…255, mean over channels and windows, per image: (B,) float64.

    The windows are Gaussian, 11×11 with σ = 1.5, and lie wholly inside the image. Raises ValueError if the shapes
    differ or a side is shorter than 11.
    """
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: {tuple(x.shape)} and {tuple(y.shape)}")
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}×{WINDOW} after shaving, got {tuple(x.shape[-2:])}")
    batch, channels = x.shape[:2]
    x, y = (plane.double().flatten(0, 1).unsqueeze(1) for plane in (x, y))  # (B · C, 1, H, W)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x * mean_x
    variance_y = _window_mean(y * y) - mean_y * mean_y
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x * mean_x + mean_y * mean_y + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return (luminance * structure).mean((1, 2, 3)).view(batch, channels).mean(1)


def _window_mean(x: Tensor) -> Tensor:
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    taps = torch.exp(-(offset**2) / (2 * SIGMA**2))
    taps = taps / taps.sum()
    return F.conv2d(F.conv2d(x, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))


def protocol_ssim(x: Tensor, y: Tensor, protocol: Protocol) -> Tensor:
    """The protocol's SSIM of planes that `Protocol.prepare` made: (B,) float64."""
    return daala_ssim(x, y) if protocol.ssim == "daala" else ssim(x, y)
