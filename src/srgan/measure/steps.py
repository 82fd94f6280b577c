"""Times the bare training step, ours and the plain one, on batches that are already on the device."""

import copy
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from srgan.data.datamodule import Pair
from srgan.data.degradation import Degradation
from srgan.images import to_float
from srgan.measure.clock import Figures, compare, in_turn, matrix_rate
from srgan.measure.plain import PlainStep, plain_network, steps_alike
from srgan.training import graph
from srgan.training.ema import EMA
from srgan.training.guard import Guard
from srgan.training.module import SRGAN
from srgan.training.phases import OptimizerFactory, Phase
from srgan.training.step import Step


def random_pairs(
    degradation: Degradation, crop: int, batch_size: int, device: torch.device, count: int = 4
) -> list[Pair]:
    """Batches of noise with their LR; a step takes the same time for any picture."""
    generator = torch.Generator().manual_seed(1)
    pairs: list[Pair] = []
    for _ in range(count):
        hr = torch.randint(256, (batch_size, 3, crop, crop), generator=generator, dtype=torch.uint8)
        lr = degradation(hr)
        lr, hr = (to_float(x.to(device)).contiguous(memory_format=torch.channels_last) for x in (lr, hr))
        pairs.append(Pair(lr, hr))
    return pairs


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The autocast context in which the Trainer runs a step."""
    if precision != "bf16-mixed":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


class Unguarded(Guard):
    """Lets every step through: shows what `Guard` costs."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__([generator], [])
        self.finite.fill_(1)

    def keep(self) -> None:
        self._watched.clear()

    def look(self) -> None: ...

    def decide(self, **pictures: Tensor) -> None: ...

    def end(self) -> None: ...


def fast_step(
    module: SRGAN,
    phase: Phase,
    device: torch.device,
    precision: str,
    graphed: bool | None = None,
    guarded: bool = True,
) -> Callable[[Pair], object]:
    """The step that the Trainer runs, without the Trainer.

    graphed: as a CUDA graph; None for as configured. guarded: False to apply even a step that is not finite.
    """
    module.to(device).train()
    step = Step(
        generator=module.generator,
        loss=phase.loss,
        optimizer=phase.optimizer(module.generator.parameters()),
        discriminator=module.discriminator,
        discriminator_optimizer=phase.make_discriminator_optimizer(cast(nn.Module, module.discriminator).parameters())
        if phase.adversarial
        else None,
        gradient_clip=module.gradient_clip,
        accumulate=module.accumulate,
        separate_batches=module.separate_batches,
        ema=EMA(module.ema, module.generator, module.ema_decay),
    )
    if not guarded:
        step.guard = Unguarded(module.generator)
    if graphed is None:
        graphed = module.cuda_graph and graph.usable(
            device, module.losses, [part for part in (step.optimizer, step.discriminator_optimizer) if part is not None]
        )
    called = graph.GraphedStep(step, precision == "bf16-mixed") if graphed else step
    counter = itertools.count()

    def call(pair: Pair) -> None:
        with autocast(device, precision):
            called(pair, next(counter), False)

    return call


def plain_step(module: SRGAN, phase: Phase, device: torch.device) -> Callable[[Pair], object]:
    """The plain step, with the same initial weights, losses and optimizers."""
    generator = plain_network(module.generator, device).train()
    discriminator = plain_network(cast(nn.Module, module.discriminator), device).train() if phase.adversarial else None
    step = PlainStep(
        generator=generator,
        loss=copy.deepcopy(phase.loss).to(device),
        optimizer=_unfused(phase.optimizer)(generator.parameters()),
        discriminator=discriminator,
        discriminator_optimizer=_unfused(phase.discriminator_optimizer or phase.optimizer)(discriminator.parameters())
        if discriminator is not None
        else None,
    )
    return lambda pair: step(pair.lr, pair.hr)


def _unfused(optimizer: OptimizerFactory) -> OptimizerFactory:
    if not isinstance(optimizer, partial):
        return optimizer
    options = {key: value for key, value in optimizer.keywords.items() if key != "fused"}
    return partial(optimizer.func, *optimizer.args, **options)


def measure(
    module: SRGAN, pairs: list[Pair], device: torch.device, precision: str, rounds: int, seconds: float
) -> dict[str, Any]:
    """Returns {"content": {"fast", "plain", "ratio", "unguarded"}, "gan": …}, one entry per phase of `module`.

    Without "plain" and "ratio" if the plain step doesn't do the phase's work.

    `unguarded` is the fast step without `Guard`, in the same turns: the difference is what the guard costs.
    `share_of_matrix_rate` is the FLOP/s of the step's convolutions and matrix products, divided by the machine's rate
    for a large matrix product in the same precision.
    """
    results: dict[str, Any] = {}
    for phase in module.phases:
        fast = fast_step(module, phase, device, precision)
        unguarded = fast_step(module, phase, device, precision, guarded=False)
        calls = {name: _cycling(step, pairs) for name, step in (("fast", fast), ("unguarded", unguarded))}
        if alike := steps_alike(module, phase):
            calls["plain"] = _cycling(plain_step(module, phase, device), [_contiguous(pair) for pair in pairs])
        figures = in_turn(calls, device, rounds, seconds, len(pairs[0].hr))
        eager = _cycling(fast_step(module, phase, device, precision, graphed=False), pairs)  # to count operations
        for name, call, dtype in (
            ("fast", eager, torch.bfloat16 if precision == "bf16-mixed" else torch.float32),
            *([("plain", calls["plain"], torch.float32)] if alike else []),
        ):
            figures[name] |= _share(call, figures[name], device, dtype)
        compared = compare(figures["fast"], figures["plain"]) if alike else {"fast": figures["fast"]}
        results[phase.name] = compared | {"unguarded": figures["unguarded"]}
    return results


class _Flops(TorchDispatchMode):
    """Counts FLOPs by torch's formulas; torch's FlopCounterMode doesn't count inside torch.autograd.grad."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def _cycling(step: Callable[[Pair], object], pairs: list[Pair]) -> Callable[[], object]:
    turn = itertools.cycle(pairs)
    return lambda: step(next(turn))


def _contiguous(pair: Pair) -> Pair:
    return Pair(pair.lr.contiguous(), pair.hr.contiguous())


def _share(call: Callable[[], object], figures: Figures, device: torch.device, dtype: torch.dtype) -> Figures:
    with _Flops() as counter:
        call()
    flops = float(counter.total)
    steps = figures["steps_per_s"]
    assert steps is not None
    return {"gflop_per_step": flops / 1e9, "share_of_matrix_rate": flops * steps / matrix_rate(device, dtype)}
