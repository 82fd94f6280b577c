"""The metrics as torchmetrics: means over images that add up over batches of any size and over processes.

Apart from the functions, since torchmetrics takes longer to import than Set5 to score.
"""

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric

from srgan.metrics.consistency import Degradation, lr_psnr
from srgan.metrics.lpips import LPIPS
from srgan.metrics.protocol import MATLAB, Protocol
from srgan.metrics.psnr import EXACT, psnr
from srgan.metrics.ssim import protocol_ssim


class ImageMean(Metric):
    """Mean over images of a value for each."""

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """values: (B,). For `update` of a subclass."""
        self.total += values.double().sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        return self.total / self.count


class ProtocolMetric(ImageMean):
    """Mean over images of a score of each image under a protocol."""

    def __init__(self, scale: int, protocol: Protocol = MATLAB) -> None:
        super().__init__()
        self.scale = scale
        self.protocol = protocol

    @abstractmethod
    def score(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, C, H, W) planes in 0…255 → (B,)."""

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """sr, hr: (B, 3, H, W) in [0, 1], or uint8."""
        self.add(self.score(self.protocol.prepare(sr, self.scale), self.protocol.prepare(hr, self.scale)))


class PSNR(ProtocolMetric):
    """Mean over images of the PSNR of each, never of the pooled error, under a protocol.

    An image reproduced exactly counts as 100 dB.
    """

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        return psnr(x, y).clamp(max=EXACT)


class SSIM(ProtocolMetric):
    """Mean over images of the SSIM of each, the protocol's kind."""

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        return protocol_ssim(x, y, self.protocol)


class LRConsistency(ImageMean):
    """Mean over images of `lr_psnr`; an LR reproduced exactly counts as 100 dB."""

    def __init__(self, degradation: Degradation) -> None:
        super().__init__()
        self.degradation = degradation

    def update(self, sr: Tensor, lr: Tensor) -> None:
        """sr: (B, 3, H, W), lr: (B, 3, h, w), in [0, 1] or uint8."""
        self.add(lr_psnr(sr, lr, self.degradation).clamp(max=EXACT))


class MeanLPIPS(ImageMean):
    """Mean over images of the LPIPS of each; the network given is no part of this module."""

    def __init__(self, lpips: LPIPS) -> None:
        super().__init__()
        self._lpips = (lpips,)  # out of sight of nn.Module

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """sr, hr: (B, 3, H, W) in [0, 1], or uint8."""
        self.add(self._lpips[0].to(sr.device)(sr, hr))


class Scores:
    """PSNR and SSIM under the `matlab` protocol, and LPIPS if given: what validation measures.

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
