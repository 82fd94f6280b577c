"""The phases of a run: their length, loss, optimizers and learning-rate schedules (given in fractions of a phase)."""

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
    """A part of the training: a number of steps with one loss.

    Args:
        steps: number of batches.
        loss: the mix of losses that the generator minimises.
        optimizer: makes an optimizer for the generator's parameters.
        scheduler: makes the learning-rate schedule for an optimizer and a number of steps.
        discriminator_optimizer: makes the discriminator's optimizer if the loss is adversarial; None for the same
            kind as `optimizer`.
        name: `content` or `gan`; set by the module from the phase's key in the configuration.
    """

    steps: int
    loss: LossMix
    optimizer: OptimizerFactory
    scheduler: SchedulerFactory
    discriminator_optimizer: OptimizerFactory | None = None
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole_number(self.steps, "steps of a phase"))

    @property
    def adversarial(self) -> bool:
        """True if this phase also trains a discriminator."""
        return self.loss.adversarial is not None

    def make_discriminator_optimizer(self, parameters: Iterable[Parameter]) -> Optimizer:
        """The discriminator's optimizer: its own kind if one is configured, else the generator's kind."""
        return (self.discriminator_optimizer or self.optimizer)(parameters)


def whole_number(value: float, name: str) -> int:
    """Convert a number of steps, which a command line may give as 1e5. Raises UserError if it is not whole."""
    if value != value // 1 or value < 0:
        raise UserError(f"{name}: {value:g} given, expected a whole number, 0 or more")
    return int(value)


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Keep the learning rate as it is."""
    return LambdaLR(optimizer, lambda step: 1.0)


def multistep(
    optimizer: Optimizer, steps: int, milestones: Sequence[float] = (0.5,), gamma: float = 0.1
) -> LRScheduler:
    """Multiply the learning rate by `gamma` at each fraction of the phase in `milestones` (§3.2: once, halfway)."""
    return LambdaLR(optimizer, lambda step: gamma ** sum(step >= milestone * steps for milestone in milestones))


def cosine(optimizer: Optimizer, steps: int, warmup: float = 0.0, final: float = 0.0) -> LRScheduler:
    """Warm up linearly over the fraction `warmup` of the phase, then decay by half a cosine to the fraction `final`."""

    def factor(step: int) -> float:
        progress = min(step / max(steps, 1), 1.0)
        if progress < warmup or warmup >= 1:
            return min(1.0, (step + 1) / (warmup * steps + 1))
        falling = (progress - warmup) / (1 - warmup)
        return final + (1 - final) * (1 + math.cos(math.pi * falling)) / 2

    return LambdaLR(optimizer, factor)


def fit_to(phases: Sequence[Phase], max_steps: float) -> list[Phase]:
    """Scale the phases in proportion to a total of `max_steps`; −1 keeps them."""
    if max_steps == -1:
        return list(phases)
    max_steps = whole_number(max_steps, "trainer.max_steps")
    if max_steps < len(phases):
        raise UserError(f"trainer.max_steps={max_steps} is less than a step for each of the {len(phases)} phases")
    total = sum(phase.steps for phase in phases)
    fitted: list[Phase] = []
    for index, phase in enumerate(phases):
        remaining = max_steps - sum(earlier.steps for earlier in fitted)
        later = len(phases) - 1 - index  # each of these keeps at least one step
        steps = remaining if not later else min(max(1, round(max_steps * phase.steps / total)), remaining - later)
        fitted.append(replace(phase, steps=steps))
    return fitted
