"""The scores of validation as a torchmetrics metric: means over images that add up over batches and processes.

It stands apart from the functions it uses because torchmetrics takes longer to import than Set5 takes to score.
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
    """Mean over images of PSNR and SSIM under a protocol, of `measures`, of the grid and of the colour drift.

    PSNR is averaged over images, never computed from the pooled error; an image reproduced exactly counts as 100 dB. A
    score is averaged over the images where it is defined. The colour drift is by bicubic reduction: a blur before it
    doesn't change the mean. The measures' networks are kept out of this module's submodules, so that no checkpoint
    holds them.
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
        """The mean of each score by name; one that no image has is left out."""
        totals: dict[str, list[float]] = {name: getattr(self, name).tolist() for name in self.measured}
        return {name: total / count for name, (total, count) in totals.items() if count}
