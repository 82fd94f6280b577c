"""Data sets of the Hugging Face Hub: local ones in the same form, parquet and folders of images."""

import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from srgan.data import huggingface
from srgan.data.datamodule import HuggingFace
from srgan.data.degradation import BicubicDegradation
from srgan.data.sources import Source, Splits
from srgan.errors import UserError
from srgan.images import decode

Write = Callable[..., None]


def splits(path: Path, column: str = "image", held_out: float = 0.2) -> Splits:
    from srgan.data.huggingface import hub_splits

    return hub_splits(str(path), column, None, held_out)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for data sets, with the library's cache beside it and without the network."""
    datasets = pytest.importorskip("datasets", reason="needs pip install 'srgan[huggingface]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()
    folder = tmp_path / "faces"
    folder.mkdir()
    return folder


def picture(level: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((40, 36, 3), level, dtype=np.uint8)


def parquet(path: Path, levels: range, encoded: Callable[..., bytes]) -> None:
    """One parquet file as on the Hub: a column of {bytes, path} and one of something else."""
    import datasets

    files = [{"bytes": encoded(picture(level), "PNG"), "path": f"{level}.png"} for level in levels]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": files, "label": list(levels)}, features=features)
    rows.to_parquet(str(path))


def levels(part: Source) -> list[int]:
    return [int(decode(part.read(index), part.name(index)).unique()) for index in range(len(part))]


def test_a_set_with_one_split_holds_out_a_share_and_trains(local: Path, encoded: Callable[..., bytes]) -> None:
    parquet(local / "train-00000-of-00001.parquet", range(20), encoded)
    found = splits(local)
    parts = [levels(part) for part in (found.train, found.validation, found.test)]
    assert [len(part) for part in parts] == [16, 2, 2] and sorted(chain(*parts)) == list(range(20))
    assert [levels(part) for part in (splits(local).validation, splits(local).test)] == parts[1:]
    data = HuggingFace(
        degradation=BicubicDegradation(4, 0.0), batch_size=4, seed=1, crop=16, resize=None, augment="flip",
        multiscale=[], cache="none", workers=0, validation_images=None, test_images=None, path=str(local),
        column="image", revision=None, held_out=0.2,
    )  # fmt: skip
    data.setup("fit")
    batches = iter(data.batches(0))
    seen = torch.cat([next(batches).hr for _ in range(4)])
    assert sorted(int(crop.unique()) for crop in seen) == parts[0]
    with pytest.raises(UserError, match=r"data.column=img: no column of images in .*; there is image"):
        splits(local, "img")


def test_a_row_without_an_image_is_refused_by_its_number() -> None:
    for image in (None, {"bytes": None, "path": None}):
        with pytest.raises(UserError, match=r"faces\[0\]: there is no image in this row; remove it"):
            huggingface.HubSource([{"image": image}], "image", np.arange(1), "faces").read(0)


def test_its_own_splits_are_taken(local: Path, encoded: Callable[..., bytes]) -> None:
    for name, part in (("train", range(5)), ("validation", range(5, 7)), ("test", range(7, 9))):
        folder = local / name
        folder.mkdir()
        for level in part:
            (folder / f"{level}.png").write_bytes(encoded(picture(level), "PNG"))
    found = splits(local)
    assert [levels(part) for part in (found.train, found.validation, found.test)] == [[0, 1, 2, 3, 4], [5, 6], [7, 8]]


def test_what_cannot_be_loaded_is_one_line(local: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path=.*nix could not be loaded \(.*\); check the name") as raised:
        splits(tmp_path / "nix")
    assert "\n" not in str(raised.value)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'srgan\[huggingface\]'"):
        splits(tmp_path)
