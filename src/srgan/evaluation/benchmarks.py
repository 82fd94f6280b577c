"""Benchmarks: named images with LR and HR, from files or from a data set."""

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
from srgan.data.pairs import match_pairs, pair_fault
from srgan.data.sources import PairSource, Splits, list_folder, shortened
from srgan.data.twins import refuse_twins
from srgan.errors import UserError
from srgan.files import below, given, several
from srgan.images import crop_to_multiple, decode, image_size

log = logging.getLogger(__name__)


MOST_VERIFIED = 5000  # images of a split that are decoded once before they are scored


class BenchmarkImage(NamedTuple):
    """One named image: lr (1, 3, h, w), hr (1, 3, scale · h, scale · w), uint8, and the seed for degrading it."""

    name: str
    lr: Tensor
    hr: Tensor
    seed: int = 0


class Benchmark(ABC):
    """A sequence of images, each read or made on access, and the degradation that leads from HR to LR."""

    name: str
    names: list[str]  # one per image, all different, without suffixes
    degradation: Degradation
    lr_is_given = False

    @property
    def lr_from(self) -> str:
        """A text that says where LR comes from."""
        return "as given" if self.lr_is_given else f"by {self.degradation.name} degradation"

    @property
    def scale(self) -> int:
        return self.degradation.scale

    def __len__(self) -> int:
        return len(self.names)

    @abstractmethod
    def __getitem__(self, index: int) -> BenchmarkImage: ...


class FolderBenchmark(Benchmark):
    """A folder of HR images, with or without their LR, in any layout that `srgan.data.layout` knows.

    HR and LR are told apart by folders (`x4/HR` and `x4/LR`, `GTmod12` and `LRbicx4`, …)
    or by file names (`img_001_SRF_4_HR.png` and `…_LR.png`). An LR file is used unchanged; its size must be that of
    its HR divided by the scale, rounded down. If there is no LR, the degradation makes it. HR is cut at the bottom and
    right to a multiple of the scale. Grey images become RGB of equal channels, transparency is laid on white.

    Args:
        root: the folder.
        degradation: makes LR if there is none; degrades SR again for LR-PSNR.
        name: printed with the scores; None for the folder's name.
        images: largest number of images, taken at even intervals; None for all.

    Raises UserError if the folder is missing or has no images, if HR and LR can't be told apart or don't match, or if
    files are unreadable or of a wrong size, all of which it names.
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
        """The reason why an image can't be scored, judged by its files' headers; None if it can."""
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
            seed = zlib.crc32(os.fsencode(self.names[index]))
            return BenchmarkImage(self.names[index], self.degradation(hr, seed), hr, seed)
        return BenchmarkImage(self.names[index], read_image(self._lr[index]), hr)


class SplitBenchmark(Benchmark):
    """The images of one split of a data set. LR comes from its pairs or, if it has none, from its degradation."""

    def __init__(self, images: WholeImages, degradation: Degradation, name: str) -> None:
        self.name = name
        self.degradation = degradation
        self.names = distinct([images.name(index) for index in range(len(images))])
        self.lr_is_given = isinstance(images.source, PairSource)
        self._images = images

    def verify(self) -> None:
        """Raise UserError, naming them, if images are damaged or too small. Larger splits are not checked."""
        if len(self) <= MOST_VERIFIED:
            self._images.verify()

    def __getitem__(self, index: int) -> BenchmarkImage:
        hr, lr, seed = self._images[index][None], self._images.lr(index), self._images.seed(index)
        return BenchmarkImage(self.names[index], self.degradation(hr, seed) if lr is None else lr[None], hr, seed)


class DataModule(Protocol):
    """The parts of a data module that a benchmark needs."""

    splits: Splits
    resize: list[int] | None
    degradation: Degradation


def split_benchmark(
    data: DataModule | None,
    split: Literal["train", "validation", "test"],
    images: int | None,
    name: str | None = None,
) -> SplitBenchmark:
    """Make a benchmark of one split of `data`: at most `images`, taken at even intervals; None for all."""
    if data is None:
        raise UserError("benchmark=split needs a data set: data=celeba, data=folder or data=photos")
    if split not in ("train", "validation", "test"):
        raise UserError(f"benchmark.split={split}: expected train, validation or test")
    check_count(images, "benchmark.images")
    degradation = data.degradation
    whole = WholeImages(getattr(data.splits, split), degradation.scale, images, data.resize)
    return SplitBenchmark(whole, degradation, name or f"{type(data).__name__} {split}")


def pairs_benchmark(
    hr: str | None, lr: str | None, degradation: Degradation, name: str | None, images: int | None
) -> SplitBenchmark:
    """Make a benchmark of an HR and an LR folder, matched by `match_pairs`; `degradation` degrades SR for LR-PSNR."""
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

    In order of preference the stem is the name itself, the name followed by x4 or _x4 (for ×4), or the only stem that
    begins with the name. Raises UserError for a name with no or several files, or a file that fits two names.
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
    """Shorten paths to distinct names, without suffixes and without the parts that all paths share."""
    parts = [below(path).parts or (str(path),) for path in paths]
    shared = set(parts[0]).intersection(*parts[1:])
    names = ["/".join(part for part in path if part not in shared) or path[-1] for path in parts]
    bare = [re.sub(r"\.[A-Za-z]\w*$", "", name) for name in names]
    forms = (bare, names, [str(path) for path in paths])
    return next((form for form in forms if len(set(form)) == len(paths)), forms[-1])


# --- which files of a folder are HR, and which LR --------------------------------------------------------------------


def _find_images(root: Path, scale: int) -> tuple[dict[str, Path], dict[str, Path] | None]:
    """Each image's HR by name, and its LR if there is any. Raises UserError if they can't be told apart."""
    if not root.is_dir():
        raise UserError(f"benchmark.root={root}: no such folder")
    source = list_folder(root)
    if not len(source):
        raise UserError(f"no images in {root.absolute()}; expected jpg, png, webp or bmp files")
    paths = [os.fsdecode(name) for name in source.names.tolist()]
    told, results = layout.roles(paths)
    of = {role: [path for path, own in zip(paths, told, strict=True) if own == role] for role in set(told)}
    hr, lr, plain = of.get("hr", []), of.get("lr", []), of.get("plain", [])
    if not hr and (layout.named_as_lr(root) or layout.is_suspect(root.absolute().name)):
        raise UserError(
            f"benchmark.root={root} has the name of an LR folder or of one scale; name the folder that holds HR and LR,"
            " or rename it if these are HR"
        )
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
        named = _named(root, chosen, layout.short_name if hr else _without_suffix)
        refuse_twins(root, chosen, scored=True)
        return named, None
    by_key = _named(root, chosen, layout.hr_key)
    refuse_twins(root, chosen, scored=True)
    matched = _match_lr(root, by_key, lr, scale)
    names = [layout.short_name(path) for path in chosen]
    names = names if len(set(names)) == len(names) else [layout.hr_key(path) for path in chosen]
    keys = [layout.hr_key(path) for path in chosen]
    return (
        {name: by_key[key] for name, key in zip(names, keys, strict=True)},
        {name: matched[key] for name, key in zip(names, keys, strict=True)},
    )


def _of_scale(paths: list[str], scale: int, root: Path | None) -> list[str]:
    """The images whose path names this scale; if there are none, those whose path names no scale.

    If `root` is given, raises UserError if there are only images of other scales.
    """
    scales = {path: layout.scale_of(path) for path in paths}
    chosen = [path for path in paths if scales[path] == scale] or [path for path in paths if scales[path] is None]
    if root is not None and not chosen:
        others = ", ".join(f"×{other}" for other in sorted({other for other in scales.values() if other}))
        raise UserError(f"{root} has no HR for scale={scale}; it has some for {others}")
    return chosen


def _lr_among_results(pairs: list[tuple[Path, Path]], scale: int) -> list[Path]:
    """The LR among files named after others, as `baby_x4` after `baby`. Raises UserError for one of neither size."""
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
    """The LR of each HR, matched by `layout.hr_key`. Raises UserError unless each has exactly one."""
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
    """Files by name, sorted. Raises UserError if two have the same name."""
    named: dict[str, Path] = {}
    for path in paths:
        name = naming(path)
        if name in named:
            raise UserError(f"{named[name]} and {root / path} have the same name; remove one")
        named[name] = root / path
    return dict(sorted(named.items()))


def _without_suffix(path: str) -> str:
    return Path(path).with_suffix("").as_posix()


def _folders(paths: Sequence[str]) -> set[str]:
    """The names of all folders in these relative paths."""
    return {part for path in paths for part in path.split("/")[:-1]}


def _common(files: Iterable[Path]) -> Path:
    """The deepest folder that holds all these files."""
    return Path(os.path.commonpath([file.parent for file in files]))


def by_stem(folder: Path) -> dict[str, Path]:
    """List the images below a folder, by their relative path without suffix.

    Raises UserError if there are none, or if two differ only in suffix.
    """
    source = list_folder(folder)
    if not len(source):
        raise UserError(f"no images in {folder.absolute()}; expected jpg, png, webp or bmp files")
    files: dict[str, Path] = {}
    for path in (Path(source.name(index)) for index in range(len(source))):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in files:
            raise UserError(f"{files[stem]} and {path} have the same name; remove one")
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
