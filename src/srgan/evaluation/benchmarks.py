"""Benchmarks: named images with their LR and HR, from files or from a data set."""

import logging
import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from srgan.data import layout
from srgan.data.crops import SSIM_WINDOW, WholeImages, check_count, evenly_spaced
from srgan.data.degradation import Degradation
from srgan.data.pairs import image_size, match_pairs, pair_fault
from srgan.data.sources import PairSource, Splits, list_folder, shortened
from srgan.errors import UserError
from srgan.files import given, several
from srgan.images import crop_to_multiple, decode

log = logging.getLogger(__name__)


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
    """A folder of HR images, with the LR of each or without, in any layout that `srgan.data.layout` knows.

    Folders tell (`x4/HR` with `x4/LR`, `GTmod12` with `LRbicx4`, `SRF_4/target` with `SRF_4/data`, …), or names of
    files (`img_001_SRF_4_HR.png` with `…_LR.png`). LR is taken as it is and must have the size of its HR over the
    scale, rounded down. Without LR it is made by the degradation. HR is cut at the bottom and right to a multiple of
    the scale. Grey images become RGB of equal channels, transparency is laid on white.

    Args:
        root: the folder.
        degradation: makes LR where there is none, and degrades SR again.
        name: printed beside the figures; None takes the folder's name.
        images: at most so many, evenly spaced; None for all.

    Raises UserError if there is no such folder, if it holds no images, if HR can't be told from LR, if HR and LR don't
    match, and, naming all such files, if some can't be read or have a size that doesn't do.
    """

    def __init__(self, root: str | None, degradation: Degradation, name: str | None, images: int | None) -> None:
        if root is None:
            raise UserError("a benchmark is needed: benchmark.root=PATH, benchmark=celeba or benchmark=split data=…")
        folder = given(root, "benchmark.root")
        self.degradation = degradation
        self.name = name or folder.resolve().name
        check_count(images, "benchmark.images")
        hr, lr = _find_images(folder, self.scale)
        names = list(hr)
        self.names = [names[index] for index in evenly_spaced(len(names), images)]
        self._hr = [hr[name] for name in self.names]
        self._lr = None if lr is None else [lr[name] for name in self.names]
        self.lr_is_given = lr is not None
        if faults := [fault for index in range(len(self)) if (fault := self._fault(index))]:
            raise UserError(several(faults))

    def _fault(self, index: int) -> str | None:
        """Why an image can't be scored, by the sizes in the files' headers; None if it can."""
        hr = self._hr[index]
        if self._lr is not None and (fault := pair_fault(str(hr), str(self._lr[index]), self.scale)):
            return fault
        try:
            width, height = image_size(str(hr))
        except UserError as error:
            return str(error)
        if min(width, height) < SSIM_WINDOW + 3 * self.scale:
            return f"{hr} is {width}×{height}, too small to be scored at ×{self.scale}; remove it"
        return None

    def __getitem__(self, index: int) -> BenchmarkImage:
        hr = crop_to_multiple(read_image(self._hr[index]), self.scale)
        if self._lr is None:
            seed = zlib.crc32(self.names[index].encode())
            return BenchmarkImage(self.names[index], self.degradation(hr, seed), hr, seed)
        return BenchmarkImage(self.names[index], read_image(self._lr[index]), hr)


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
    pairs = match_pairs(
        given(hr, "benchmark.hr"), given(lr, "benchmark.lr"), degradation.scale, "benchmark.hr", "benchmark.lr"
    )
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


# --- which files of a folder are HR, and which LR --------------------------------------------------------------------


def _find_images(root: Path, scale: int) -> tuple[dict[str, Path], dict[str, Path] | None]:
    """The HR of each image by its name, and its LR if there is any. Raises UserError if that can't be told."""
    if not root.is_dir():
        raise UserError(f"benchmark.root={root}: no such folder")
    source = list_folder(root)
    if not len(source):
        raise UserError(f"no images in {root.absolute()}; expected jpg, png, webp or bmp files")
    paths = [os.fsdecode(name) for name in source.names.tolist()]
    told, results = layout.roles(paths)
    of = {role: [path for path, own in zip(paths, told, strict=True) if own == role] for role in set(told)}
    hr, lr, plain = of.get("hr", []), of.get("lr", []), of.get("plain", [])
    if not hr and layout.named_as_lr(root):
        raise UserError(f"benchmark.root={root} is named as a folder of LR; name the folder that holds HR and LR")
    if not hr and (lr or layout.all_named_as_lr(plain) or any(map(layout.is_suspect, _folders(plain)))):
        others = ", ".join(sorted({path.rpartition("/")[0] or path for path in lr or plain})[:5])
        raise UserError(
            f"{root} has no HR that is called so, but {others}, which would be scored as HR;"
            " name the folder of the HR images alone, or call the folders HR and LR"
        )
    if hr:
        hr, lr = _of_scale(hr, scale, root), _of_scale(lr, scale, None)
    chosen = hr or plain
    small = _lr_among_results([(root / paths[i], root / paths[original]) for i, original in results.items()], scale)
    lr = lr or [path.relative_to(root).as_posix() for path in small]
    if left_out := sorted({*paths} - {*chosen, *lr}):
        log.warning("%s: %d images are not used (%s)", root, len(left_out), shortened(left_out))
    if not lr:
        return _named(root, chosen, layout.short_name if hr else _without_suffix), None
    by_key = _named(root, chosen, layout.hr_key)
    matched = _match_lr(root, by_key, lr, scale)
    names = [layout.short_name(path) for path in chosen]
    names = names if len(set(names)) == len(names) else [layout.hr_key(path) for path in chosen]
    keys = [layout.hr_key(path) for path in chosen]
    return (
        {name: by_key[key] for name, key in zip(names, keys, strict=True)},
        {name: matched[key] for name, key in zip(names, keys, strict=True)},
    )


def _of_scale(paths: list[str], scale: int, root: Path | None) -> list[str]:
    """The images that are said to be of this scale, else those of which no scale is said.

    With `root`, raises UserError if there are only images of other scales.
    """
    scales = {path: layout.scale_of(path) for path in paths}
    chosen = [path for path in paths if scales[path] == scale] or [path for path in paths if scales[path] is None]
    if root is not None and not chosen:
        others = ", ".join(f"×{other}" for other in sorted({other for other in scales.values() if other}))
        raise UserError(f"{root} has no HR for scale={scale}; it has some for {others}")
    return chosen


def _lr_among_results(pairs: list[tuple[Path, Path]], scale: int) -> list[Path]:
    """Of files named after others (`baby_x4` after `baby`), the LR. Raises UserError for one of neither size."""
    found: list[Path] = []
    for path, original in pairs:
        width, height = image_size(str(path))
        whole = image_size(str(original))
        if (width, height) == (whole[0] // scale, whole[1] // scale):
            found.append(path)
        elif width % whole[0] or height % whole[1] or (width, height) == whole:
            raise UserError(
                f"{path} is {width}×{height} and {original} {whole[0]}×{whole[1]}: neither its LR for scale={scale} nor"
                " an enlargement; name the folder of the HR images alone"
            )
    return found


def _match_lr(root: Path, hr: Mapping[str, Path], lr: Sequence[str], scale: int) -> dict[str, Path]:
    """The LR of each HR, both by `layout.hr_key`. Raises UserError if one has none or several, or an LR no HR."""
    candidates: dict[str, list[Path]] = {}
    for path in lr:
        keys = layout.lr_keys(path)
        candidates.setdefault(next((key for key in keys if key in hr), keys[-1]), []).append(root / path)
    files: dict[str, Path] = {}
    for key, paths in candidates.items():
        of_scale = [path for path in paths if path.stem.lower().endswith(f"x{scale}")]
        fitting = of_scale if len(paths) > 1 and len(of_scale) == 1 else paths
        if len(fitting) > 1:
            raise UserError(
                f"{fitting[0]} and {fitting[1]} could both be the LR of {key};"
                " name the folders by benchmark=pairs benchmark.hr=PATH benchmark.lr=PATH"
            )
        files[key] = fitting[0]
    matched = match(list(hr), files, scale, _common([root / path for path in lr]))
    if extra := set(files.values()) - set(matched.values()):
        raise UserError(f"{min(extra)} has no HR in {_common(hr.values())}; add it or remove the LR")
    return matched


def _named(root: Path, paths: Sequence[str], naming: Callable[[str], str]) -> dict[str, Path]:
    """Files by their names, in order of the names. Raises UserError if two have one name."""
    named: dict[str, Path] = {}
    for path in paths:
        name = naming(path)
        if name in named:
            raise UserError(f"{named[name]} and {root / path} have one name; remove one")
        named[name] = root / path
    return dict(sorted(named.items()))


def _without_suffix(path: str) -> str:
    return Path(path).with_suffix("").as_posix()


def _folders(paths: Sequence[str]) -> set[str]:
    """The names of all folders on some relative paths."""
    return {part for path in paths for part in path.split("/")[:-1]}


def _common(files: Iterable[Path]) -> Path:
    """The folder that holds all of some files."""
    return Path(os.path.commonpath([file.parent for file in files]))


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
