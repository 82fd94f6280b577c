"""The figures of one method: of one image under every protocol, and means over a validation set."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from torch import Tensor

from srgan.metrics.consistency import Degradation, lr_psnr
from srgan.metrics.lpips import LPIPS, MeanLPIPS
from srgan.metrics.protocol import ImageMean, Protocol
from srgan.metrics.psnr import EXACT, PSNR, psnr
from srgan.metrics.ssim import SSIM

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
            "ssim": float(SSIM(scale, protocol).score(x, y)),
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


class Scores:
    """PSNR and SSIM under the `matlab` protocol, and LPIPS if given; means over images, and over processes.

    Not a module, so that LPIPS' network enters no checkpoint of whoever holds this.
    """

    def __init__(self, scale: int, lpips: LPIPS | None = None) -> None:
        self._metrics: dict[str, ImageMean] = {"psnr": PSNR(scale), "ssim": SSIM(scale)}
        if lpips is not None:
            self._metrics["lpips"] = MeanLPIPS(lpips)

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """sr, hr: (B, 3, H, W) in [0, 1], or uint8."""
        for metric in self._metrics.values():
            metric.to(sr.device).update(sr, hr)

    def compute(self) -> dict[str, float]:
        """{"psnr": dB, "ssim": …} and "lpips" where it is measured."""
        return {name: float(metric.compute()) for name, metric in self._metrics.items()}

    def reset(self) -> None:
        for metric in self._metrics.values():
            metric.reset()
