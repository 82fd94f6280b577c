"""Phases of a run: how long, with which loss, optimizers and learning rates. Schedules are fractions of a phase."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from srgan.errors import UserError
from srgan.losses.mix import LossMix

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of a run.

    Args:
        steps: number of batches.
        loss: what is minimised; None if the run has no such phase.
        optimizer: makes the generator's optimizer of its parameters.
        scheduler: makes the learning-rate schedule of an optimizer and the number of steps.
        discriminator_optimizer: the same for the discriminator, in a phase whose loss is adversarial.
    """

    steps: int
    loss: LossMix | None
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory
    discriminator_optimizer: OptimizerFactory | None = None
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole(self.steps, "steps of a phase"))


def whole(value: float, name: str) -> int:
    """A number of steps, which on a command line may be 1e5. Raises UserError if it is none."""
    if value != value // 1 or value < 0:
        raise UserError(f"{name}: {value:g} given, expected a whole number, 0 or more")
    return int(value)


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The same learning rate throughout."""
    return LambdaLR(optimizer, lambda step: 1.0)


def multistep(
    optimizer: Optimizer, steps: int, milestones: Sequence[float] = (0.5,), gamma: float = 0.1
) -> LRScheduler:
    """Multiply the learning rate by `gamma` at each fraction of the phase in `milestones` (§3.2: once, halfway)."""
    return LambdaLR(optimizer, lambda step: gamma ** sum(step >= milestone * steps for milestone in milestones))


def cosine(optimizer: Optimizer, steps: int, warmup: float = 0.0, final: float = 0.0) -> LRScheduler:
    """Half a cosine down to the share `final`, after a linear warm-up over the fraction `warmup` of the phase."""

    def factor(step: int) -> float:
        progress = min(step / max(steps, 1), 1.0)
        if progress < warmup or warmup >= 1:
            return min(1.0, (step + 1) / (warmup * steps + 1))
        falling = (progress - warmup) / (1 - warmup)
        return final + (1 - final) * (1 + math.cos(math.pi * falling)) / 2

    return LambdaLR(optimizer, factor)


def fit_to(phases: Sequence[Phase], max_steps: float) -> list[Phase]:
    """Stretch or shorten the phases in proportion, so that together they take `max_steps`; −1 keeps them."""
    if max_steps == -1:
        return list(phases)
    max_steps = whole(max_steps, "trainer.max_steps")
    if max_steps < len(phases):
        raise UserError(f"trainer.max_steps={max_steps} is less than a step for each of the {len(phases)} phases")
    total = sum(phase.steps for phase in phases)
    fitted: list[Phase] = []
    for index, phase in enumerate(phases):
        left = max_steps - sum(p.steps for p in fitted)
        later = len(phases) - 1 - index
        steps = left if not later else min(max(1, round(max_steps * phase.steps / total)), left - later)
        fitted.append(replace(phase, steps=steps))
    return fitted
