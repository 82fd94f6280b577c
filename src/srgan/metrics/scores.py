"""All scores of an image, under every protocol and by every perceptual metric, and their means."""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from torch import Tensor

from srgan.metrics import names
from srgan.metrics.consistency import Degradation, colour_drift, lr_psnr
from srgan.metrics.grid import grid
from srgan.metrics.measures import Measures
from srgan.metrics.protocol import Protocol
from srgan.metrics.psnr import EXACT, psnr
from srgan.metrics.ssim import protocol_ssim

Figures = dict[str, Any]  # {"matlab": {"psnr": dB, "ssim": …}, …, "lpips_alex": …, "lr_psnr": dB}; None: undefined


def protocol_scores(sr: Tensor, hr: Tensor, scale: int, protocol: Protocol) -> dict[str, Tensor]:
    """PSNR (an exact image counts as 100 dB) and SSIM under one protocol, per image: {"psnr": (B,), "ssim": (B,)}.

    sr, hr: (B, 3, H, W) in [0, 1] or uint8.
    """
    x, y = protocol.prepare(sr, scale), protocol.prepare(hr, scale)
    return {names.PSNR: psnr(x, y).clamp(max=EXACT), names.SSIM: protocol_ssim(x, y, protocol)}


def perceptual_scores(
    sr: Tensor, hr: Tensor, lr: Tensor, scale: int, degradation: Degradation, measures: Measures
) -> dict[str, Tensor]:
    """The scores that no protocol defines: `measures`, grid and colour drift, by name, per image: (B,) each.

    sr, hr: (B, 3, H, W), lr: (B, 3, h, w), in [0, 1] or uint8. NaN where a score is undefined.
    """
    scores = {name: measure.to(sr.device)(sr, hr) for name, measure in measures.items()}
    return scores | {names.GRID: grid(sr, hr, scale), names.COLOUR: colour_drift(sr, lr, degradation)}


def image_figures(
    sr: Tensor,
    hr: Tensor,
    lr: Tensor,
    scale: int,
    protocols: Iterable[Protocol],
    degradation: Degradation,
    measures: Measures,
) -> Figures:
    """All scores of one image. sr, hr: (1, 3, H, W), lr: (1, 3, h, w), in [0, 1] or uint8."""
    figures: Figures = {}
    for protocol in protocols:
        scores = protocol_scores(sr, hr, scale, protocol)
        figures[protocol.name] = {name: float(value) for name, value in scores.items()}
    for name, score in perceptual_scores(sr, hr, lr, scale, degradation, measures).items():
        value = float(score)
        figures[name] = None if math.isnan(value) else value
    figures[names.LR_PSNR] = float(lr_psnr(sr, lr, degradation).clamp(max=EXACT))
    return figures


def mean(figures: Iterable[Figures]) -> Figures:
    """The mean of each score over the images for which it is defined; None if it is undefined for all."""
    rows = list(figures)
    means: Figures = {}
    for key, first in rows[0].items():
        values = [value for row in rows if (value := row[key]) is not None]
        means[key] = mean(values) if isinstance(first, Mapping) else fmean(values) if values else None
    return means
