"""The averaged generator: an exponential moving average (EMA) of the trained generator's weights."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass
class EMA:
    """Moves `average` towards `generator`, a network of the same kind, after each step.

    The average restarts with each phase and warms up: at step t of the phase its decay is
    min(decay, (1 + t) / (10 + t)), and 0 at the first step. A `decay` of 0 makes it a copy.
    """

    average: nn.Module
    generator: nn.Module
    decay: float

    @torch.no_grad()
    def begin(self, done: int) -> None:
        """Set the decay of the next update. done: updates of the phase finished before it."""
        decay = min(self.decay, (1 + done) / (10 + done)) if done else 0.0
        self._weight.fill_(1 - decay)

    @torch.no_grad()
    def update(self, applied: Tensor) -> None:
        """Update the average with the generator's weights. applied: 1, or 0 to leave the average; () on the device.

        A CUDA graph may replay it, since the decay lies on the device.
        """
        (means, values), (mean_counters, counters) = self._tensors
        weight = self._weight * applied
        (interpolate if weight.device.type == "cpu" else interpolate_at_once)(means, values, weight)
        if counters:
            torch._foreach_copy_(mean_counters, counters)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    @cached_property
    def _weight(self) -> Tensor:
        """The weight of the generator in the next update, 1 − decay."""
        return torch.ones((), device=next(self.average.parameters()).device)

    @cached_property
    def _tensors(self) -> tuple[tuple[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]:
        """Pairs of lists, of the average and of the generator: weights with BN's statistics, and BN's counters."""
        floating, counters = ([], []), ([], [])
        states = (self.average.state_dict(keep_vars=True), self.generator.state_dict(keep_vars=True))
        for mean, value in zip(*(state.values() for state in states), strict=True):
            for side, tensor in zip(floating if mean.is_floating_point() else counters, (mean, value), strict=True):
                side.append(tensor)
        return floating, counters


def interpolate(means: list[Tensor], values: list[Tensor], weight: Tensor) -> None:
    """Move each mean towards its value by the fraction `weight`, a tensor ()."""
    torch._foreach_lerp_(means, values, [weight] * len(means))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def interpolate_at_once(means: list[Tensor], values: list[Tensor], weight: Tensor) -> None:
    """The same in a few kernels for all tensors; torch's lerp takes one for each if the weight is on a GPU."""
    torch._foreach_mul_(means, 1 - weight)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    torch._foreach_add_(means, torch._foreach_mul(values, weight))  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
