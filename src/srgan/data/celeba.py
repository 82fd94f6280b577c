"""CelebA's aligned faces with the official splits, in the layouts in which they are handed on."""

import logging
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srgan.data.sources import MOST_BYTES, FolderSource, Splits, ZipSource, list_folder
from srgan.errors import UserError
from srgan.files import is_hidden

log = logging.getLogger(__name__)

CELEBA_TRAIN_END, CELEBA_VALIDATION_END = 162_770, 182_637  # the last file number of each split, as published
CELEBA_IMAGES = 202_599
CELEBA_FOLDERS = ("img_align_celeba", "img_align_celeba_png")
CELEBA_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
IN_THE_WILD = "img_celeba"  # the same faces, not aligned
FACE = re.compile(r"\d{6}\.(jpe?g|png)", re.IGNORECASE)
# An image and its split, with quotes, a separator, and a number of the row before them or not.
LISTED = re.compile(
    r"""^[ \t]*(?:["']?\d*["']?[,;\t])?["']?(\d+)\.(?:jpe?g|png)["']?[ \t]*[,; \t][ \t]*["']?([012])["']?[ \t\r]*$""",
    re.IGNORECASE | re.MULTILINE,
)
ENCRYPTED = 1  # in a zip entry's flags
CELEBA_HELP = """\
Three ways to get CelebA (non-commercial research use):
  1. data.download=true fetches it into data.root through torchvision (needs: pip install gdown)
  2. https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: img_align_celeba.zip and list_eval_partition.txt
  3. https://www.kaggle.com/datasets/jessicali9530/celeba-dataset: its archive.zip as it is
Put the folder or the zip, unextracted, where data.root points. To try without CelebA: data=photos"""


def celeba_splits(root: Path) -> Splits:
    """Official splits of CelebA's aligned faces: the official folders, Kaggle's, flat ones, or a zip of any of them.

    `root` is the folder that holds `img_align_celeba` or `img_align_celeba_png` (or a zip of it, or folders such as the
    official `Img`, `Eval` and `Anno`), that folder itself, or the zip. Without a partition file the published index
    ranges decide, which the log says. Raises UserError if images are missing.
    """
    images, partition = _find_celeba(root)
    numbers = np.array([int(name.rpartition(b"/")[2].partition(b".")[0]) for name in images.names.tolist()])
    if partition is None:
        split = np.digitize(numbers, (CELEBA_TRAIN_END, CELEBA_VALIDATION_END), right=True)
        log.info("CelebA: no partition file beside the images; splitting by the published index ranges")
    else:
        split = _partition_of(numbers, partition)
    train, validation, test = (images.select(np.flatnonzero(split == part)) for part in range(3))
    for name, part in (("training", train), ("validation", validation), ("test", test)):
        if not len(part):
            raise UserError(
                f"CelebA at {root.absolute()} is incomplete: no {name} images among its {len(images):,}"
                f" ({numbers.min():06d} to {numbers.max():06d} of {CELEBA_IMAGES:,}). The official splits need images"
                f" of each; get the others, or hold out a share of these by data=folder\n{CELEBA_HELP}"
            )
    return Splits(train, validation, test)


# --- where the images are -------------------------------------------------------------------------------------------


def _find_celeba(root: Path) -> tuple[FolderSource | ZipSource, bytes | None]:
    """The images and the bytes of their partition file, None if there is none. Raises UserError without images."""
    for folder in _folders(root):
        for name in CELEBA_FOLDERS:
            for faces in (folder / name / name, folder / name):
                if faces.is_dir() and len(images := _numbered(list_folder(faces))):
                    return images, _read_partition(faces)
    if root.is_dir() and root.name != IN_THE_WILD and any(_is_face(file.name) for file in root.iterdir()):
        return _numbered(list_folder(root), nested=False), _read_partition(root)
    archives = _files(root, ".zip")
    for archive in sorted(archives, key=lambda path: "celeba" not in path.name.lower()):
        if (found := _open_celeba_zip(archive)) is not None:
            return found
    tried = [*(root / name for name in CELEBA_FOLDERS), root if root.suffix.lower() == ".zip" else root / "*.zip"]
    places = "\n  ".join(str(path.absolute()) for path in tried)
    packed = [path.name for path in _files(root, ".7z", ".001", ".tar", ".gz", ".rar")]
    hint = f"{packed[0]} is there, but only zips are read packed: extract it.\n" if packed else ""
    raise UserError(f"CelebA not found. Looked at:\n  {places}\n  and the folders inside\n{hint}{CELEBA_HELP}")


def _folders(root: Path, depth: int = 3) -> Iterator[Path]:
    """`root` and the folders in it, those near the root first, without the folders of images and hidden ones."""
    level = [root] if root.is_dir() else []
    while level:
        yield from level
        depth -= 1
        level = sorted(
            Path(entry.path)
            for folder in level * (depth >= 0)
            for entry in os.scandir(folder)
            if entry.is_dir() and not is_hidden(entry.name) and entry.name not in (*CELEBA_FOLDERS, IN_THE_WILD)
        )


def _files(root: Path, *suffixes: str) -> list[Path]:
    """`root`, if it is a file, else the files in its folders that have one of the suffixes, in capitals or not."""
    entries = (Path(entry.path) for folder in _folders(root) for entry in os.scandir(folder) if entry.is_file())
    files = [root] if root.is_file() else sorted(path for path in entries if not is_hidden(path.name))
    return [path for path in files if path.name.lower().endswith(suffixes)]


def _is_face(name: str) -> bool:
    """True for the name of a file, without its path, as CelebA's images have it: 000001.jpg, 000001.png."""
    return FACE.fullmatch(name) is not None


def _numbered(images: FolderSource, nested: bool = True) -> FolderSource:
    """Only the images named as CelebA's are; without `nested`, only those that lie in no folder below the root."""
    names = [os.fsdecode(name) for name in images.names.tolist()]
    return images.select(
        np.flatnonzero([_is_face(name.rpartition("/")[2]) and (nested or "/" not in name) for name in names])
    )


# --- zips -----------------------------------------------------------------------------------------------------------


def _open_celeba_zip(path: Path) -> tuple[ZipSource, bytes | None] | None:
    """The images in a zip and the partition file in it or beside it; None for a zip without faces.

    A zip may lie in the zip, if that stores it without compressing it again. Raises UserError for one that can't be
    read, is encrypted, or is packed by another method than deflate.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries, partition = _faces_and_partition(archive, path)
            start = 0
            if not entries:
                for inner in (entry for entry in archive.infolist() if _is_inner_zip(entry)):
                    if inner.flag_bits & ENCRYPTED or inner.compress_type != zipfile.ZIP_STORED:
                        raise UserError(
                            f"{path}: the zip {inner.filename} in it is compressed again; extract {path.name}"
                        )
                    with archive.open(inner) as file, zipfile.ZipFile(file) as nested:
                        entries, in_nested = _faces_and_partition(nested, path)
                    if entries:
                        start, partition = _data_offset(path, inner), partition or in_nested
                        break
    except UserError:
        raise
    except Exception as error:  # Python raises many kinds for damaged zips
        raise UserError(f"{path}: not a readable zip ({error}); get it again") from error
    if not entries:
        return None
    if unreadable := {entry.compress_type for entry in entries} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UserError(f"{path}: packed by zip method {unreadable}, only stored and deflated are read; extract it")
    entries.sort(key=lambda entry: entry.filename)
    source = ZipSource(
        path,
        names=np.array([os.fsencode(entry.filename) for entry in entries]),
        offsets=np.array([start + entry.header_offset for entry in entries], dtype=np.int64),
        sizes=np.array([entry.compress_size for entry in entries], dtype=np.int64),
        deflated=np.array([entry.compress_type == zipfile.ZIP_DEFLATED for entry in entries]),
    )
    return source, partition or _read_partition(path)


def _faces_and_partition(archive: zipfile.ZipFile, path: Path) -> tuple[list[zipfile.ZipInfo], bytes | None]:
    """The entries of the images in a zip, and the bytes of its partition file. Raises UserError if it is encrypted."""
    faces = [
        entry
        for entry in archive.infolist()
        if _is_face(entry.filename.rpartition("/")[2])
        and not any(is_hidden(name) or name == IN_THE_WILD for name in entry.filename.split("/"))
    ]
    for name in CELEBA_FOLDERS:
        if aligned := [entry for entry in faces if name in entry.filename.split("/")]:
            faces = aligned
            break
    partitions = [entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] in CELEBA_PARTITIONS]
    if any(entry.flag_bits & ENCRYPTED for entry in [*faces, *partitions]):
        raise UserError(f"{path} is encrypted: extract it with its password, and name the folder")
    if partitions and partitions[0].file_size > MOST_BYTES:
        raise UserError(f"{path}: {partitions[0].filename} claims {partitions[0].file_size:,} bytes; get the zip again")
    return faces, archive.read(partitions[0]) if partitions else None


def _is_inner_zip(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.lower().endswith(".zip") and not any(map(is_hidden, entry.filename.split("/")))


def _data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin in its zip, after the local header."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = file.read(4)  # of the name and the extra field
    return entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


# --- the partition --------------------------------------------------------------------------------------------------


def _read_partition(images: Path) -> bytes | None:
    """The partition file of a folder or zip of images: in it, up to three folders above, or there in Eval or Anno."""
    for folder in (images, *images.absolute().parents[:3]):
        for path in (folder / part / name for part in ("", "Eval", "Anno") for name in CELEBA_PARTITIONS):
            if path.is_file():
                return path.read_bytes()
    return None


def _partition_of(numbers: NDArray[np.int64], partition: bytes) -> NDArray[np.int64]:
    """The split (0, 1, 2) of each image by its number, or −1 for one that the partition file doesn't list.

    Raises UserError, naming the line, for a file that has others than image and split, after one line of headings.
    """
    text = partition.decode("utf-16" if partition[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    rows, lines = LISTED.findall(text), text.splitlines()
    first = next(filter(str.strip, lines), "")
    headings = first and not LISTED.match(first) and not re.search(r"\d\.(jpe?g|png)", first, re.IGNORECASE)
    if not rows or len(rows) + bool(headings) != sum(map(bool, map(str.strip, lines))):
        wrong = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not LISTED.match(line)]
        number, line = (wrong[bool(headings) :] or [(len(lines) + 1, "")])[0]
        raise UserError(
            f"CelebA's partition file is damaged (line {number}: {line.strip()[:60]!r}): expected lines such as"
            " `000001.jpg 0`; get it again"
        )
    listed, parts = np.array([int(row[0]) for row in rows]), np.array([int(row[1]) for row in rows])
    order = np.argsort(listed, kind="stable")
    if len(twice := listed[order][1:][np.diff(listed[order]) == 0]):
        raise UserError(f"CelebA's partition file is damaged: it lists {twice[0]:06d} twice; get it again")
    position = order[np.searchsorted(listed, numbers, sorter=order).clip(0, len(listed) - 1)]
    split = np.where(listed[position] == numbers, parts[position], -1)
    here = int((split >= 0).sum())
    if here < len(listed) or here < len(numbers):
        log.warning(
            "CelebA: of %d images in the partition file %d are there; %d images that it doesn't list are left out",
            len(listed), here, len(numbers) - here,
        )  # fmt: skip
    return split


def download_celeba(root: Path) -> None:
    """Download CelebA into `root` through torchvision, unless it is there. Raises UserError if that fails."""
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
