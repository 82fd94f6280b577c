"""Times the loader: crops per second for several numbers of workers, compared with PIL and the decoder alone."""

import io
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

from srgan.data.datamodule import ImageDataModule
from srgan.data.sources import FolderSource
from srgan.images import decode
from srgan.measure.clock import compare, in_turn
from srgan.measure.plain import loads_alike, plain_batches

CPU = torch.device("cpu")


def measure(data: ImageDataModule, rounds: int, seconds: float, workers: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Returns {"0 workers": {"fast", "plain", "ratio"}, …, "decoder": {…}, "pair": {…}}; images are crops.

    Without "plain" and "ratio" if the plain loader can't make the same crops. `decoder` only decodes whole files, which
    is the limit without a cache; `Pillow` does the same with Pillow. `pair` times what our loader leaves to the device
    (making LR, conversion to floats), here on the CPU.
    """
    data.setup("fit")
    source = data.splits.train
    results: dict[str, Any] = {}
    for count in workers:
        variants: dict[str, Callable[[], object]] = {"fast": partial(next, iter(data.batches(count)))}
        if isinstance(source, FolderSource) and loads_alike(data):
            plain = plain_batches(source, data.crop, data.degradation.scale, data.batch_size, count)
            variants["plain"] = partial(next, plain)
        figures = in_turn(variants, CPU, rounds, seconds, data.batch_size, unit="batches")
        results[f"{count} workers"] = compare(figures["fast"], figures["plain"]) if "plain" in figures else figures
    files = [source.read(index) for index in range(min(len(source), 256))]
    turn = itertools.cycle(files)
    alone: dict[str, Callable[[], object]] = {
        "decoder": lambda: decode(next(turn), "a file"),
        "Pillow": lambda: Image.open(io.BytesIO(next(turn))).load(),
    }
    results |= in_turn(alone, CPU, rounds, seconds, 1, unit="files")
    batch = next(iter(data.batches(0)))
    results |= in_turn({"pair": lambda: data.pair(*batch)}, CPU, rounds, seconds, data.batch_size, unit="batches")
    return results
