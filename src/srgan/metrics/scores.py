"""The figures of one method over a set of images."""

from torch import Tensor
from torchmetrics import MeanMetric, Metric

from srgan.metrics.lpips import LPIPS
from srgan.metrics.psnr import PSNR
from srgan.metrics.ssim import SSIM


class Scores:
    """PSNR and SSIM under the `matlab` protocol, and LPIPS if given; means over images.

    Not a module, so that LPIPS' network enters no checkpoint of whoever holds this.
    """

    def __init__(self, scale: int, lpips: LPIPS | None = None) -> None:
        self._psnr, self._ssim, self._distance = PSNR(scale), SSIM(scale), MeanMetric()
        self._lpips = lpips

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """sr, hr: (B, 3, H, W) in [0, 1], or uint8."""
        for metric in self._metrics():
            metric.to(sr.device)
        self._psnr.update(sr, hr)
        self._ssim.update(sr, hr)
        if self._lpips is not None:
            self._distance.update(self._lpips.to(sr.device)(sr, hr))

    def compute(self) -> dict[str, float]:
        """{"psnr": dB, "ssim": …} and "lpips" where it is measured."""
        names = ("psnr", "ssim", "lpips")
        return {name: float(metric.compute()) for name, metric in zip(names, self._metrics(), strict=False)}

    def reset(self) -> None:
        for metric in self._metrics():
            metric.reset()

    def _metrics(self) -> list[Metric]:
        return [self._psnr, self._ssim, *([self._distance] if self._lpips is not None else [])]
