"""Timing of alternatives in turn, so that a noisy machine is as noisy for each."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from srgan.machine import peak_mib, reset_peak, tf32, watts

Figures = dict[str, float | None]

WARM_UP = 5  # calls that don't count; a graphed step is captured at its fourth


def in_turn(
    variants: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    seconds: float,
    items: int,
    unit: str = "steps",
) -> dict[str, Figures]:
    """Call each variant over and over for at least `seconds`, all of them in turn, `rounds` times.

    Returns for each the median of the rounds, `<unit>_per_s`, its `lowest` and `highest`, `images_per_s` (`items` a
    call), and `peak_mib` and `watts` where the machine tells.
    """
    rates: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, list[float]] = {name: [] for name in variants}
    power: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():  # first calls compile, allocate, choose algorithms, capture a graph
        for _ in range(WARM_UP):
            call()
    for _ in range(rounds):
        for name, call in variants.items():
            reset_peak(device)
            rates[name].append(rate(call, device, seconds))
            for figures, value in ((peaks, peak_mib(device)), (power, watts(device))):
                if value is not None:
                    figures[name].append(value)
    return {
        name: {
            f"{unit}_per_s": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
            "images_per_s": items * statistics.median(values),
            "peak_mib": max(peaks[name], default=None),
            "watts": statistics.median(power[name]) if power[name] else None,
        }
        for name, values in rates.items()
    }


def rate(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls a second, over at least `seconds`, at least two."""
    _synchronize(device)
    start, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < seconds:
        call()
        calls += 1
        if device.type == "cuda" and calls % 20 == 0:
            _synchronize(device)  # the queue must not run ahead of the clock
    _synchronize(device)
    return calls / (time.perf_counter() - start)


def compare(fast: Figures, plain: Figures, by: str = "images_per_s") -> dict[str, object]:
    """Both, and how many times as fast the first is."""
    first, second = fast[by], plain[by]
    assert first is not None and second is not None
    return {"fast": fast, "plain": plain, "ratio": first / second}


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product in `dtype`: what this machine can do at best.

    On a CUDA device float32 is multiplied as TF32, as in the convolutions that the rate is compared with.
    """
    side = 8192 if device.type == "cuda" else 1536
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    with tf32(True):
        best = max(rate(lambda: a @ b, device, 0.5) for _ in range(3))
    return best * 2 * side**3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
