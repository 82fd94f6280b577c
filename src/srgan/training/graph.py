"""Runs a training step as a CUDA graph, which launches its hundreds of kernels at once."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from srgan.data.datamodule import Pair
from srgan.losses.adversarial import AdversarialLoss
from srgan.losses.perceptual import RandomViews
from srgan.training.guard import Guard
from srgan.training.muon import Muon
from srgan.training.step import Step

log = logging.getLogger(__name__)

WARM_UP = 3  # steps that run before the capture, in which optimizers make their states and cuDNN chooses algorithms

Capture = Callable[[Callable[[], None]], Callable[[], None]]


def usable(device: torch.device, losses: nn.Module, optimizers: Sequence[Optimizer]) -> bool:
    """True if steps can be replayed as a CUDA graph here; if not, the log says why."""
    unfit = [
        type(part).__name__ for part in optimizers if not isinstance(part, Muon) and not _reads_rate_on_device(part)
    ]
    if device.type != "cuda":
        reason = f"there is no CUDA device, but {device}"
    elif any(isinstance(part, RandomViews) for part in losses.modules()):
        reason = "the loss takes another view at each step"
    elif any(isinstance(part, AdversarialLoss) and part.critic_steps > 1 for part in losses.modules()):
        reason = "the generator doesn't learn at every step"
    elif unfit:
        reason = f"{unfit[0]} reads its learning rate on the CPU (with fused=true it may not)"
    else:
        return True
    log.info("training.cuda_graph: %s; steps run one kernel at a time", reason)
    return False


def _reads_rate_on_device(optimizer: Optimizer) -> bool:
    return all("capturable" in group or group.get("fused") for group in optimizer.param_groups)


def capture(work: Callable[[], None]) -> Callable[[], None]:
    """Record the kernels of `work` without running them. Returns a function that runs them."""
    graph = torch.cuda.CUDAGraph()
    # Capture only this thread's calls, since a loader's thread may allocate pinned memory at the same time.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    torch.cuda.reset_peak_memory_stats()  # from here on the graph's memory counts, not what making it took
    return graph.replay


@dataclass
class GraphedStep:
    """Replays `step` as a CUDA graph, for batches of one shape.

    Learning rates become tensors on the device, to which schedules write, and optimizers become `capturable`. Casts to
    bf16 aren't cached within the graph. What is logged is computed in every replay, which takes some 25 small kernels
    beside about a thousand others, so a step that logs is a replay like any other.

    Args:
        step: the step; its optimizers must be torch's own or `Muon`.
        autocast: whether to compute in bf16.
        pair: makes LR and HR of a batch's fields within the graph; by default they are the batch.
        capture: replaces `graph.capture`, for tests without a GPU.
    """

    step: Step
    autocast: bool
    pair: Callable[..., Pair] = Pair
    capture: Capture | None = None
    _calls: int = 0
    _replay: Callable[[], None] | None = None
    _static: list[Any] | None = None  # the batch's fields; a replay reads its tensors
    _values: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    _stream: torch.cuda.Stream | None = None

    def __post_init__(self) -> None:
        for optimizer in (self.step.optimizer, self.step.discriminator_optimizer):
            if optimizer is not None:
                make_capturable(optimizer)

    def __call__(self, batch: Sequence[Any], done: int, logging: bool) -> dict[str, Tensor]:
        """Train on one batch, as `Step` does. The values returned lie in memory that the next call overwrites."""
        self._load(batch)
        self.step.begin(done)
        self._calls += 1
        if self._replay is not None:
            self._replay()
        else:
            self._aside(self._work)
        self.step.end()
        values = self._values if logging else {}
        if self._replay is None and self._calls >= WARM_UP:
            # At once, not at the next call: a validation in between may evict what is cached for crops of this size.
            self.step.begin(done)
            self._replay = (self.capture or capture)(self._work)
            self.step.end()
        return values

    def release(self) -> None:
        """Give back the graph and its memory; the next call would capture it anew."""
        self._replay, self._static, self._values = None, None, {}

    @property
    def guard(self) -> Guard:
        """See `Step`."""
        return self.step.guard

    def _load(self, batch: Sequence[Any]) -> None:
        """Copy the batch's tensors to where the graph reads them."""
        if self._static is None:
            self._static = [value.clone() if isinstance(value, Tensor) else value for value in batch]
        for static, new in zip(self._static, batch, strict=True):
            if isinstance(static, Tensor):
                static.copy_(new)

    def _work(self) -> None:
        assert self._static is not None
        pair = self.pair(*self._static)
        with torch.autocast(pair.hr.device.type, torch.bfloat16, enabled=self.autocast, cache_enabled=False):
            self._values = self.step.run(pair, generator_learns=True, logging=True)

    def _aside(self, work: Callable[[], None]) -> None:
        """Run on a side stream, as the capture does, so that what the first steps set up fits it."""
        device = self.step.guard.finite.device
        if device.type != "cuda":
            work()
            return
        self._stream = self._stream or torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream(device).wait_stream(self._stream)


def make_capturable(optimizer: Optimizer) -> None:
    """Keep an optimizer's learning rates and step counts on the device of its weights, as a CUDA graph needs."""
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = group["params"][0].device.type == "cuda"
            cast(Any, optimizer)._warned_capturable_if_run_uncaptured = True  # the warm-up is meant to
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)
    place_counts(optimizer)


def place_counts(optimizer: Optimizer) -> None:
    """Move an optimizer's step counts to the device that its options require, after loading a checkpoint.

    torch needs them on the weights' device if the update is fused or capturable, otherwise on the CPU.
    """
    for group in optimizer.param_groups:
        beside = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "step" in state:
                device = parameter.device if beside else torch.device("cpu")
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=device)


def make_portable(groups: list[dict[str, object]]) -> None:
    """Undo `make_capturable` in saved optimizer groups, so that a run can be resumed with or without a GPU."""
    for group in groups:
        if "capturable" in group:
            group["capturable"] = False
        for key in ("lr", "initial_lr"):
            if isinstance(value := group.get(key), Tensor):
                group[key] = float(value)
