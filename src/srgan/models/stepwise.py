"""What networks and losses hold for the length of one training step."""

import random

import torch
from torch import Tensor, nn


class Stepwise(nn.Module):
    """Base class of modules that are told when a training step begins and ends."""

    def begin_step(self, done: int) -> None:
        """Prepare the step that follows `done` finished ones of the phase."""

    def end_step(self) -> None:
        """Let go of what was kept for the step."""


class RandomAlignment(Stepwise):
    """Cuts images at an offset that is drawn anew for each training step; outside of a step it returns them whole.

    A network that pools sees its input on a grid, and the generator makes blocks of SR pixels, another grid. Where the
    two always lie alike, a loss on features teaches the generator a pattern on it. (B, C, H, W) becomes
    (B, C, H − 16, W − 16), which covers all alignments to a pooling grid of up to 16 pixels; small images lose less, so
    that 32 pixels remain. The offset depends on the step's number alone: a resumed run draws what the uninterrupted
    one would have drawn.
    """

    MARGIN, SMALLEST = 16, 32

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(2), persistent=False)  # in [0, 1), of the margin
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
            # By an index on the device, so that a CUDA graph takes each step's offset.
            images = images.index_select(axis, kept + (position * margin).long())
        return images


def stepwise_parts(*modules: nn.Module | None) -> list[Stepwise]:
    """All parts of these modules that are to be told of steps, each once."""
    found = (part for module in modules if module is not None for part in module.modules())
    return list(dict.fromkeys(part for part in found if isinstance(part, Stepwise)))
