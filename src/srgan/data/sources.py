"""Sources of images: which files make up a split, and their bytes, not yet decoded.

A source holds its names as one NumPy array of bytes, not as Python objects: CelebA's 202,599 names take 2 MB, and
worker processes share them.
"""

import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from srgan.data import layout
from srgan.data.twins import refuse_twins
from srgan.errors import UserError
from srgan.files import is_hidden
from srgan.images import SUFFIXES

log = logging.getLogger(__name__)

# As BasicSR's scripts name the pieces that they cut pictures into, and pictures in smaller sizes (DF2K_multiscale).
SUB_IMAGE, SMALLER = re.compile(rb"_s\d{3}(?=\.[^.]+$)"), re.compile(rb".*/|" + layout.MULTISCALE.encode())
MOST_BYTES = 2**28  # of one image in a zip, unpacked; more is no photograph
UNREAD = (".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".ppm", ".pgm", ".tga", ".jfif", ".jpe")
RUN_MARKS = (".hydra", "run.json")  # a folder that holds one of them was written by a run of ours
ENVIRONMENT_MARK = "pyvenv.cfg"  # and one with this holds Python packages


class Source(Protocol):
    """The encoded images of one split, by index."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Path of image `index`, for messages."""
        ...

    def read(self, index: int) -> bytes:
        """Bytes of image `index`, still encoded. Raises UserError if they can't be read."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Image files below `root`, named by their relative paths in UTF-8."""

    root: Path
    names: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.names[index]))  # noqa: PTH118 -- ten times as fast as Path

    def read(self, index: int) -> bytes:
        try:
            with open(self.name(index), "rb", buffering=0) as file:  # noqa: PTH123 -- Path is slow, and so is a buffer
                return file.read()
        except OSError as error:
            raise UserError(f"{self.name(index)}: can't be read ({error.strerror}); repair or remove it") from error

    def select(self, indices: NDArray[np.int64]) -> Self:
        return replace(self, names=self.names[indices])


@dataclass(frozen=True)
class PairSource(FolderSource):
    """HR files and their LR files in the same order."""

    lr: FolderSource

    def select(self, indices: NDArray[np.int64]) -> Self:
        return replace(self, names=self.names[indices], lr=self.lr.select(indices))


@dataclass(frozen=True)
class ZipSource:
    """Images in a zip, read by offset without unpacking, so that any number of processes can share a source."""

    path: Path
    names: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    deflated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return f"{self.path}:{os.fsdecode(self.names[index])}"

    def read(self, index: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(int(self.offsets[index]))
                header = file.read(30)  # local file header; bytes 26 and 28 hold the lengths of name and extra field
                lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
                file.seek(lengths, os.SEEK_CUR)
                size = int(self.sizes[index])
                data = file.read(size) if size <= MOST_BYTES else b""
        except OSError as error:
            raise UserError(f"{self.name(index)}: can't be read ({error.strerror}); get the zip again") from error
        if len(data) < size:
            raise UserError(f"{self.name(index)}: damaged in the zip (cut off, or too large); get the zip again")
        if not self.deflated[index]:
            return data
        try:
            unpacked = (inflate := zlib.decompressobj(-zlib.MAX_WBITS)).decompress(data, MOST_BYTES)
            if not inflate.eof:
                raise zlib.error("cut off, or too large")
            return unpacked
        except zlib.error as error:
            raise UserError(f"{self.name(index)}: damaged in the zip ({error}); get the zip again") from error

    def select(self, indices: NDArray[np.int64]) -> Self:
        return replace(
            self,
            names=self.names[indices],
            offsets=self.offsets[indices],
            sizes=self.sizes[indices],
            deflated=self.deflated[indices],
        )


class NamedSource(Source, Protocol):
    """A source whose images are named by bytes and can be selected."""

    @property
    def names(self) -> NDArray[np.bytes_]: ...

    def select(self, indices: NDArray[np.int64]) -> Self: ...


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set. `test` is scored once, at the end of a run."""

    train: Source
    validation: Source
    test: Source


# --- any folder -----------------------------------------------------------------------------------------------------


def list_folder(root: Path) -> FolderSource:
    """All image files below `root`, including subfolders, sorted by path.

    Hidden files and folders, system folders (`@eaDir`, `__MACOSX`) and, below `root`, folders of runs are skipped; the
    log names the latter, and counts images of formats that aren't read. Raises UserError for a folder that can't be
    read.
    """
    images, runs, unread = _walk(root)
    if unread:
        log.warning(
            "%s: %d images of other formats are not read (%s); make them PNG",
            root,
            unread.total(),
            ", ".join(sorted(unread)),
        )
    if runs:
        log.info("%s: folders of runs are skipped (%s)", root, shortened(runs))
    return images


def _walk(root: Path) -> tuple[FolderSource, list[str], Counter[str]]:
    """The images below `root`, the folders of runs there, whose images are not among them, and other formats' files."""
    unread: Counter[str] = Counter()
    names: list[bytes] = []
    runs: list[str] = []
    visited: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: can't be read ({error.strerror}); its images would be missing") from error

    for folder, below, files in os.walk(root, onerror=refuse, followlinks=True):
        prefix = os.path.relpath(folder, root)
        inside = "" if prefix == "." else prefix + os.sep
        real = os.path.realpath(folder)
        of_run = any(mark in below or mark in files for mark in RUN_MARKS)
        if real in visited or (inside and (of_run or ENVIRONMENT_MARK in files)):
            below.clear()  # a link back to a folder already listed, or what a program wrote
            runs += [prefix] if of_run and real not in visited else []
            continue
        visited.add(real)
        shown = [name for name in below if not is_hidden(name)]
        below[:] = sorted(shown, key=lambda name: (Path(folder, name).is_symlink(), name))  # links last
        names += [os.fsencode(inside + name) for name in files if name.lower().endswith(SUFFIXES) and name[0] != "."]
        unread.update(
            name.lower()[name.rfind(".") :] for name in files if name.lower().endswith(UNREAD) and name[0] != "."
        )
    return FolderSource(root, np.array(sorted(names), dtype=np.bytes_)), sorted(runs), unread


def shortened(names: Sequence[str], most: int = 3) -> str:
    """The first names, and a count of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def folder_splits(root: Path, validation_root: Path | None, held_out: float) -> Splits:
    """Splits of any folder of images.

    With `validation_root`, that folder is used for validation and test, and all other images of `root` for training.
    Without it the share `held_out` of the images is held out, half for validation and half for test, at least one image
    each. A hash of the relative path selects them, independent of the machine, the order and the seed. Raises UserError
    if a split would be empty.
    """
    images = list_hr(root, "data.root")
    if validation_root is None:
        return hold_out(images, held_out, f"{root} holds", "name a folder by data.validation_root=PATH")
    held = list_hr(validation_root, "data.validation_root")
    return Splits(left_to_train(images, held, "data.validation_root"), held, held)


def left_to_train(images: FolderSource, held: FolderSource, key: str) -> FolderSource:
    """The images that are not among those held out by the setting `key`. Raises UserError if none is left."""
    held_files = {os.path.realpath(held.name(index)) for index in range(len(held))}
    trained = [i for i in range(len(images)) if os.path.realpath(images.name(i)) not in held_files]
    if not trained:
        raise UserError(f"all images of {images.root.absolute()} are in {key} too; none is left to train on")
    return images.select(np.array(trained))


def hold_out(images: NamedSource, held_out: float, found: str, instead: str) -> Splits:
    """Hold out the share `held_out` of the images, half for validation and half for test.

    A hash of the names selects them, at least one image each. The sub-images `0001_s001`, `0001_s002` … of a picture,
    which overlap, are held out together, and so are its smaller sizes `0001T0`, `0001T1` …, in whichever folder. Raises
    UserError, which begins with `found` and ends with the advice `instead`, if a split would be empty.
    """
    if not 0 < held_out < 1:
        raise UserError(f"data.held_out={held_out:g}: expected a share between 0 and 1")
    each = max(1, round(len(images) * held_out / 2))
    if len(images) < 2 * each + 1:
        raise UserError(
            f"{found} {len(images)} image(s), too few to hold out a share of {held_out:g} for validation and test;"
            f" add images or {instead}"
        )
    whole = [SUB_IMAGE.sub(b"", cast(bytes, name)) for name in images.names]
    pictures = np.array(_pictures(whole))
    order = np.argsort([zlib.crc32(cast(bytes, picture)) for picture in pictures], kind="stable")
    trained = order[2 * each :]
    if len(trained := trained[~np.isin(pictures[trained], pictures[order[: 2 * each]])]) == 0:
        raise UserError(f"{found} sub-images of too few pictures to hold some out; add pictures or {instead}")
    return Splits(
        train=images.select(np.sort(trained)),
        validation=images.select(np.sort(order[:each])),
        test=images.select(np.sort(order[each : 2 * each])),
    )


def _pictures(names: Sequence[bytes]) -> list[bytes]:
    """A name for each file, the same for a picture and its smaller sizes, whatever their folders and suffixes."""
    bare = [SMALLER.sub(b"", name) for name in names]
    stems = [name.rpartition(b".")[0] for name in bare]
    is_smaller = [short != name.rpartition(b"/")[2] for short, name in zip(bare, names, strict=True)]
    grouped = {stem for stem, smaller in zip(stems, is_smaller, strict=True) if smaller}
    originals = {stem: short for stem, short, smaller in zip(stems, bare, is_smaller, strict=True) if not smaller}
    return [
        originals.get(stem, short) if stem in grouped else name
        for stem, short, name in zip(stems, bare, names, strict=True)
    ]


def list_images(root: Path, key: str) -> FolderSource:
    """All images below `root`, which the setting `key` names. Raises UserError if there are none."""
    if root.is_file():
        raise UserError(f"{key}={root} is a file; name a folder of images by {key}=PATH (extract an archive first)")
    if not root.is_dir():
        raise UserError(f"no folder {root.absolute()}; name a folder of images by {key}=PATH")
    images = list_folder(root)
    if not len(images):
        runs = " but those of runs" if _walk(root)[1] else ""
        raise UserError(
            f"no images ({', '.join(SUFFIXES)}) below {root.absolute()}{runs}; name another folder by {key}=PATH"
        )
    return images


def list_hr(root: Path, key: str) -> FolderSource:
    """The HR images below `root`: those whose names don't say otherwise, according to `layout.roles`.

    Folders of LR, upscaled copies beside their originals, and second versions of the same images are left out. The log
    says what was found. Raises UserError if nothing is left, if `root` itself has the name of an LR folder, or if it
    holds the same pictures twice: HR of several scales, or pictures in two sizes (see `twins`).
    """
    images = list_images(root, key)
    paths = [os.fsdecode(name) for name in images.names.tolist()]
    roles, _ = layout.roles(paths)
    if "hr" not in roles and layout.named_as_lr(root):
        raise UserError(f"{key}={root} is named as a folder of LR; name the folder of the HR, or rename it")
    kept = [index for index, role in enumerate(roles) if role in ("hr", "plain")]
    told = {
        role: [path for path, own in zip(paths, roles, strict=True) if own == role]
        for role in ("lr", "result", "spare")
    }
    left_out = "; ".join(
        f"{len(told[role])} {words} ({_places(told[role], by_folder)})"
        for role, words, by_folder in (
            ("lr", "LR", True),
            ("spare", "of which HR is there as well", True),
            ("result", "named after another image", False),
        )
        if told[role]
    )
    if not kept:
        raise UserError(f"{key}={root} holds no HR images, only {left_out}; name the folder of the HR by {key}=PATH")
    scales = sorted({scale for i in kept if roles[i] == "hr" and (scale := layout.scale_of(paths[i])) is not None})
    if len(scales) > 1:
        each = ", ".join(f"×{scale}" for scale in scales)
        raise UserError(f"{key}={root} holds the HR of several scales ({each}), the same pictures; name one folder")
    refuse_twins(root, [paths[index] for index in kept], scored=False)
    places = _places([paths[index] for index in kept], True)
    log.info("%s=%s: %d images (%s)", key, root, len(kept), places)
    if left_out:
        log.warning("%s=%s: left out are %s", key, root, left_out)
    return images.select(np.array(kept))


def _places(paths: Sequence[str], by_folder: bool) -> str:
    """The folders of some images with their numbers, or the first of their names."""
    if not by_folder:
        return shortened(paths)
    counted = Counter(path.rpartition("/")[0] or "." for path in paths)
    return shortened([f"{folder}: {count}" for folder, count in counted.most_common()], 5)


# --- the photographs in scikit-image --------------------------------------------------------------------------------

PHOTOS_TRAIN = (
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
PHOTOS_VALIDATION = ("coffee.png",)
PHOTOS_TEST = ("astronaut.png", "chelsea.png")


def photo_splits() -> Splits:
    """Splits of the colour photographs in scikit-image's wheel: six to train on, one to validate, two to test."""
    import skimage.data

    root = Path(skimage.data.__file__).parent
    for name in PHOTOS_TRAIN + PHOTOS_VALIDATION + PHOTOS_TEST:
        if not (root / name).is_file():
            raise UserError(
                f"scikit-image's photograph {name} is not in {root}; run pip install --force-reinstall scikit-image"
            )

    def source(names: tuple[str, ...]) -> FolderSource:
        return FolderSource(root, np.array([os.fsencode(name) for name in names]))

    return Splits(source(PHOTOS_TRAIN), source(PHOTOS_VALIDATION), source(PHOTOS_TEST))
