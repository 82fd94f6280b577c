"""Times alternatives in turn, so that other load on the machine affects all equally."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from srgan.machine import held_mib, peak_mib, reset_peak, tf32, watts

Figures = dict[str, float | None]

WARM_UP = 5  # untimed calls; a CUDA graph is captured at the third


def in_turn(
    variants: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    seconds: float,
    items: int,
    unit: str = "steps",
) -> dict[str, Figures]:
    """Time the variants in turn, `rounds` times. In each round a variant is called repeatedly for at least `seconds`.

    Returns for each the median over rounds as `<unit>_per_s`, `lowest`, `highest`, `images_per_s` (for `items` images
    per call) and, if the machine reports them, `peak_mib` and `watts`. On a CUDA device the peak leaves out what the
    other variants keep from call to call.
    """
    rates: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, list[float]] = {name: [] for name in variants}
    power: dict[str, list[float]] = {name: [] for name in variants}
    kept: dict[str, float] = {}
    for name, call in variants.items():  # the first calls compile, allocate, choose algorithms, capture a graph
        before = held_mib(device)
        for _ in range(WARM_UP):
            call()
        kept[name] = held_mib(device) - before
    for _ in range(rounds):
        for name, call in variants.items():
            reset_peak(device)
            rates[name].append(rate(call, device, seconds))
            if (peak := peak_mib(device)) is not None:
                peaks[name].append(peak - sum(kept.values()) + kept[name])
            if (drawn := watts(device)) is not None:
                power[name].append(drawn)
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
    """Calls per second, measured over at least `seconds` and two calls."""
    synchronize(device)
    start, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < seconds:
        call()
        calls += 1
        if device.type == "cuda" and calls % 20 == 0:
            synchronize(device)  # so that the device's queue doesn't run ahead of the clock
    synchronize(device)
    return calls / (time.perf_counter() - start)


def compare(fast: Figures, plain: Figures, by: str = "images_per_s") -> dict[str, object]:
    """Both measurements and the speed-up."""
    first, second = fast[by], plain[by]
    assert first is not None and second is not None
    return {"fast": fast, "plain": plain, "ratio": first / second}


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product in `dtype`: the upper limit of this machine.

    On a CUDA device float32 uses TF32, as do the convolutions that are compared with it.
    """
    side = 8192 if device.type == "cuda" else 1536
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    with tf32(True):
        best = max(rate(lambda: a @ b, device, 0.5) for _ in range(3))
    return best * 2 * side**3


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
