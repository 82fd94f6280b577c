"""Benchmarks: named images with their LR and HR, from files or from a data set."""

import logging
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from srgan.data.crops import SSIM_WINDOW, WholeImages, check_count, evenly_spaced
from srgan.data.degradation import Degradation
from srgan.data.pairs import match_pairs
from srgan.data.sources import PairSource, Splits, list_folder
from srgan.errors import UserError
from srgan.images import crop_to_multiple, decode

log = logging.getLogger(__name__)

# What other projects call folders of LR images, or of images of one scale.
LR_FOLDER_NAME = re.compile(r"(lr|low)(?![a-z])|lr(bic|x\d)|low.?res|.*bicubic|x\d+$", re.IGNORECASE)


class BenchmarkImage(NamedTuple):
    """One named image: lr (1, 3, h, w) and hr (1, 3, scale · h, scale · w), uint8; the seed of its degradation."""

    name: str
    lr: Tensor
    hr: Tensor
    seed: int = 0


class Benchmark(ABC):
    """A sequence of images, each made or read when it is asked for, with the degradation between its HR and LR."""

    name: str
    names: list[str]  # one for each image, all different, without a file's suffix
    degradation: Degradation
    lr_is_given = False

    @property
    def lr_from(self) -> str:
        """Where LR comes from, in words."""
        return "as given" if self.lr_is_given else f"by {self.degradation.name} degradation"

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
        degradation: makes LR where there is none, and degrades SR again.
        name: printed beside the figures; None takes the folder's name.
        images: at most so many, evenly spaced; None for all.

    Raises UserError if there is no such folder, if it holds no images, or if its LR and HR don't match.
    """

    def __init__(self, root: str | None, degradation: Degradation, name: str | None, images: int | None) -> None:
        if root is None:
            raise UserError("a benchmark is needed: benchmark.root=PATH, benchmark=celeba or benchmark=split data=…")
        folder = Path(root)
        self.degradation = degradation
        self.name = name or folder.resolve().name
        hr_folder = _hr_folder(folder, self.scale)
        lr_folder = _inside(hr_folder.parent, "LR") if hr_folder != folder else None
        files = by_stem(hr_folder)
        check_count(images, "benchmark.images")
        names = list(files)
        self.names = [names[index] for index in evenly_spaced(len(names), images)]
        self._hr = [files[name] for name in self.names]
        self._lr: list[Path] | None = None
        if lr_folder is not None:
            lr_files = by_stem(lr_folder)
            matched = match(names, lr_files, self.scale, lr_folder)
            if extra := set(lr_files.values()) - set(matched.values()):
                raise UserError(f"{min(extra)} has no HR in {hr_folder}; add it or remove the LR")
            self.lr_is_given = True
            self._lr = [matched[name] for name in self.names]
        elif hr_folder != folder:
            _warn_of_unused_lr(hr_folder)

    def __getitem__(self, index: int) -> BenchmarkImage:
        path = self._hr[index]
        hr = read_image(path)
        if min(hr.shape[-2:]) < SSIM_WINDOW + 3 * self.scale:
            raise UserError(f"{path} is {size_text(hr)}, too small to be scored at ×{self.scale}; remove it")
        cut = crop_to_multiple(hr, self.scale)
        if self._lr is None:
            seed = zlib.crc32(self.names[index].encode())
            return BenchmarkImage(self.names[index], self.degradation(cut, seed), cut, seed)
        lr = read_image(self._lr[index])
        if cut.shape[-2:] != tuple(self.scale * side for side in lr.shape[-2:]):
            raise UserError(
                f"{self._lr[index]} is {size_text(lr)} and its HR {size_text(hr)}: not a pair for scale={self.scale}"
            )
        return BenchmarkImage(self.names[index], lr, cut)


class SplitBenchmark(Benchmark):
    """The images of one split of a data set, with their own LR if it has pairs; else its degradation makes the LR."""

    def __init__(self, images: WholeImages, degradation: Degradation, name: str) -> None:
        self.name = name
        self.degradation = degradation
        self.names = distinct([images.name(index) for index in range(len(images))])
        self.lr_is_given = isinstance(images.source, PairSource)
        self._images = images

    def __getitem__(self, index: int) -> BenchmarkImage:
        hr, lr, seed = self._images[index][None], self._images.lr(index), self._images.seed(index)
        return BenchmarkImage(self.names[index], self.degradation(hr, seed) if lr is None else lr[None], hr, seed)


class DataModule(Protocol):
    """The parts of a data module that a benchmark needs."""

    splits: Splits
    resize: list[int] | None
    degradation: Degradation


def split_benchmark(
    data: DataModule | None, split: Literal["train", "validation", "test"], images: int | None
) -> SplitBenchmark:
    """Make a benchmark of one split of `data`: at most `images` of it, evenly spaced; None for all."""
    if data is None:
        raise UserError("benchmark=split needs a data set: data=celeba, data=folder or data=photos")
    if split not in ("train", "validation", "test"):
        raise UserError(f"benchmark.split={split}: expected train, validation or test")
    check_count(images, "benchmark.images")
    degradation = data.degradation
    whole = WholeImages(getattr(data.splits, split), degradation.scale, images, data.resize)
    return SplitBenchmark(whole, degradation, f"{type(data).__name__} {split}")


def pairs_benchmark(
    hr: str | None, lr: str | None, degradation: Degradation, name: str | None, images: int | None
) -> SplitBenchmark:
    """Make a benchmark of two folders, matched as `match_pairs` does; `degradation` degrades SR again."""
    if hr is None or lr is None:
        raise UserError("benchmark=pairs needs both folders: benchmark.hr=PATH benchmark.lr=PATH")
    check_count(images, "benchmark.images")
    pairs = match_pairs(Path(hr), Path(lr), degradation.scale, "benchmark.hr", "benchmark.lr")
    whole = WholeImages(pairs, degradation.scale, images)
    return SplitBenchmark(whole, degradation, name or Path(hr).resolve().name)


def match(names: Sequence[str], files: Mapping[str, Path], scale: int, folder: Path) -> dict[str, Path]:
    """Match each name to one file by its stem.

    The stem is the name itself, else the name with x4 or _x4 behind it (for ×4), else the only one that begins with
    the name. Raises UserError for a name with no file or several, and for a file that would belong to two names.
    """
    matched: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    exact_stems = {name: (name, f"{name}x{scale}", f"{name}_x{scale}") for name in names}
    taken = {stem for stems in exact_stems.values() for stem in stems}
    free = {stem: path for stem, path in files.items() if stem not in taken}
    for name in names:
        exact = [files[stem] for stem in exact_stems[name] if stem in files]
        longer = [path for stem, path in free.items() if re.match(re.escape(name) + r"[_.\- ]", stem)]
        candidates = exact[:1] or longer
        if len(candidates) != 1:
            first_three = ", ".join(path.name for path in candidates[:3])
            others = f"{len(candidates)} begin with it: {first_three}" if candidates else "none"
            raise UserError(f"{folder} needs one picture for {name}, found {others}")
        path = candidates[0]
        if (other := owners.setdefault(path, name)) != name:
            raise UserError(f"{folder} needs one picture for {name} and one for {other}, found {path.name} for both")
        matched[name] = path
    return matched


def distinct(paths: Sequence[str | Path]) -> list[str]:
    """Shorten paths to names that are all different: without the parts that all paths share, and without suffixes."""
    parts = [Path(path).parts for path in paths]
    shared = set(parts[0]).intersection(*parts[1:])
    names = ["/".join(part for part in path if part not in shared) or path[-1] for path in parts]
    bare = [re.sub(r"\.[A-Za-z]\w*$", "", name) for name in names]
    forms = (bare, names, [str(path) for path in paths])
    return next((form for form in forms if len(set(form)) == len(paths)), forms[-1])


def _hr_folder(root: Path, scale: int) -> Path:
    """Find the folder of the HR images: x4/HR (for ×4), HR, or root itself. Raises UserError if that can't be told."""
    if not root.is_dir():
        raise UserError(f"benchmark.root={root}: no such folder")
    scale_folder = _inside(root, f"x{scale}")
    for folder in (scale_folder, root):
        if folder is not None and (hr := _inside(folder, "HR")):
            return hr
    if others := sorted(folder.name for folder in root.glob("[xX]*") if folder.is_dir() and _inside(folder, "HR")):
        raise UserError(f"{root} has no x{scale}/HR; it has {', '.join(others)}")
    if any(folder is not None and _inside(folder, "LR") for folder in (scale_folder, root)):
        raise UserError(f"{root} has an LR folder, but no HR beside it")
    if mixed := sorted({folder.name for folder in root.rglob("*") if folder.is_dir() and _is_lr_folder(folder)}):
        raise UserError(
            f"{root} has no folder HR, but {', '.join(mixed)}, which would be scored as HR;"
            " name the folder of the HR images alone, or call the folders HR and LR"
        )
    return root


def _inside(folder: Path, name: str) -> Path | None:
    """Find the folder of this name inside another, in capitals or not. None if there is none."""
    if not folder.is_dir():
        return None
    return next(
        (path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower() and path.is_dir()), None
    )


def _is_lr_folder(folder: Path) -> bool:
    """True if the folder's name says that it holds LR images, or images of one scale."""
    return LR_FOLDER_NAME.match(folder.name) is not None


def _warn_of_unused_lr(hr_folder: Path) -> None:
    """Warn of folders of LR images that have another name than LR."""
    folders = sorted(path for path in hr_folder.parent.iterdir() if path.is_dir())
    unused = [folder.name for folder in folders if _is_lr_folder(folder)]
    if unused:
        log.warning("%s is not used: LR is read from a folder LR beside %s", ", ".join(unused), hr_folder)


def by_stem(folder: Path) -> dict[str, Path]:
    """List the images below a folder, by their relative path without suffix.

    Raises UserError if there are none, or two that differ by their suffix alone.
    """
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
    """Read a file as (1, 3, H, W) uint8. Raises UserError, naming the file, if it can't be read."""
    try:
        return decode(path.read_bytes(), str(path))[None]
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); repair or remove it") from error


def size_text(image: Tensor) -> str:
    """Width × height, for messages."""
    return f"{image.shape[-1]}×{image.shape[-2]}"
