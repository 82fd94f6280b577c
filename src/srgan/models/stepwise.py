"""Base class of networks and losses with state that lasts for one training step, such as a random offset."""

import random

import torch
from torch import Tensor, nn


class Stepwise(nn.Module):
    """Base class of modules that are notified when a training step begins and ends."""

    def begin_step(self, done: int) -> None:
        """Prepare for the next step; `done` steps of the phase are finished."""

    def end_part(self) -> None:
        """Release what was kept for one part of the batch; see `Step.accumulate`."""

    def end_step(self) -> None:
        """Release what was kept for the step."""


class RandomAlignment(Stepwise):
    """Crops images at an offset that is random for each training step; outside of a step it returns them whole.

    A network with pooling sees its input on a grid, and the generator makes SR in blocks of pixels, another grid. If
    the two are always aligned alike, a feature loss teaches the generator a pattern on that grid. (B, C, H, W) becomes
    (B, C, H − 16, W − 16), which covers all alignments to a pooling grid of up to 16 pixels; small images lose less, so
    that 32 pixels remain. The offset depends on the step's number alone, so a resumed run draws the same offsets.
    """

    MARGIN, SMALLEST = 16, 32

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(2), persistent=False)  # in [0, 1), as a fraction of the margin
        self.active = False

    def begin_step(self, done: int) -> None:
        rng = random.Random(done)
        for position in self.get_buffer("offset"):
            position.fill_(rng.random())  # a copy from the CPU would wait for the device
        self.active = True

    def end_step(self) -> None:
        self.active = False

    def forward(self, images: Tensor) -> Tensor:
        if not self.active:
            return images
        for axis, position in zip((-2, -1), self.get_buffer("offset"), strict=True):
            margin = min(self.MARGIN, max(0, images.shape[axis] - self.SMALLEST))
            kept = torch.arange(images.shape[axis] - margin, device=images.device)
            # Index on the device, so that a CUDA graph uses each step's new offset.
            images = images.index_select(axis, kept + (position * margin).long())
        return images


def stepwise_parts(*modules: nn.Module | None) -> list[Stepwise]:
    """All `Stepwise` parts of these modules, each once."""
    found = (part for module in modules if module is not None for part in module.modules())
    return list(dict.fromkeys(part for part in found if isinstance(part, Stepwise)))
