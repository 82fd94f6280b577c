"""The scores of validation as a torchmetrics metric: means over images that add up over batches and processes.

It stands apart from the functions it uses because torchmetrics takes longer to import than Set5 takes to score.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from srgan.metrics import names
from srgan.metrics.lpips import LPIPS
from srgan.metrics.protocol import MATLAB, Protocol
from srgan.metrics.scores import protocol_scores


class MeanScores(Metric):
    """Mean over images of PSNR and SSIM under a protocol and, if its network is given, of LPIPS.

    PSNR is averaged over images, never computed from the pooled error; an image reproduced exactly counts as 100 dB.
    The LPIPS network is kept out of this module's submodules, so that no checkpoint holds it.
    """

    count: Tensor

    def __init__(self, scale: int, lpips: LPIPS | None = None, protocol: Protocol = MATLAB) -> None:
        super().__init__()
        self.scale = scale
        self.protocol = protocol
        self._lpips = (lpips,)
        self.measured = (names.PSNR, names.SSIM, *(() if lpips is None else (names.LPIPS,)))
        for name in self.measured:
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, sr: Tensor, hr: Tensor) -> None:
        """Add a batch. sr, hr: (B, 3, H, W) in [0, 1], or uint8."""
        scores = protocol_scores(sr, hr, self.scale, self.protocol)
        if self._lpips[0] is not None:
            scores[names.LPIPS] = self._lpips[0].to(sr.device)(sr, hr)
        for name, values in scores.items():
            setattr(self, name, getattr(self, name) + values.double().sum())
        self.count += len(sr)

    def compute(self) -> dict[str, float]:
        """{"psnr": dB, "ssim": …} and "lpips" where it is measured."""
        return {name: float(getattr(self, name) / self.count) for name in self.measured}
