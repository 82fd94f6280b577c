"""Validation scores as a torchmetrics metric: means over images, accumulated over batches and processes.

This is a file of its own because importing torchmetrics takes longer than scoring Set5.
"""

from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric

from srgan.imresize import imresize
from srgan.metrics import names
from srgan.metrics.measures import Measures
from srgan.metrics.protocol import MATLAB, Protocol
from srgan.metrics.scores import perceptual_scores, protocol_scores


class MeanScores(Metric):
    """Means over images of PSNR, SSIM, `measures`, grid and colour drift. PSNR and SSIM are those of a protocol.

    PSNR is averaged over images, never computed from the pooled error; an image reproduced exactly counts as 100 dB.
    Each score is averaged over the images for which it is defined. Colour drift uses bicubic reduction even if the
    degradation blurs, since a blur doesn't change the mean. The networks of `measures` are not submodules of this
    module, so that no checkpoint holds them.
    """

    def __init__(self, scale: int, measures: Measures | None = None, protocol: Protocol = MATLAB) -> None:
        super().__init__()
        self.scale = scale
        self.protocol = protocol
        self._measures = (measures or {},)
        self.measured = (names.PSNR, names.SSIM, *self._measures[0], names.GRID, names.COLOUR)
        for name in self.measured:  # the sum and the number of images
            self.add_state(name, torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sr: Tensor, hr: Tensor, lr: Tensor) -> None:
        """Add a batch. sr, hr: (B, 3, H, W), lr: (B, 3, h, w), in [0, 1] or uint8."""
        reduce = partial(imresize, scale=1 / self.scale)
        scores = protocol_scores(sr, hr, self.scale, self.protocol)
        scores |= perceptual_scores(sr, hr, lr, self.scale, reduce, self._measures[0])
        for name, values in scores.items():
            defined = values.double()[~values.isnan()]
            total = torch.stack([defined.sum(), defined.new_tensor(len(defined))])
            setattr(self, name, getattr(self, name) + total)

    def compute(self) -> dict[str, float]:
        """The mean of each score by name, without scores that are undefined for every image."""
        totals: dict[str, list[float]] = {name: getattr(self, name).tolist() for name in self.measured}
        return {name: total / count for name, (total, count) in totals.items() if count}
