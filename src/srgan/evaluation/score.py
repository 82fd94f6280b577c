"""Scores methods on a benchmark in one pass: each method runs once per image and is scored under all protocols."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import stdev
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from srgan.data.crops import evenly_spaced
from srgan.errors import UserError, is_out_of_memory
from srgan.evaluation.benchmarks import Benchmark, BenchmarkImage
from srgan.evaluation.methods import Method
from srgan.files import below
from srgan.images import save_png, to_uint8
from srgan.machine import tf32
from srgan.metrics import names
from srgan.metrics.fid import FID
from srgan.metrics.measures import Measures
from srgan.metrics.protocol import PROTOCOLS, Protocol
from srgan.metrics.scores import Figures, image_figures, mean


class Scored(NamedTuple):
    """One image with each method's SR, (1, 3, H, W) uint8, and scores."""

    image: BenchmarkImage
    sr: dict[str, Tensor]
    figures: dict[str, Figures]


@dataclass(kw_only=True)
class Evaluation:
    """The result of an evaluation: figures by method and image, FID by method if measured, images kept for pictures.

    hr_sha256: of the pixels of all HR images, R, G, B, row by row, in the order in which they were scored. Two
    evaluations with the same one have scored the same images. weights_sha256: of the methods that are generators of
    ours, see `checkpoints.fingerprint`.
    """

    benchmark: str
    scale: int
    labels: dict[str, str]
    figures: dict[str, dict[str, Figures]]
    fid: dict[str, float] = field(default_factory=dict[str, float])
    shown: list[Scored] = field(default_factory=list[Scored])
    hr_sha256: str = ""
    weights_sha256: dict[str, str] = field(default_factory=dict[str, str])

    def mean(self, method: str) -> Figures:
        """A method's mean scores over the images, and its FID if measured."""
        means = mean(self.figures[method].values())
        return means | {names.FID: self.fid[method]} if method in self.fid else means

    def content(self) -> dict[str, Any]:
        """The scores as plain data, for metrics.json."""
        models = {
            name: {"label": self.labels[name], "mean": self.mean(name), "images": images}
            | ({"weights_sha256": self.weights_sha256[name]} if name in self.weights_sha256 else {})
            for name, images in self.figures.items()
        }
        about = {"scale": self.scale, "benchmark": self.benchmark, "hr_sha256": self.hr_sha256}
        return about | {"models": models}


def evaluate(
    methods: Mapping[str, Method],
    benchmark: Benchmark,
    device: torch.device,
    protocols: Iterable[Protocol] = tuple(PROTOCOLS.values()),
    measures: Measures | None = None,
    fid: FID | None = None,
    shown: int = 0,
    folder: Path | None = None,
    saved: Literal["none", "shown", "all"] = "none",
) -> Evaluation:
    """Score methods on every image of a benchmark, in fp32.

    Args:
        shown: number of images to keep for pictures, taken at even intervals.
        folder: where LR, SR and HR of the `saved` images are written, as `<folder>/<label>/<image>.png`.
    """
    labels = {name: method.label for name, method in methods.items()}
    result = Evaluation(
        benchmark=benchmark.name, scale=benchmark.scale, labels=labels, figures={name: {} for name in methods}
    )
    result.weights_sha256 = {name: own for name, method in methods.items() if (own := method.weights_sha256)}
    kept = set(evenly_spaced(len(benchmark), shown))
    hr_pixels = hashlib.sha256()
    images = _score(methods, benchmark, device, tuple(protocols), measures or {}, fid)
    bar = tqdm(images, total=len(benchmark), desc=benchmark.name, leave=False, disable=None)
    with tf32(False):  # scores are those of exact fp32
        for index, scored in enumerate(bar):
            hr_pixels.update(scored.image.hr[0].permute(1, 2, 0).numpy().tobytes())
            for name, figures in scored.figures.items():
                result.figures[name][scored.image.name] = figures
            if index in kept:
                result.shown.append(scored)
            if folder is not None and (saved == "all" or (saved == "shown" and index in kept)):
                for label, picture in pictures(scored, labels).items():
                    path = folder / below(label) / below(f"{scored.image.name}.png")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    save_png(picture[0], path)
    result.hr_sha256 = hr_pixels.hexdigest()
    if fid is not None:
        result.fid = fid.compute()
    return result


@torch.inference_mode()
def _score(
    methods: Mapping[str, Method],
    benchmark: Benchmark,
    device: torch.device,
    protocols: tuple[Protocol, ...],
    measures: Measures,
    fid: FID | None,
) -> Iterator[Scored]:
    """Yield the images one by one, each with all methods' SR and scores. Raises UserError if memory is too small."""
    for index, title in enumerate(benchmark.names):
        try:
            scored = _scored(methods, benchmark[index], benchmark, device, protocols, measures, fid)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"{title}: out of memory; take a smaller tile=, leave out metrics (lpips=null dists=false), take"
                " device=cpu, or cut this image in pieces"
            ) from error
        yield scored


def _scored(
    methods: Mapping[str, Method],
    image: BenchmarkImage,
    benchmark: Benchmark,
    device: torch.device,
    protocols: tuple[Protocol, ...],
    measures: Measures,
    fid: FID | None,
) -> Scored:
    """One image with all methods' SR and scores."""
    image = image._replace(lr=image.lr.to(device), hr=image.hr.to(device))
    if fid is not None:
        fid.add_hr(image.hr)
    degradation = partial(benchmark.degradation, seed=image.seed)
    if benchmark.degradation.draws:  # on the CPU, where LR was made: another device draws other numbers
        degradation = partial(_on_cpu, degradation)
    sr: dict[str, Tensor] = {}
    figures: dict[str, Figures] = {}
    for name, method in methods.items():
        picture = to_uint8(method(image)).to(device)
        figures[name] = image_figures(picture, image.hr, image.lr, benchmark.scale, protocols, degradation, measures)
        if fid is not None:
            fid.add_sr(name, picture)
        sr[name] = picture.cpu()
    return Scored(image._replace(lr=image.lr.cpu(), hr=image.hr.cpu()), sr, figures)


def _on_cpu(degradation: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return degradation(images.cpu()).to(images.device)


def pictures(scored: Scored, labels: Mapping[str, str]) -> dict[str, Tensor]:
    """The LR, SR and HR pictures of one image, by label."""
    return {
        "lr": scored.image.lr,
        **{labels[name]: sr for name, sr in scored.sr.items()},
        "hr": scored.image.hr,
    }


class Seeds(NamedTuple):
    """One configuration trained with several seeds: mean and sample standard deviation of its models' mean scores."""

    label: str
    models: list[str]
    seeds: list[int]
    mean: Figures
    std: Figures


def over_seeds(evaluation: Evaluation, methods: Mapping[str, Method]) -> list[Seeds]:
    """Group the methods that differ only in their seed; each seed counts once per group."""
    groups: list[list[str]] = []
    for name, method in methods.items():
        if method.configuration is None or method.seed is None:
            continue
        for group in groups:
            first = methods[group[0]]
            if first.configuration == method.configuration and all(
                methods[member].seed != method.seed for member in group
            ):
                group.append(name)
                break
        else:
            groups.append([name])
    return [_over_group(evaluation, methods, group) for group in groups if len(group) > 1]


def _over_group(evaluation: Evaluation, methods: Mapping[str, Method], group: list[str]) -> Seeds:
    label = ", ".join(methods[name].label for name in group)
    seeds = [seed for name in group if (seed := methods[name].seed) is not None]
    means = [evaluation.mean(name) for name in group]
    return Seeds(label, group, seeds, mean(means), _standard_deviation(means))


def _standard_deviation(rows: list[Figures]) -> Figures:
    """The sample standard deviation of each score; None if fewer than two rows have it."""
    deviations: Figures = {}
    for key, first in rows[0].items():
        values = [value for row in rows if (value := row[key]) is not None]
        if isinstance(first, Mapping):
            deviations[key] = _standard_deviation(values)
        else:
            deviations[key] = stdev(values) if len(values) > 1 else None
    return deviations
