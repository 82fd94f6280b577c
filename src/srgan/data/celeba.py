"""CelebA's aligned faces with the official splits, in the layouts in which they are handed on."""

import logging
import os
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srgan.data.sources import FolderSource, Splits, ZipSource, list_folder
from srgan.errors import UserError

log = logging.getLogger(__name__)

CELEBA_TRAIN_END, CELEBA_VALIDATION_END = 162_770, 182_637  # the last file number of each split, as published
CELEBA_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
CELEBA_HELP = """\
Three ways to get CelebA (non-commercial research use):
  1. data.download=true fetches it into data.root through torchvision (needs: pip install gdown)
  2. https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: img_align_celeba.zip and list_eval_partition.txt
  3. https://www.kaggle.com/datasets/jessicali9530/celeba-dataset: its archive.zip as it is
Put the folder or the zip, unextracted, where data.root points. To try without CelebA: data=photos"""


def celeba_splits(root: Path) -> Splits:
    """Official splits of CelebA's aligned faces: the official folder, Kaggle's, or either as an unextracted zip.

    `root` is the folder that holds `img_align_celeba` (or a zip of it), that folder itself, or the zip. Without a
    partition file the published index ranges decide, which the log says. Raises UserError if images are missing.
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
    """The images and the bytes of their partition file, None if there is none. Raises UserError without images."""
    tried: list[Path] = []
    folders = [root, root / "celeba"] + ([root.parent] if root.name == "img_align_celeba" else [])
    for folder in folders:
        for faces in (folder / "img_align_celeba" / "img_align_celeba", folder / "img_align_celeba"):
            tried.append(faces)
            if faces.is_dir() and len(images := _numbered(list_folder(faces))):
                return images, _read_partition(folder, folder.parent, folder.parent.parent)
    if root.suffix == ".zip":
        tried.append(root)
        archives = [root]
    else:
        tried.append(root / "*.zip")
        archives = [path for folder in (root, root / "celeba") for path in sorted(folder.glob("*.zip"))]
    for archive in archives:
        if archive.is_file() and (images_and_partition := _open_celeba_zip(archive)) is not None:
            return images_and_partition
    places = "\n  ".join(str(path.absolute()) for path in tried)
    raise UserError(f"CelebA not found. Looked at:\n  {places}\n{CELEBA_HELP}")


def _numbered(images: FolderSource) -> FolderSource:
    """Only the images whose file names are numbers, as CelebA's are."""
    stems = [name.split(b".")[0] for name in images.names.tolist()]
    return images.select(np.flatnonzero([stem.isdigit() for stem in stems]))


def _open_celeba_zip(path: Path) -> tuple[ZipSource, bytes | None] | None:
    """The images in a zip and the partition file in it or beside it; None for a zip without faces."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [
                entry
                for entry in archive.infolist()
                if entry.filename.endswith(".jpg")
                and entry.filename.rsplit("/", 1)[-1].removesuffix(".jpg").isdigit()
                and "img_align_celeba" in entry.filename
            ]
            partitions = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] in CELEBA_PARTITIONS]
            partition = archive.read(partitions[0]) if partitions else _read_partition(path.parent)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: not a readable zip ({error}); get it again") from error
    if not entries:
        return None
    if unreadable := {entry.compress_type for entry in entries} - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UserError(f"{path}: packed by zip method {unreadable}, only stored and deflated are read; extract it")
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
    fields = partition.replace(b",", b" ").replace(b"image_id partition", b"").split()
    listed, parts = np.array(fields[::2], dtype=np.bytes_), np.array(fields[1::2])
    if not len(listed) or len(listed) != len(parts) or not np.isin(parts, [b"0", b"1", b"2"]).all():
        raise UserError("CelebA's partition file is damaged: expected lines such as `000001.jpg 0`; get it again")
    order = np.argsort(listed)
    position = order[np.searchsorted(listed, file_names, sorter=order).clip(0, len(listed) - 1)]
    return np.where(listed[position] == file_names, parts[position].astype(np.int64), -1)


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
