"""Shards hold the images of a data set in its order; what can't be read is one line."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import DictConfig

from srgan import shard
from srgan.data import shards
from srgan.data.sources import folder_splits
from srgan.errors import UserError


def test_shards_hold_the_images_of_each_split_in_order(
    photo_folder: Path,
    tmp_path: Path,
    compose_config: Callable[..., DictConfig],
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("litdata", reason="needs pip install 'srgan[shards]'")
    files = folder_splits(photo_folder, None, 0.05)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/own.png").write_bytes(b"")
    before = {name: value for name, value in os.environ.items() if "CACHE_FOLDER" in name}
    shards.write(files.train, str(tmp_path / "small" / "train"), megabytes=0.02)
    assert (tmp_path / "data/own.png").is_file()  # which litdata would delete in $TMPDIR
    assert not [*tmp_path.glob("srgan-*")]
    assert before == {name: value for name, value in os.environ.items() if "CACHE_FOLDER" in name}
    assert len(list((tmp_path / "small" / "train").glob("*.bin"))) > 1
    many = shards.ShardSource(str(tmp_path / "small" / "train"), np.arange(6))
    for index in (5, 0, 3, 3):
        assert many.read(index) == files.train.read(index)
    config = compose_config(*tiny, command="shard", run_dir=tmp_path / "all")
    found = shards.shard_splits(str(shard.shard(config)))
    for split in shards.SPLITS:
        written, read = getattr(files, split), getattr(found, split)
        assert [read.read(index) for index in range(len(read))] == [written.read(i) for i in range(len(written))]
    with pytest.raises(UserError, match=r"all/train isn't empty; take another folder"):
        shard.shard(config)
    lost = next((tmp_path / "all/validation").glob("*.bin"))
    lost.rename(tmp_path / lost.name)
    with pytest.raises(UserError, match=rf"^{lost} is missing; copy it again, or write the shards again"):
        shards.shard_splits(str(tmp_path / "all"))
    (tmp_path / "small/train/chunk-0-1.bin").unlink()
    with pytest.raises(UserError, match=r"small/train\[\d\]: can't be read"):
        [many.read(index) for index in range(6)]
    Path(files.train.name(2)).unlink()
    with pytest.raises(UserError, match=rf"^{files.train.name(2)}: can't be read"):
        shards.write(files.train, str(tmp_path / "lacking"), megabytes=1)
    with pytest.raises(UserError, match=r"all/train\[7\]: can't be read"):
        shards.ShardSource(found.train.folder, np.array([7])).read(0)


def test_each_of_several_processes_and_threads_reads_all_images(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """litdata would give each process its share, and its reader is not for several threads."""
    pytest.importorskip("litdata", reason="needs pip install 'srgan[shards]'")
    for name, value in (("WORLD_SIZE", "2"), ("GLOBAL_RANK", "1"), ("NNODES", "1")):  # as torchrun sets them
        monkeypatch.setenv(name, value)
    files = folder_splits(photo_folder, None, 0.05)
    for split in shards.SPLITS:
        shards.write(getattr(files, split), str(tmp_path / split), megabytes=0.02)
    found = shards.shard_splits(str(tmp_path))
    assert [len(getattr(found, split)) for split in shards.SPLITS] == [6, 1, 1]
    wanted = [5, 0, 3, 2, 1, 4] * 20
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(found.train.read, wanted))
    assert read == [files.train.read(index) for index in wanted]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # litdata leaves files open
def test_shards_on_another_storage_are_read_and_kept_on_the_disk(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("litdata", reason="needs pip install 'srgan[shards]'")
    monkeypatch.setattr("litdata.utilities.dataset_utilities._DEFAULT_CACHE_DIR", str(tmp_path / "cache"))
    files = folder_splits(photo_folder, None, 0.05)
    shards.write(files.train, str(tmp_path / "far"), megabytes=0.02)
    far = shards.ShardSource(f"local:{tmp_path / 'far'}", np.arange(6))  # litdata treats it as it does s3://
    for index in (5, 0, 3, 3):
        assert far.read(index) == files.train.read(index)
    for file in (tmp_path / "far").glob("*.bin"):
        file.unlink()
    assert far.read(5) == files.train.read(5)


def test_shards_of_which_some_are_missing_are_no_success(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As litdata leaves them without an error if its process was killed."""

    def killed(output_dir: str, **_: object) -> None:
        Path(output_dir).mkdir()
        Path(output_dir, "index.json").write_text(json.dumps({"chunks": [{"chunk_size": 2}], "config": None}))

    monkeypatch.setattr(shards, "_litdata", lambda: SimpleNamespace(optimize=killed))
    source = folder_splits(photo_folder, None, 0.05).train
    with pytest.raises(UserError, match=rf"out: 2 of {len(source)} images were written, since a process was killed"):
        shards.write(source, str(tmp_path / "out"), megabytes=1)


def test_a_folder_without_shards_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("litdata")
    with pytest.raises(UserError, match=r"no shards in .*/train \(.*\); write them by python -m srgan.shard"):
        shards.shard_splits(str(tmp_path))


def test_a_missing_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(UserError, match=r"pip install 'srgan\[shards\]'"):
        shards.shard_splits(str(tmp_path))
