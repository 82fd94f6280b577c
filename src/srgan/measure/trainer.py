"""Measures the overhead of Lightning, logging and the loader by timing the step inside the Trainer's loop."""

import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from srgan.training.step import Step

WARM_UP = 3  # untimed steps


class StepClock(Callback):
    """Records the time at which each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.ends.append(time.perf_counter())


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
    steps_per_s = 1 / statistics.median(whole)
    results = {"steps_per_s": steps_per_s, "images_per_s": batch_size * steps_per_s}
    if device.type == "cpu":
        shares = [w / i - 1 for w, i in zip(whole, inside[WARM_UP + 1 :], strict=True)]
        results["overhead"] = statistics.median(shares)
    return results
