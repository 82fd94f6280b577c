"""What an evaluation compares: interpolation, our generators, other projects' networks, ready-made pictures."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from srgan import weights as packaged
from srgan.errors import UserError
from srgan.evaluation.benchmarks import Benchmark, BenchmarkImage, by_stem, distinct, match, read_image, size_text
from srgan.files import expand
from srgan.images import to_float
from srgan.imresize import imresize
from srgan.inference.tiles import TILE, enlarge, in_tiles
from srgan.models import basicsr, checkpoints
from srgan.models.generators import Generator

log = logging.getLogger(__name__)

RESERVED = ("bicubic", "nearest", "lr", "hr")  # labels of the columns beside the models
WEIGHTS = (".ckpt", ".safetensors", ".pth", ".pt")  # files that a pattern in `models` matches
FOREIGN_OVERLAP = 32  # LR pixels; another project's receptive field is unknown


class Method(ABC):
    """Makes the SR of a benchmark's image.

    Attributes:
        label: short, for tables and pictures.
        configuration: the training run's configuration without its seed; None if unknown.
        seed: that run's seed.
        weights_sha256: of a generator of ours, see `checkpoints.fingerprint`; None of anything else.
    """

    label: str
    configuration: Any = None
    seed: int | None = None
    weights_sha256: str | None = None

    @abstractmethod
    def __call__(self, image: BenchmarkImage) -> Tensor:
        """Make the SR: (1, 3, scale · h, scale · w), uint8 or float near [0, 1]."""


class Nearest(Method):
    """Nearest-neighbour interpolation: each pixel is repeated."""

    label = "nearest"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, image: BenchmarkImage) -> Tensor:
        return image.lr.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)


class Bicubic(Method):
    """Bicubic interpolation as MATLAB's `imresize` computes it."""

    label = "bicubic"

    def __init__(self, scale: int) -> None:
        self.scale = scale

    def __call__(self, image: BenchmarkImage) -> Tensor:
        return imresize(image.lr, self.scale)


class Network(Method):
    """One of our generators, in fp32. Pictures of more than tile² LR pixels are computed in tiles, exactly."""

    def __init__(self, generator: Generator, device: torch.device, tile: int = TILE, label: str = "network") -> None:
        self.label = label
        self.weights_sha256 = checkpoints.fingerprint(generator)
        self.generator = generator.to(device).to(memory_format=torch.channels_last).eval()
        self.device = device
        self.tile = tile

    def __call__(self, image: BenchmarkImage) -> Tensor:
        lr = to_float(image.lr.to(self.device)).contiguous(memory_format=torch.channels_last)
        return enlarge(self.generator, lr, self.tile)


class Foreign(Method):
    """A network of another project, which spandrel with our plugin can load.

    Large pictures are computed in overlapping tiles, so the result isn't exactly that of the whole picture.
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
            loaded = ModelLoader(device).load_from_state_dict(_state_of(path, device))
        except Exception as error:  # spandrel and torch raise many kinds for unknown files
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"{path}: neither srgan nor spandrel can load it ({reason[0][:200]})") from error
        if not isinstance(loaded, ImageModelDescriptor) or (loaded.input_channels, loaded.output_channels) != (3, 3):
            raise UserError(f"{path}: {loaded.architecture.name} doesn't map RGB to RGB")
        check_same_scale(path, loaded.scale, scale)
        self.network = cast(Any, loaded.eval())
        self.device, self.scale, self.tile = device, scale, max(tile, 3 * FOREIGN_OVERLAP)
        self._said = False

    def __call__(self, image: BenchmarkImage) -> Tensor:
        if not self._said and image.lr[0, 0].numel() > self.tile**2:
            log.warning(
                "%s: pictures of more than %d² LR pixels, such as %s, are computed in tiles, not exactly; a larger"
                " tile= avoids it",
                self.label, self.tile, image.name,
            )  # fmt: skip
            self._said = True
        return in_tiles(self.network, to_float(image.lr.to(self.device)), self.scale, self.tile, FOREIGN_OVERLAP)


def _state_of(path: Path, device: torch.device) -> dict[str, Any]:
    """Read the weights in another project's file, in the form that spandrel expects, without running its code.

    torch reads more kinds of .pth than spandrel, such as those of torch 0.3.
    """
    from spandrel import ModelLoader, canonicalize_state_dict

    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception:  # not a file of torch.save, or more than tensors and plain values in it: spandrel says what
        return ModelLoader(device).load_state_dict_from_file(path)
    return canonicalize_state_dict(content)


class Pictures(Method):
    """A folder of ready-made SR pictures, matched to the benchmark's images by name; see `match`."""

    def __init__(self, folder: Path, benchmark: Benchmark) -> None:
        self.folder = folder
        files = by_stem(folder)
        self._files = match(benchmark.names, files, benchmark.scale, folder)
        self._unused = {*files.values()} - {*self._files.values()}

    def __call__(self, image: BenchmarkImage) -> Tensor:
        path = self._files[image.name]
        sr = read_image(path)
        if sr.shape != image.hr.shape:
            raise UserError(f"{path} is {size_text(sr)}, its HR is {size_text(image.hr)}")
        if self._unused and torch.equal(sr, image.hr.cpu()):
            raise UserError(
                f"{path} is the HR itself, and {min(self._unused)} lies beside it; name a folder of the SR alone"
            )
        return sr


def methods(
    models: str | Sequence[str] | Mapping[str, str], benchmark: Benchmark, device: torch.device, tile: int = TILE
) -> dict[str, Method]:
    """Load the methods in `models`. Keys are their names or, for a list, its entries. Bicubic always comes first.

    Each is `nearest`, `bicubic`, the name of packaged weights, a checkpoint or exported weights, a run's folder (its
    last.ckpt), a folder of SR pictures, or a file that spandrel can load; in a list also a pattern such as
    `outputs/sweeps/T/*`. Raises UserError for anything else, and for a model of another scale.
    """
    if isinstance(models, Mapping):
        named = {"bicubic": "bicubic"} | {str(name).strip(): str(spec) for name, spec in models.items()}
    else:
        specs = [models] if isinstance(models, str) else models
        named = {path: path for path in ["bicubic", *(path for spec in specs for path in _expanded(str(spec)))]}
    labels = _labels(named)
    loaded: dict[str, Method] = {}
    for name, spec in named.items():
        loaded[name] = _load(spec, benchmark, device, tile)
        loaded[name].label = labels[name]
    return loaded


def _labels(named: Mapping[str, str]) -> dict[str, str]:
    """Make distinct labels: a method's name, or those parts of a path that distinguish it from the others."""
    paths = [name for name, spec in named.items() if name == spec and name not in ("bicubic", "nearest")]
    short = dict(zip(paths, distinct(paths), strict=True)) if paths else {}
    labels: dict[str, str] = {}
    for name, spec in named.items():
        if not name or not spec:
            raise UserError(f"models: {dict(named)}: each needs a name and a path")
        labels[name] = name if short.get(name) in RESERVED else short.get(name, name)
        if labels[name] in RESERVED and spec != name:
            raise UserError(f"models: {name!r} is a reserved name; give another")
    return labels


def _expanded(spec: str) -> list[str]:
    """List the checkpoints, weights and folders that match a pattern. Any other text is returned unchanged."""
    if not any(sign in spec for sign in "*?[") or Path(spec).exists():
        return [spec]
    matches = expand(spec)
    paths = sorted((path for path in matches if Path(path).is_dir() or Path(path).suffix in WEIGHTS), key=_natural_key)
    if not paths:
        raise UserError(f"models: nothing matches {spec}")
    return paths


def _natural_key(path: str) -> list[str]:
    """A sort key that puts 2 before 10."""
    return [part.rjust(20) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _load(spec: str, benchmark: Benchmark, device: torch.device, tile: int) -> Method:
    """Load one method. Raises UserError if `spec` names none, or one of another scale."""
    if spec == "nearest":
        return Nearest(benchmark.scale)
    if spec == "bicubic":
        return Bicubic(benchmark.scale)
    path = packaged.find(spec) if spec in packaged.names() else Path(spec)
    if (path / "checkpoints").is_dir() or (path / ".hydra").is_dir():
        path = path / "checkpoints" / "last.ckpt"
        if not path.is_file():
            raise UserError(f"models: {spec} is a run without checkpoints/last.ckpt; leave it out")
    if path.is_dir():
        return Pictures(path, benchmark)
    if not path.is_file():
        raise UserError(
            f"models: {spec} is neither nearest, bicubic nor a file or folder, nor one of"
            f" {', '.join(packaged.names())}; runs keep theirs in outputs/<name>/<time>/checkpoints/"
        )
    if path.suffix != ".ckpt" and not checkpoints.is_exported(path) and not basicsr.is_readable(path):
        return Foreign(path, benchmark.scale, device, tile)
    checkpoint = checkpoints.read(path) if path.suffix == ".ckpt" else None
    generator = checkpoints.generator_of(checkpoint, path) if checkpoint else checkpoints.load(path)
    check_same_scale(path, generator.scale, benchmark.scale)
    method = Network(generator, device, tile)
    if checkpoint:
        config = checkpoint["config"]
        planned = sum(checkpoint.get("phases", {}).values())
        if path.stem == "last" and checkpoint.get("global_step", planned) < planned:
            log.warning("%s: its run isn't finished (step %d of %d)", path, checkpoint["global_step"], planned)
        method.configuration, method.seed = without_seed(config) | {"checkpoint": path.stem}, config.get("seed")
        step = checkpoint.get("global_step", 0)
        if path.stem != "best":
            method.configuration["step"] = step
        else:  # its step differs from seed to seed, but a content phase's isn't averaged with a GAN phase's
            ends = accumulate(checkpoint.get("phases", {}).values())
            method.configuration["phase"] = sum(step > end for end in ends)
    return method


def check_same_scale(path: Path, network_scale: int, scale: int) -> None:
    """Raise UserError unless the network in `path` enlarges by `scale`."""
    if network_scale != scale:
        raise UserError(
            f"{path} enlarges ×{network_scale}, the benchmark is ×{scale}; evaluate it with scale={network_scale}"
        )


def without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without its seed and folder, equal for runs that differ only in these."""
    kept = ("scale", "batch_size", "init_from", "data", "generator", "discriminator", "loss", "phases", "training")
    trainer = config.get("trainer")
    trainer = trainer if isinstance(trainer, Mapping) else {}
    configuration = {key: config.get(key) for key in kept}
    configuration |= {key: trainer.get(key) for key in ("max_steps", "precision", "devices", "num_nodes")}
    if isinstance(configuration["data"], Mapping):
        options = configuration["data"].items()  # an empty list: as before there was such an option
        configuration["data"] = {key: value for key, value in options if key != "seed" and value != []}
    return configuration
