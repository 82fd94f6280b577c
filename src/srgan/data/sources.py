"""Where images come from: which files make up a split, and their bytes. Nothing is decoded here.

A source holds its names as one NumPy array of bytes, not as Python objects: CelebA's 202,599 names take 2 MB, and
worker processes share them.
"""

import logging
import os
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray

from srgan.errors import UserError
from srgan.images import SUFFIXES

log = logging.getLogger(__name__)


class Source(Protocol):
    """The images of one split, by index."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where image `index` lies, for messages."""
        ...

    def read(self, index: int) -> bytes:
        """The bytes of image `index`, still encoded."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """Image files below `root`, by their relative paths in UTF-8."""

    root: Path
    names: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return str(self.root / os.fsdecode(self.names[index]))

    def read(self, index: int) -> bytes:
        try:
            return Path(self.name(index)).read_bytes()
        except OSError as error:
            raise UserError(f"{self.name(index)}: can't be read ({error.strerror}); repair or remove it") from error

    def select(self, indices: NDArray[np.int64]) -> Self:
        return replace(self, names=self.names[indices])


@dataclass(frozen=True)
class ZipSource:
    """Images inside a zip that stays packed. Reads by offset: any number of processes may share one source."""

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
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[index]))
            header = file.read(30)  # local file header: lengths of name and extra field stand at 26 and 28
            file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
            data = file.read(int(self.sizes[index]))
        try:
            return zlib.decompress(data, -zlib.MAX_WBITS) if self.deflated[index] else data
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


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set. `test` is scored once, at the end of a run."""

    train: Source
    validation: Source
    test: Source


# --- any folder -----------------------------------------------------------------------------------------------------


def list_folder(root: Path) -> FolderSource:
    """All image files below `root`, nested ones too, sorted by path."""
    names: list[bytes] = []
    visited: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            below.clear()  # a link back to where we have been
            continue
        visited.add(real)
        prefix = os.path.relpath(folder, root)
        inside = "" if prefix == "." else prefix + os.sep
        names += [os.fsencode(inside + name) for name in files if name.lower().endswith(SUFFIXES)]
    return FolderSource(root, np.array(sorted(names), dtype=np.bytes_))


def folder_splits(root: Path, validation_root: Path | None, held_out: float) -> Splits:
    """Any folder of images.

    With `validation_root` all of `root` is trained on, and that folder serves validation and test. Without it the
    share `held_out` is kept from training, half for validation and half for test, at least one image each, chosen by
    a hash of the relative path: the choice does not depend on the machine, the order or the seed.
    """
    images = _non_empty(root)
    if validation_root is not None:
        held = _non_empty(validation_root, "data.validation_root")
        held_files = {os.path.realpath(held.name(index)) for index in range(len(held))}
        trained = [i for i in range(len(images)) if os.path.realpath(images.name(i)) not in held_files]
        if not trained:
            raise UserError(
                f"all images of {root.absolute()} are in data.validation_root too; none is left to train on"
            )
        return Splits(images.select(np.array(trained)), held, held)
    each = max(1, round(len(images) * held_out / 2))
    if not 0 < held_out < 1 or len(images) < 2 * each + 1:
        raise UserError(
            f"{root} holds {len(images)} image(s), too few to hold out a share of {held_out:g} for validation and test;"
            f" add images or name a folder by data.validation_root=PATH"
        )
    order = np.argsort([zlib.crc32(cast(bytes, name)) for name in images.names], kind="stable")
    return Splits(
        train=images.select(np.sort(order[2 * each :])),
        validation=images.select(np.sort(order[:each])),
        test=images.select(np.sort(order[each : 2 * each])),
    )


def _non_empty(root: Path, key: str = "data.root") -> FolderSource:
    if not root.is_dir():
        raise UserError(f"no folder {root.absolute()}; name a folder of images by {key}=PATH")
    images = list_folder(root)
    if not len(images):
        raise UserError(f"no images ({', '.join(SUFFIXES)}) below {root.absolute()}; name another folder by {key}=PATH")
    return images


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
    """The colour photographs that scikit-image carries in its wheel: six to train on, one to validate, two to test."""
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


# --- CelebA ---------------------------------------------------------------------------------------------------------

CELEBA_TRAIN_END, CELEBA_VALIDATION_END = 162_770, 182_637  # the last file number of each split, as published
CELEBA_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
CELEBA_HELP = """\
Three ways to get CelebA (non-commercial research use):
  1. data.download=true fetches it into data.root through torchvision (needs: pip install gdown)
  2. https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: img_align_celeba.zip and list_eval_partition.txt
  3. https://www.kaggle.com/datasets/jessicali9530/celeba-dataset: its archive.zip as it is
Put the folder or the zip, unextracted, where data.root points. To try without CelebA: data=photos"""


def celeba_splits(root: Path) -> Splits:
    """CelebA's aligned faces with the official split: the official folder, Kaggle's, or either as an unextracted zip.

    `root` is the folder that holds `img_align_celeba` (or a zip of it), that folder itself, or the zip. Without a
    partition file the published index ranges decide, which the log says.
    """
    images, partition = _find_celeba(root)
    file_names = np.array([name.rsplit(b"/", 1)[-1] for name in images.names.tolist()])
    if partition is None:
        numbers = np.array([int(name.split(b".")[0]) for name in file_names.tolist()])
        split = np.digitize(numbers, (CELEBA_TRAIN_END, CELEBA_VALIDATION_END), right=True)
        log.info("CelebA: no partition file beside the images; splitting by the published index ranges")
    else:
        split = _partition_of(file_names, partition)
    train, validation, test = (images.select(np.flatnonzero(split == part)) for part in range(3))
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not len(part):
            raise UserError(
                f"CelebA at {root.absolute()} is incomplete: no {name} images among its {len(images)}\n{CELEBA_HELP}"
            )
    return Splits(train, validation, test)


def _find_celeba(root: Path) -> tuple[FolderSource | ZipSource, bytes | None]:
    looked: list[str] = []
    for folder in (root, root / "celeba", root.parent) if root.name == "img_align_celeba" else (root, root / "celeba"):
        for faces in (folder / "img_align_celeba" / "img_align_celeba", folder / "img_align_celeba"):
            looked.append(str(faces.absolute()))
            images = _numbered(list_folder(faces)) if faces.is_dir() else None
            if images is not None and len(images):
                return images, _read_partition(folder, folder.parent, folder.parent.parent)
    archives = (
        [root] if root.suffix == ".zip" else [p for f in (root, root / "celeba") for p in sorted(f.glob("*.zip"))]
    )
    looked.append(str(root.absolute()) if root.suffix == ".zip" else str(root.absolute() / "*.zip"))
    for archive in archives:
        if archive.is_file() and (found := _open_celeba_zip(archive)) is not None:
            return found
    raise UserError("CelebA not found. Looked at:\n  " + "\n  ".join(looked) + f"\n{CELEBA_HELP}")


def _numbered(images: FolderSource) -> FolderSource:
    stems = [name.split(b".")[0] for name in images.names.tolist()]
    return images.select(np.flatnonzero([stem.isdigit() for stem in stems]))


def _open_celeba_zip(path: Path) -> tuple[ZipSource, bytes | None] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [
                entry
                for entry in archive.infolist()
                if entry.filename.endswith(".jpg")
                and Path(entry.filename).stem.isdigit()
                and "img_align_celeba" in entry.filename
            ]
            inside = [n for n in archive.namelist() if n.rsplit("/", 1)[-1] in CELEBA_PARTITIONS]
            partition = archive.read(inside[0]) if inside else _read_partition(path.parent)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: not a readable zip ({error}); get it again") from error
    if not entries:
        return None
    if odd := {entry.compress_type for entry in entries} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UserError(f"{path}: packed by zip method {odd}, only stored and deflated are read; extract it")
    entries.sort(key=lambda entry: entry.filename)
    source = ZipSource(
        path,
        names=np.array([os.fsencode(entry.filename) for entry in entries]),
        offsets=np.array([entry.header_offset for entry in entries], dtype=np.int64),
        sizes=np.array([entry.compress_size for entry in entries], dtype=np.int64),
        deflated=np.array([entry.compress_type == zipfile.ZIP_DEFLATED for entry in entries]),
    )
    return source, partition


def _read_partition(*folders: Path) -> bytes | None:
    for path in (folder / name for folder in folders for name in CELEBA_PARTITIONS):
        if path.is_file():
            return path.read_bytes()
    return None


def _partition_of(file_names: NDArray[np.bytes_], partition: bytes) -> NDArray[np.int64]:
    """The split (0, 1, 2) of each file, or −1 for one that the partition file doesn't list."""
    words = partition.replace(b",", b" ").replace(b"image_id partition", b"").split()
    listed, parts = np.array(words[::2], dtype=np.bytes_), np.array(words[1::2])
    if not len(listed) or len(listed) != len(parts) or not np.isin(parts, [b"0", b"1", b"2"]).all():
        raise UserError("CelebA's partition file is damaged: expected lines such as `000001.jpg 0`; get it again")
    order = np.argsort(listed)
    place = order[np.searchsorted(listed, file_names, sorter=order).clip(0, len(listed) - 1)]
    return np.where(listed[place] == file_names, parts[place].astype(np.int64), -1)


def download_celeba(root: Path) -> None:
    """Fetch CelebA into `root` through torchvision, unless it is there. Raises UserError if that fails."""
    try:
        _find_celeba(root)
        return
    except UserError:
        pass
    from torchvision.datasets import CelebA

    log.info("CelebA: downloading 1.4 GB into %s", root.absolute())
    try:
        CelebA(str(root), split="all", download=True)
    except Exception as error:  # network, disk, Google Drive's quota, a missing gdown: each raises its own kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"CelebA could not be downloaded ({reason}).\n{CELEBA_HELP}") from error
