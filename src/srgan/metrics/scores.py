"""The scores of one image under every protocol, and their means."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from torch import Tensor

from srgan.metrics import names
from srgan.metrics.consistency import Degradation, lr_psnr
from srgan.metrics.lpips import LPIPS
from srgan.metrics.protocol import Protocol
from srgan.metrics.psnr import EXACT, psnr
from srgan.metrics.ssim import protocol_ssim

Figures = dict[str, Any]  # {"matlab": {"psnr": dB, "ssim": …}, …, "lpips": … or None, "lr_psnr": dB}


def protocol_scores(sr: Tensor, hr: Tensor, scale: int, protocol: Protocol) -> dict[str, Tensor]:
    """PSNR (an exact image counts as 100 dB) and SSIM under one protocol, per image: {"psnr": (B,), "ssim": (B,)}.

    sr, hr: (B, 3, H, W) in [0, 1] or uint8.
    """
    x, y = protocol.prepare(sr, scale), protocol.prepare(hr, scale)
    return {names.PSNR: psnr(x, y).clamp(max=EXACT), names.SSIM: protocol_ssim(x, y, protocol)}


def image_figures(
    sr: Tensor,
    hr: Tensor,
    lr: Tensor,
    scale: int,
    protocols: Iterable[Protocol],
    degradation: Degradation,
    lpips: LPIPS | None,
) -> Figures:
    """All scores of one image. sr, hr: (1, 3, H, W), lr: (1, 3, h, w), in [0, 1] or uint8."""
    figures: Figures = {}
    for protocol in protocols:
        scores = protocol_scores(sr, hr, scale, protocol)
        figures[protocol.name] = {name: float(value) for name, value in scores.items()}
    figures[names.LPIPS] = None if lpips is None else float(lpips(sr, hr))
    figures["lr_psnr"] = float(lr_psnr(sr, lr, degradation).clamp(max=EXACT))
    return figures


def mean(figures: Iterable[Figures]) -> Figures:
    """The mean of each score; None where it is not measured."""
    rows = list(figures)
    means: Figures = {}
    for key, first in rows[0].items():
        values = [row[key] for row in rows]
        means[key] = mean(values) if isinstance(first, Mapping) else None if first is None else fmean(values)
    return means
