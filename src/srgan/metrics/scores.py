"""The figures of one image under every protocol, and their means."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from torch import Tensor

from srgan.metrics.consistency import Degradation, lr_psnr
from srgan.metrics.lpips import LPIPS
from srgan.metrics.protocol import Protocol
from srgan.metrics.psnr import EXACT, psnr
from srgan.metrics.ssim import protocol_ssim

Figures = dict[str, Any]  # {"matlab": {"psnr": dB, "ssim": …}, …, "lpips": … or None, "lr_psnr": dB}


def image_figures(
    sr: Tensor,
    hr: Tensor,
    lr: Tensor,
    scale: int,
    protocols: Iterable[Protocol],
    degradation: Degradation,
    lpips: LPIPS | None,
) -> Figures:
    """All figures of one image. sr, hr: (1, 3, H, W), lr: (1, 3, h, w), in [0, 1] or uint8. Exact is 100 dB."""
    figures: Figures = {}
    for protocol in protocols:
        x, y = protocol.prepare(sr, scale), protocol.prepare(hr, scale)
        figures[protocol.name] = {
            "psnr": float(psnr(x, y).clamp(max=EXACT)),
            "ssim": float(protocol_ssim(x, y, protocol)),
        }
    figures["lpips"] = None if lpips is None else float(lpips(sr, hr))
    figures["lr_psnr"] = float(lr_psnr(sr, lr, degradation).clamp(max=EXACT))
    return figures


def mean(figures: Iterable[Figures]) -> Figures:
    """The mean of each figure; None where none of them is measured."""
    rows = list(figures)
    means: Figures = {}
    for key, first in rows[0].items():
        values = [row[key] for row in rows]
        means[key] = mean(values) if isinstance(first, Mapping) else None if first is None else fmean(values)
    return means
