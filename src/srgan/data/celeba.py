"""CelebA's aligned faces with the official splits, in all layouts in which they are distributed."""

import logging
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from srgan.data.sources import MOST_BYTES, FolderSource, Splits, ZipSource, list_folder
from srgan.errors import UserError
from srgan.files import is_hidden

log = logging.getLogger(__name__)

CELEBA_TRAIN_END, CELEBA_VALIDATION_END = 162_770, 182_637  # last file number of each split, as published
CELEBA_IMAGES = 202_599
CELEBA_FOLDERS = ("img_align_celeba", "img_align_celeba_png")
LISTS = {  # of all images, in text files → their names
    "partition": ("list_eval_partition.txt", "list_eval_partition.csv"),
    "landmarks": ("list_landmarks_align_celeba.txt", "list_landmarks_align_celeba.csv"),
}
IN_THE_WILD = "img_celeba"  # the same faces, not aligned
FACE = re.compile(r"\d{6}\.(jpe?g|png)", re.IGNORECASE)
# An image's name, in quotes or not, after the number of its row or not.
NAMED = r"""^[ \t]*(?:["']?\d*["']?[,;\t])?["']?(\d+)\.(?:jpe?g|png)["']?"""
VALUE = r"""[ \t]*[,; \t][ \t]*["']?({})["']?"""  # after a separator
LISTED = re.compile(NAMED + VALUE.format("[012]") + r"[ \t\r]*$", re.IGNORECASE | re.MULTILINE)  # its split
LANDMARKS = re.compile(NAMED + 10 * VALUE.format(r"-?\d+") + r"[ \t\r]*$", re.IGNORECASE | re.MULTILINE)
ENCRYPTED = 1  # in a zip entry's flags
CELEBA_HELP = """\
Three ways to get CelebA (non-commercial research use):
  1. data.download=true fetches it into data.root through torchvision (needs: pip install gdown)
  2. https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: img_align_celeba.zip and list_eval_partition.txt
  3. https://www.kaggle.com/datasets/jessicali9530/celeba-dataset: its archive.zip as it is
Put the folder or the zip, unextracted, where data.root points. To try without CelebA: data=photos"""


class CelebAFiles(NamedTuple):
    """CelebA's images, sorted by name, and the bytes of those text files of `LISTS` that come with them."""

    images: FolderSource | ZipSource
    lists: dict[str, bytes]

    def numbers(self) -> NDArray[np.int64]:
        """The number of each image, by which the lists name it. Raises UserError if two have the same."""
        numbers = np.array([int(name.rpartition(b"/")[2].partition(b".")[0]) for name in self.images.names.tolist()])
        order = np.argsort(numbers, kind="stable")
        if len(twice := np.flatnonzero(np.diff(numbers[order]) == 0)):
            first, second = (self.images.name(int(index)) for index in order[twice[0] : twice[0] + 2])
            raise UserError(f"CelebA: {first} and {second} are the same image ({len(twice):,} such); remove one")
        return numbers


def celeba_splits(root: Path) -> Splits:
    """Official splits of CelebA's aligned faces: the official folders, Kaggle's, flat ones, or a zip of any of them.

    `root` is the folder that holds `img_align_celeba` or `img_align_celeba_png` (or a zip of it, or folders such as the
    official `Img`, `Eval` and `Anno`), that folder itself, or the zip. Without a partition file the published index
    ranges are used, and the log says so. Raises UserError if images are missing.
    """
    files = find_celeba(root)
    train, validation, test = (files.images.select(indices) for indices in split_indices(files, root))
    return Splits(train, validation, test)


def split_indices(files: CelebAFiles, root: Path) -> list[NDArray[np.int64]]:
    """The indices of the training, validation and test images. Raises UserError, naming `root`, if one has none."""
    numbers, partition = files.numbers(), files.lists.get("partition")
    if partition is None:
        split = np.digitize(numbers, (CELEBA_TRAIN_END, CELEBA_VALIDATION_END), right=True)
        log.info("CelebA: no partition file beside the images; splitting by the published index ranges")
    else:
        split = _partition_of(numbers, partition)
    indices = [np.flatnonzero(split == part) for part in range(3)]
    for name, part in zip(("training", "validation", "test"), indices, strict=True):
        if not len(part):
            raise UserError(
                f"CelebA at {root.absolute()} is incomplete: no {name} images among its {len(numbers):,}"
                f" ({numbers.min():06d} to {numbers.max():06d} of {CELEBA_IMAGES:,}). The official splits need images"
                f" of each; get the others, or hold out a share of these by data=folder\n{CELEBA_HELP}"
            )
    return indices


# --- where the images are -------------------------------------------------------------------------------------------


def find_celeba(root: Path) -> CelebAFiles:
    """Find the images and the lists that come with them. Raises UserError if there are no images."""
    for folder in _folders(root):
        for name in CELEBA_FOLDERS:
            for faces in (folder / name / name, folder / name):
                if faces.is_dir() and len(images := _numbered(list_folder(faces))):
                    _refuse_part_of_zip(faces, folder, len(images))
                    return CelebAFiles(images, _read_lists(faces))
    if root.is_dir() and root.name != IN_THE_WILD and any(_is_face(file.name) for file in root.iterdir()):
        return CelebAFiles(_numbered(list_folder(root), nested=False), _read_lists(root))
    archives = _files(root, ".zip")
    for archive in sorted(archives, key=lambda path: "celeba" not in path.name.lower()):
        if (found := _open_celeba_zip(archive)) is not None:
            return found
    tried = [*(root / name for name in CELEBA_FOLDERS), root if root.suffix.lower() == ".zip" else root / "*.zip"]
    places = "\n  ".join(str(path.absolute()) for path in tried)
    packed = [path.name for path in _files(root, ".7z", ".001", ".tar", ".gz", ".rar")]
    hint = f"{packed[0]} is there, but only zips are read packed: extract it.\n" if packed else ""
    raise UserError(f"CelebA not found. Looked at:\n  {places}\n  and the folders inside\n{hint}{CELEBA_HELP}")


class UnpackedInPart(UserError):
    """A folder holds some of the images of a zip beside it."""


def _refuse_part_of_zip(faces: Path, folder: Path, images: int) -> None:
    """Raise UnpackedInPart if a zip in `folder` or beside `faces` holds more images than that folder."""
    archives = {path for place in (folder, faces.parent) for path in place.glob("*.zip")}
    for archive in sorted(path for path in archives if not is_hidden(path.name)):
        try:
            packed = _open_celeba_zip(archive)
        except UserError:  # it can't be read, so it can't be what was meant
            continue
        if packed is not None and len(packed.images) > images:
            raise UnpackedInPart(
                f"{faces} holds {images:,} of the {len(packed.images):,} images in {archive}, unpacked only in part;"
                f" remove that folder, or name one of the two: data.root={archive}"
            )


def _folders(root: Path, depth: int = 3) -> Iterator[Path]:
    """`root` and the folders below it, nearest first, except folders of images and hidden ones."""
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
    """Only the images named like CelebA's; without `nested`, only those directly in the root."""
    names = [os.fsdecode(name) for name in images.names.tolist()]
    return images.select(
        np.flatnonzero([_is_face(name.rpartition("/")[2]) and (nested or "/" not in name) for name in names])
    )


# --- zips -----------------------------------------------------------------------------------------------------------


def _open_celeba_zip(path: Path) -> CelebAFiles | None:
    """The images in a zip and the lists in it or beside it; None for a zip without faces.

    The images may be in a nested zip, if that is stored uncompressed. Raises UserError for a zip that can't be read, is
    encrypted, or uses a compression method other than deflate.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries, lists = _faces_and_lists(archive, path)
            start = 0
            if not entries:
                for inner in (entry for entry in archive.infolist() if _is_inner_zip(entry)):
                    if inner.flag_bits & ENCRYPTED or inner.compress_type != zipfile.ZIP_STORED:
                        raise UserError(
                            f"{path}: the zip {inner.filename} in it is compressed again; extract {path.name}"
                        )
                    with archive.open(inner) as file, zipfile.ZipFile(file) as nested:
                        entries, in_nested = _faces_and_lists(nested, path)
                    if entries:
                        start, lists = _data_offset(path, inner), in_nested | lists
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
    return CelebAFiles(source, _read_lists(path) | lists)


def _faces_and_lists(archive: zipfile.ZipFile, path: Path) -> tuple[list[zipfile.ZipInfo], dict[str, bytes]]:
    """The entries of the images in a zip, and the bytes of its lists. Raises UserError if it is encrypted."""
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
    found = {
        kind: entry
        for entry in archive.infolist()
        for kind, names in LISTS.items()
        if entry.filename.rpartition("/")[2] in names
    }
    if any(entry.flag_bits & ENCRYPTED for entry in [*faces, *found.values()]):
        raise UserError(f"{path} is encrypted: extract it with its password, and name the folder")
    if large := [entry for entry in found.values() if entry.file_size > MOST_BYTES]:
        raise UserError(f"{path}: {large[0].filename} claims {large[0].file_size:,} bytes; get the zip again")
    return faces, {kind: archive.read(entry) for kind, entry in found.items()}


def _is_inner_zip(entry: zipfile.ZipInfo) -> bool:
    return entry.filename.lower().endswith(".zip") and not any(map(is_hidden, entry.filename.split("/")))


def _data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """The offset of an entry's bytes in its zip, after the local header."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = file.read(4)  # of the name and the extra field
    return entry.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")


# --- the lists ------------------------------------------------------------------------------------------------------


def _read_lists(images: Path) -> dict[str, bytes]:
    """The lists of a folder or zip of images: in it, up to three folders above, or there in Eval or Anno."""
    places = [folder / part for folder in (images, *images.absolute().parents[:3]) for part in ("", "Eval", "Anno")]
    found: dict[str, bytes] = {}
    for kind, names in LISTS.items():
        path = next((path for place in places for name in names if (path := place / name).is_file()), None)
        if path is not None:
            found[kind] = path.read_bytes()
    return found


def _text_of(content: bytes) -> str:
    """The text of a list, in UTF-8 or, as some programs save it, UTF-16."""
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")


def landmarks_of(numbers: NDArray[np.int64], content: bytes) -> NDArray[np.int64]:
    """The landmarks of some images by their numbers, (N, 5, 2): x and y, in pixels, of the eyes, nose, mouth's corners.

    `content` is the file list_landmarks_align_celeba, whose first lines may hold a count and headings. Raises UserError
    for a file that has anything else, and if it lacks an image.
    """
    text = _text_of(content)
    rows, lines = LANDMARKS.findall(text), [line for line in text.splitlines() if line.strip()]
    first = next((index for index, line in enumerate(lines) if LANDMARKS.match(line)), len(lines))
    if not rows or first > 2 or len(rows) != len(lines) - first:
        wrong = next((line for line in lines[min(first, 2) if rows else 0 :] if not LANDMARKS.match(line)), "")
        raise UserError(
            f"CelebA's landmarks file is damaged ({wrong.strip()[:60]!r}): expected lines such as"
            " `000001.jpg 69 109 106 113 77 142 73 152 108 154`; get it again"
        )
    table = np.array(rows, dtype=np.int64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    position = np.searchsorted(table[:, 0], numbers).clip(0, len(table) - 1)
    if len(missing := numbers[table[position, 0] != numbers]):
        raise UserError(
            f"CelebA's landmarks file lacks {len(missing):,} images, such as {missing[0]:06d}; get it again"
        )
    return table[position, 1:].reshape(-1, 5, 2)


def _partition_of(numbers: NDArray[np.int64], partition: bytes) -> NDArray[np.int64]:
    """The split (0, 1, 2) of each image by its number, or −1 for one that the partition file doesn't list.

    Raises UserError, naming the line, if a line other than the first, which may be a heading, isn't an image and split.
    """
    text = _text_of(partition)
    rows, lines = LISTED.findall(text), text.splitlines()
    first = next(filter(str.strip, lines), "")
    headings = first and not LISTED.match(first) and not re.search(r"\d\.(jpe?g|png)", first, re.IGNORECASE)
    if not rows or len(rows) + bool(headings) != sum(map(bool, map(str.strip, lines))):
        wrong = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not LISTED.match(line)]
        number, line = (wrong[bool(headings and rows) :] or [(len(lines) + 1, "")])[0]
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
        find_celeba(root)
        return
    except UnpackedInPart:  # a download would not replace that folder
        raise
    except UserError:
        pass
    from torchvision.datasets import CelebA

    log.info("CelebA: downloading 1.4 GB into %s", root.absolute())
    try:
        CelebA(str(root), split="all", download=True)
    except Exception as error:  # network, disk, Google Drive's quota, a missing gdown: each raises its own kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"CelebA could not be downloaded ({reason}).\n{CELEBA_HELP}") from error
