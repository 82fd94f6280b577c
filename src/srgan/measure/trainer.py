"""Measures the overhead of Lightning, logging and the loader by timing the step inside the Trainer's loop."""

import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from srgan.measure.clock import WARM_UP, synchronize
from srgan.training.step import Step


class StepClock(Callback):
    """Records the time at which each step ends; on a GPU, when it has been launched, but for `started` and `finished`.

    Attributes:
        ends: of each step.
        started: when the device had finished the first `WARM_UP` steps.
        finished: when it had finished all.
    """

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.started = self.finished = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if len(self.ends) == WARM_UP - 1:
            synchronize(pl_module.device)
            self.started = time.perf_counter()
        self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        synchronize(pl_module.device)
        self.finished = time.perf_counter()


@contextmanager
def steps_timed() -> Generator[list[float]]:
    """Context that lists the seconds of every call of a `Step`; on a GPU, work continues after the call."""
    seconds: list[float] = []
    original: Callable[..., Any] = Step.__call__

    def timed(self: Step, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = original(self, *arguments, **options)
        seconds.append(time.perf_counter() - start)
        return result

    Step.__call__ = timed
    try:
        yield seconds
    finally:
        Step.__call__ = original


def figures(clock: StepClock, inside: list[float], device: torch.device, batch_size: int) -> dict[str, float]:
    """Steps per second of the whole loop and, on a CPU, the share of its time spent outside the step."""
    whole = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)][WARM_UP:]
    if device.type == "cuda":  # a median would be the time of a launch
        steps_per_s = (len(clock.ends) - WARM_UP) / (clock.finished - clock.started)
    else:
        steps_per_s = 1 / statistics.median(whole)
    results = {"steps_per_s": steps_per_s, "images_per_s": batch_size * steps_per_s}
    if device.type == "cpu":
        shares = [w / i - 1 for w, i in zip(whole, inside[WARM_UP + 1 :], strict=True)]
        results["overhead"] = statistics.median(shares)
    return results
