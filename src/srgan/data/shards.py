"""Data sets in shards: many encoded images in one file, written and read by the library litdata.

The images are read by their index, so that crops, their order and a resume are those of any other data set.
"""

import functools
import json
import os
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from srgan.data.sources import Source, Splits
from srgan.errors import UserError

SPLITS = ("train", "validation", "test")  # folders of shards below the root


def _litdata() -> Any:
    """The library. Raises UserError if it is not installed."""
    try:
        import litdata
    except ImportError as error:
        raise UserError("shards need the library litdata: pip install 'srgan[shards]'") from error
    return litdata


@functools.lru_cache(maxsize=3)
def _opened(folder: str, process: int) -> tuple[Any, threading.Lock]:
    """A folder of shards and the lock under which it is read, since litdata's reader is not for several threads.

    Opened anew in each process, since files and threads can't be shared. It holds all images in each of several
    training processes; which crops a process gets is decided elsewhere.
    """
    dataset = _litdata().StreamingDataset(folder)
    dataset.distributed_env = type(dataset.distributed_env)(1, 0, 1)
    dataset.set_drop_last(False)
    return dataset, threading.Lock()


@dataclass(frozen=True)
class ShardSource:
    """Images in the shards of one split. The folder may be remote (`s3://…`); then shards are cached on the disk."""

    folder: str
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return f"{self.folder}[{self.indices[index]}]"

    def read(self, index: int) -> bytes:
        try:
            place = int(self.indices[index])
            # A slice, since litdata keeps the shard of a remote slice on the disk, and misreads a remote index.
            dataset, lock = _opened(self.folder, os.getpid())
            with lock:
                return dataset[place : place + 1][0]["image"]
        except Exception as error:  # files, network, formats: each raises its own kind
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{self.name(index)}: can't be read ({reason}); write the shards again") from error

    def select(self, indices: NDArray[np.int64]) -> Self:
        return replace(self, indices=self.indices[indices])


def shard_splits(root: str) -> Splits:
    """The splits that `write` wrote below `root`.

    Raises UserError if one is missing, if a local folder lacks a file of one, or without the library.
    """
    _litdata()
    parts: list[ShardSource] = []
    for split in SPLITS:
        folder = f"{root.rstrip('/')}/{split}"
        try:
            count = len(_opened(folder, os.getpid())[0])
        except Exception as error:  # as above
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"no shards in {folder} ({reason}); write them by python -m srgan.shard data=… hydra.run.dir={root}"
            ) from error
        _check_complete(Path(folder, "index.json"))
        parts.append(ShardSource(folder, np.arange(count)))
    return Splits(*parts)


def _check_complete(index: Path) -> None:
    """Raise UserError if a file that a local index names is missing; litdata would find that only on reading it."""
    chunks = json.loads(index.read_bytes())["chunks"] if index.is_file() else []
    for path in (index.with_name(chunk["filename"]) for chunk in chunks):
        if not path.is_file():
            raise UserError(f"{path} is missing; copy it again, or write the shards again by python -m srgan.shard")


def write(source: Source, folder: str, megabytes: float) -> None:
    """Write the encoded images of a split, in their order, as shards of at most `megabytes`.

    Raises UserError for an image that can't be read; what was written by then is no data set.
    """
    try:
        with _own_caches():
            _litdata().optimize(
                fn=functools.partial(_sample, source),
                inputs=list(range(len(source))),
                output_dir=folder,
                chunk_bytes=int(megabytes * 1e6),
                num_workers=1,  # which keeps the order
                reorder_files=False,
                start_method="fork" if sys.platform == "linux" else "spawn",  # as torch's loaders start theirs
                verbose=False,
            )
    except RuntimeError as error:  # with the traceback of litdata's process
        texts = [text for line in str(error).splitlines() if (text := line.partition(f"{UserError.__name__}: ")[2])]
        if not texts:
            raise
        raise UserError(texts[0]) from error
    index = Path(folder, "index.json")  # of a local folder; a process that was killed raises nothing in this one
    if index.is_file() and (written := _count(index)) != len(source):
        raise UserError(
            f"{folder}: {written} of {len(source)} images were written, since a process was killed; is there enough"
            " memory and room on the disk?"
        )


def _count(index: Path) -> int:
    return sum(int(chunk["chunk_size"]) for chunk in json.loads(index.read_bytes())["chunks"])


@contextmanager
def _own_caches() -> Generator[None]:
    """Give litdata folders of its own for what it keeps while it writes: it deletes them, by default $TMPDIR/data."""
    names = ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
        os.environ |= {name: str(Path(folder, name)) for name in names}
        try:
            yield
        finally:
            for name in names:
                del os.environ[name]
            os.environ |= before


def _sample(source: Source, index: int) -> dict[str, bytes]:
    return {"image": source.read(index)}
