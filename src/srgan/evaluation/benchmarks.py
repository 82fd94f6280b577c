"""Benchmarks: named images with their LR and HR, as files or out of a data set."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from srgan.data.crops import SSIM_WINDOW, WholeImages, check_count
from srgan.data.degradation import BicubicDegradation
from srgan.data.sources import Splits, list_folder
from srgan.errors import UserError
from srgan.images import crop_to_multiple, decode

log = logging.getLogger(__name__)

OF_LR = re.compile(r"(lr|low)(?![a-z])|lr(bic|x\d)|low.?res|.*bicubic|x\d+$", re.IGNORECASE)  # a folder's name


class BenchmarkImage(NamedTuple):
    """lr (1, 3, h, w) and hr (1, 3, scale · h, scale · w), uint8."""

    name: str
    lr: Tensor
    hr: Tensor


class Benchmark(ABC):
    """A sequence of images, each made or read when it is asked for; and the degradation between its HR and LR."""

    name: str
    names: list[str]  # of the images, without a file's suffix; each once
    degradation: BicubicDegradation
    lr_from: str = "by bicubic degradation"

    @property
    def scale(self) -> int:
        return self.degradation.scale

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> BenchmarkImage: ...


class FolderBenchmark(Benchmark):
    """A folder with `x4/HR` and `x4/LR` (for ×4), with `HR` and `LR`, or with the HR images alone.

    An LR is matched by name (`baby.png`, `babyx4.png`, `baby_x4.png`), taken as it is, and must have the size of the
    HR over the scale. Without an LR folder LR is made by the degradation. HR is cut at the bottom and right to a
    multiple of the scale. Grey images become RGB of equal channels, transparency is laid on white. The folders' names
    may be in lower case.

    Args:
        root: the folder.
        degradation: makes LR, and SR degraded again.
        name: as printed; by default the folder's.
        images: at most so many, evenly spaced; None for all.
    """

    def __init__(
        self, root: str | None, degradation: BicubicDegradation, name: str | None = None, images: int | None = None
    ) -> None:
        if root is None:
            raise UserError("a benchmark is needed: benchmark.root=PATH, benchmark=celeba or benchmark=split data=…")
        folder = Path(root)
        self.degradation = degradation
        self.name = name or folder.resolve().name
        hr_folder = _hr_folder(folder, self.scale)
        lr_folder = _inside(hr_folder.parent, "LR") if hr_folder != folder else None
        files = by_stem(hr_folder)
        self.names = _spread(list(files), images)
        self._hr = [files[name] for name in self.names]
        self._lr: list[Path] | None = None
        if lr_folder is None and hr_folder != folder:
            unused = [path.name for path in sorted(hr_folder.parent.iterdir()) if path.is_dir() and _is_of_lr(path)]
            if unused:
                log.warning("%s is not used: LR is read from a folder LR beside %s", ", ".join(unused), hr_folder)
        if lr_folder is not None:
            lr_files = by_stem(lr_folder)
            matched = match(list(files), lr_files, self.scale, lr_folder)
            if extra := set(lr_files.values()) - set(matched.values()):
                raise UserError(f"{min(extra)} has no HR in {hr_folder}; add it or remove the LR")
            self.lr_from = "as given"
            self._lr = [matched[name] for name in self.names]

    def __getitem__(self, index: int) -> BenchmarkImage:
        path = self._hr[index]
        hr = read_image(path)
        if min(hr.shape[-2:]) < SSIM_WINDOW + 3 * self.scale:
            raise UserError(f"{path} is {size(hr)}, too small to be scored at ×{self.scale}; remove it")
        cut = crop_to_multiple(hr, self.scale)
        if self._lr is None:
            return BenchmarkImage(self.names[index], self.degradation(cut), cut)
        lr = read_image(self._lr[index])
        if cut.shape[-2:] != tuple(self.scale * side for side in lr.shape[-2:]):
            raise UserError(f"{self._lr[index]} is {size(lr)} and its HR {size(hr)}: not a pair for scale={self.scale}")
        return BenchmarkImage(self.names[index], lr, cut)


class SplitBenchmark(Benchmark):
    """The images of a split of a data set, LR made by its degradation."""

    def __init__(self, images: WholeImages, degradation: BicubicDegradation, name: str) -> None:
        self.name = name
        self.degradation = degradation
        self.names = distinct([images.name(index) for index in range(len(images))])
        self._images = images

    def __getitem__(self, index: int) -> BenchmarkImage:
        hr = self._images[index][None]
        return BenchmarkImage(self.names[index], self.degradation(hr), hr)


class DataModule(Protocol):
    """What is needed of a data module."""

    splits: Splits
    degradation: BicubicDegradation


def split_benchmark(
    data: DataModule | None, split: Literal["train", "validation", "test"] = "test", images: int | None = None
) -> SplitBenchmark:
    """A split of `data`, all of it or `images` evenly spaced over it."""
    if data is None:
        raise UserError("benchmark=split needs a data set: data=celeba, data=folder or data=photos")
    if split not in ("train", "validation", "test"):
        raise UserError(f"benchmark.split={split}: expected train, validation or test")
    check_count(images, "benchmark.images")
    degradation = data.degradation
    whole = WholeImages(getattr(data.splits, split), degradation.scale, images)
    return SplitBenchmark(whole, degradation, f"{type(data).__name__} {split}")


def match(names: Sequence[str], files: Mapping[str, Path], scale: int, folder: Path) -> dict[str, Path]:
    """For each name the file of that stem: the same, else with x4 or _x4 behind it, else the only one that begins so.

    Raises UserError for a name without a file, or with several, and for a file that two names would have.
    """
    matched: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    exactly = {name: (name, f"{name}x{scale}", f"{name}_x{scale}") for name in names}
    taken = {stem for stems in exactly.values() for stem in stems}
    free = {stem: path for stem, path in files.items() if stem not in taken}
    for name in names:
        exact = [files[stem] for stem in exactly[name] if stem in files]
        longer = [path for stem, path in free.items() if re.match(re.escape(name) + r"[_.\- ]", stem)]
        found = exact[:1] or longer
        if len(found) != 1:
            others = f"{len(found)} begin with it: {', '.join(path.name for path in found[:3])}" if found else "none"
            raise UserError(f"{folder} needs one picture for {name}, found {others}")
        if (other := owners.setdefault(found[0], name)) != name:
            raise UserError(
                f"{folder} needs one picture for {name} and one for {other}, found {found[0].name} for both"
            )
        matched[name] = found[0]
    return matched


def distinct(paths: Sequence[str | Path]) -> list[str]:
    """Short names that tell paths apart: without the parts that all of them share, and without suffixes."""
    parts = [Path(path).parts for path in paths]
    shared = set(parts[0]).intersection(*parts[1:])
    names = ["/".join(part for part in path if part not in shared) or path[-1] for path in parts]
    bare = [re.sub(r"\.[A-Za-z]\w*$", "", name) for name in names]
    forms = (bare, names, [str(path) for path in paths])
    return next((form for form in forms if len(set(form)) == len(paths)), forms[-1])


def _hr_folder(root: Path, scale: int) -> Path:
    if not root.is_dir():
        raise UserError(f"benchmark.root={root}: no such folder")
    of_scale = _inside(root, f"x{scale}")
    for folder in (of_scale, root):
        if folder is not None and (hr := _inside(folder, "HR")):
            return hr
    if others := sorted(folder.name for folder in root.glob("[xX]*") if folder.is_dir() and _inside(folder, "HR")):
        raise UserError(f"{root} has no x{scale}/HR; it has {', '.join(others)}")
    if any(folder is not None and _inside(folder, "LR") for folder in (of_scale, root)):
        raise UserError(f"{root} has an LR folder, but no HR beside it")
    if mixed := sorted({folder.name for folder in root.rglob("*") if folder.is_dir() and _is_of_lr(folder)}):
        raise UserError(
            f"{root} has no folder HR, but {', '.join(mixed)}, which would be scored as HR;"
            " name the folder of the HR images alone, or call the folders HR and LR"
        )
    return root


def _inside(folder: Path, name: str) -> Path | None:
    """The folder of this name inside another, in capitals or not."""
    if not folder.is_dir():
        return None
    return next(
        (path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower() and path.is_dir()), None
    )


def _is_of_lr(folder: Path) -> bool:
    """Whether its name is one for LR images, or for those of one scale."""
    return OF_LR.match(folder.name) is not None


def by_stem(folder: Path) -> dict[str, Path]:
    """The images below a folder by their relative path without suffix. Raises UserError if there are none, or twins."""
    source = list_folder(folder)
    if not len(source):
        raise UserError(f"no images in {folder.absolute()}; expected jpg, png, webp or bmp files")
    files: dict[str, Path] = {}
    for path in (Path(source.name(index)) for index in range(len(source))):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise UserError(f"{files[stem]} and {path} have one name; remove one")
        files[stem] = path
    return files


def read_image(path: Path) -> Tensor:
    """(1, 3, H, W) uint8. Raises UserError, naming the file, if it can't be read."""
    try:
        return decode(path.read_bytes(), str(path))[None]
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); repair or remove it") from error


def size(image: Tensor) -> str:
    """Width × height, for messages."""
    return f"{image.shape[-1]}×{image.shape[-2]}"


def _spread(names: list[str], count: int | None) -> list[str]:
    """At most `count`, evenly spaced. Raises UserError if that is none."""
    check_count(count, "benchmark.images")
    if count is None or count >= len(names):
        return names
    return [names[i * len(names) // count] for i in range(count)]
