"""What is compared: interpolations, trained generators, other people's networks, and ready-made pictures."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from srgan import weights as packaged
from srgan.errors import UserError
from srgan.evaluation.benchmarks import Benchmark, BenchmarkImage, by_stem, distinct, match, read_image, size
from srgan.images import to_float
from srgan.imresize import imresize
from srgan.inference.tiles import TILE, enlarge, in_tiles
from srgan.models import checkpoints
from srgan.models.generators import Generator

TAKEN = ("bicubic", "nearest", "lr", "hr")  # labels of what stands beside the models
WEIGHTS = (".ckpt", ".safetensors", ".pth", ".pt")  # what a pattern picks out of files
FOREIGN_OVERLAP = 32  # LR pixels; the receptive field of a foreign network is not known


class Method(ABC):
    """Makes the SR of a benchmark's image.

    Attributes:
        label: short, for tables and pictures.
        configuration: of the run that trained it, without what doesn't change its kind; None if unknown.
        seed: of that run.
    """

    label: str
    configuration: Any = None
    seed: int | None = None

    @abstractmethod
    def __call__(self, image: BenchmarkImage) -> Tensor:
        """SR (1, 3, scale · h, scale · w), uint8 or float near [0, 1]."""


class Nearest(Method):
    """Each pixel repeated."""

    label = "nearest"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, image: BenchmarkImage) -> Tensor:
        return image.lr.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)


class Bicubic(Method):
    """MATLAB's `imresize`."""

    label = "bicubic"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, image: BenchmarkImage) -> Tensor:
        return imresize(image.lr, self.scale)


class Network(Method):
    """A generator of ours, in fp32; pictures larger than tile² LR pixels go through it in tiles, with equal results."""

    def __init__(self, generator: Generator, device: torch.device, tile: int = TILE, label: str = "network") -> None:
        self.label = label
        self.generator = generator.to(device).to(memory_format=torch.channels_last).eval()
        self.device = device
        self.tile = tile

    def __call__(self, image: BenchmarkImage) -> Tensor:
        lr = to_float(image.lr.to(self.device)).contiguous(memory_format=torch.channels_last)
        return enlarge(self.generator, lr, self.tile)


class Foreign(Method):
    """Any network that spandrel, with our plugin, can load.

    Tiles of a picture that is too large overlap, but are not exact.
    """

    def __init__(self, path: Path, scale: int, device: torch.device, tile: int = TILE) -> None:
        try:
            from spandrel import ImageModelDescriptor, ModelLoader

            from srgan.inference import spandrel_plugin
        except ImportError as error:
            raise UserError(
                f"{path} is no checkpoint of srgan; other networks need spandrel: pip install 'srgan[spandrel]'"
            ) from error
        spandrel_plugin.install()
        try:
            loaded = ModelLoader(device).load_from_file(path)
        except Exception as error:  # spandrel and torch raise many kinds for what they don't know
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"{path}: neither srgan nor spandrel can load it ({reason[0][:200]})") from error
        if not isinstance(loaded, ImageModelDescriptor) or (loaded.input_channels, loaded.output_channels) != (3, 3):
            raise UserError(f"{path}: {loaded.architecture.name} doesn't map RGB to RGB")
        check_scale(path, loaded.scale, scale)
        self.network = cast(Any, loaded.eval())
        self.device, self.scale, self.tile = device, scale, max(tile, 3 * FOREIGN_OVERLAP)

    def __call__(self, image: BenchmarkImage) -> Tensor:
        return in_tiles(self.network, to_float(image.lr.to(self.device)), self.scale, self.tile, FOREIGN_OVERLAP)


class Pictures(Method):
    """Ready-made SR in a folder, matched to the benchmark's images by name; see `match`."""

    def __init__(self, folder: Path, benchmark: Benchmark) -> None:
        self._files = match(benchmark.names, by_stem(folder), benchmark.scale, folder)

    def __call__(self, image: BenchmarkImage) -> Tensor:
        path = self._files[image.name]
        sr = read_image(path)
        if sr.shape != image.hr.shape:
            raise UserError(f"{path} is {size(sr)}, its HR is {size(image.hr)}")
        return sr


def methods(
    models: str | Sequence[str] | Mapping[str, str], benchmark: Benchmark, device: torch.device, tile: int = TILE
) -> dict[str, Method]:
    """What `models` names, bicubic first in any case; by name, or by what was given where there is no name.

    Each is `nearest`, `bicubic`, the name of weights that come with the package, a checkpoint or exported weights, a
    run's folder (its best.ckpt), a folder of SR pictures, or a file that spandrel can load; in a list also a pattern
    such as `outputs/sweeps/T/*`.
    Raises UserError for anything else, and for another scale.
    """
    if isinstance(models, Mapping):
        named = {"bicubic": "bicubic"} | {str(name): str(spec) for name, spec in models.items()}
    else:
        specs = [models] if isinstance(models, str) else models
        named = {path: path for path in ["bicubic", *(path for spec in specs for path in _expanded(str(spec)))]}
    labels = _labels(named)
    found: dict[str, Method] = {}
    for name, spec in named.items():
        found[name] = _method(spec, benchmark, device, tile)
        found[name].label = labels[name]
    return found


def _labels(named: Mapping[str, str]) -> dict[str, str]:
    """By name: the name that was given, of a path what tells it from the others. Each is there once."""
    paths = [name for name, spec in named.items() if name == spec and name not in ("bicubic", "nearest")]
    short = dict(zip(paths, distinct(paths), strict=True)) if paths else {}
    labels: dict[str, str] = {}
    for name, spec in named.items():
        if not name or not spec:
            raise UserError(f"models: {dict(named)}: each needs a name and a path")
        labels[name] = name if short.get(name) in TAKEN else short.get(name, name)
        if labels[name] in TAKEN and spec != name:
            raise UserError(f"models: {name!r} is the name of something else beside the models; give another")
    return labels


def _expanded(spec: str) -> list[str]:
    if not any(sign in spec for sign in "*?[") or Path(spec).exists():
        return [spec]
    matches = glob(spec, recursive=True)  # noqa: PTH207 -- Path.glob takes no absolute pattern
    found = sorted((path for path in matches if Path(path).is_dir() or Path(path).suffix in WEIGHTS), key=_natural)
    if not found:
        raise UserError(f"models: nothing matches {spec}")
    return found


def _natural(path: str) -> list[str]:
    """Sorts 2 before 10."""
    return [part.rjust(20) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _method(spec: str, benchmark: Benchmark, device: torch.device, tile: int) -> Method:
    if spec == "nearest":
        return Nearest(benchmark.scale)
    if spec == "bicubic":
        return Bicubic(benchmark.scale)
    path = packaged.find(spec) if spec in packaged.names() else Path(spec)
    if (path / "checkpoints").is_dir() or (path / ".hydra").is_dir():
        path = path / "checkpoints" / "best.ckpt"
        if not path.is_file():
            raise UserError(f"models: {spec} is a run without checkpoints/best.ckpt; leave it out")
    if path.is_dir():
        return Pictures(path, benchmark)
    if not path.is_file():
        raise UserError(
            f"models: {spec} is neither nearest, bicubic nor a file or folder, nor one of"
            f" {', '.join(packaged.names())}; runs keep theirs in outputs/<name>/<time>/checkpoints/"
        )
    if path.suffix != ".ckpt" and not checkpoints.is_exported(path):
        return Foreign(path, benchmark.scale, device, tile)
    checkpoint = checkpoints.read(path) if path.suffix == ".ckpt" else None
    generator = checkpoints.generator_of(checkpoint, path) if checkpoint else checkpoints.load(path)
    check_scale(path, generator.scale, benchmark.scale)
    method = Network(generator, device, tile)
    if checkpoint:
        config = checkpoint["config"]
        method.configuration, method.seed = without_seed(config) | {"checkpoint": path.stem}, config.get("seed")
    return method


def check_scale(path: Path, found: int, scale: int) -> None:
    """Raise UserError unless the network in `path` enlarges by `scale`."""
    if found != scale:
        raise UserError(f"{path} enlarges ×{found}, the benchmark is ×{scale}; evaluate it with scale={found}")


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was configured to do, equal for runs that differ by their seed (and folder) alone."""
    kept = ("scale", "batch_size", "init_from", "data", "generator", "discriminator", "loss", "phases", "training")
    configuration = {key: config.get(key) for key in kept} | {"steps": config.get("trainer", {}).get("max_steps")}
    if isinstance(configuration["data"], Mapping):
        configuration["data"] = {key: value for key, value in configuration["data"].items() if key != "seed"}
    return configuration
