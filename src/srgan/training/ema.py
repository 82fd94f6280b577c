"""The averaged generator: an exponential moving average (EMA) of the trained generator's weights."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


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
    def update(self, done: int) -> None:
        """Update the average with the generator's weights. done: steps of the phase finished before this one."""
        decay = min(self.decay, (1 + done) / (10 + done)) if done else 0.0
        floating, (mean_counters, counters) = self._tensors
        get_ema_multi_avg_fn(decay)(*floating, None)
        if counters:
            torch._foreach_copy_(mean_counters, counters)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

    @cached_property
    def _tensors(self) -> tuple[tuple[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]:
        """Pairs of lists, of the average and of the generator: weights with BN's statistics, and BN's counters."""
        floating, counters = ([], []), ([], [])
        states = (self.average.state_dict(keep_vars=True), self.generator.state_dict(keep_vars=True))
        for mean, value in zip(*(state.values() for state in states), strict=True):
            for side, tensor in zip(floating if mean.is_floating_point() else counters, (mean, value), strict=True):
                side.append(tensor)
        return floating, counters
