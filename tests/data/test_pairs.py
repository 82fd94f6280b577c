"""Pairs of HR and LR files."""

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from srgan.data.crops import Batch, RandomCrops
from srgan.data.datamodule import ImageDataModule, Pairs
from srgan.data.degradation import BicubicDegradation
from srgan.errors import UserError
from srgan.evaluation.benchmarks import pairs_benchmark, split_benchmark

SIZES = [(7, 9), (12, 6), (5, 5), (9, 30)]  # of LR; the third is smaller than a crop of 6


def new(kind: type[ImageDataModule], scale: int = 3, **options: object) -> Any:
    common = {
        "batch_size": 4,
        "seed": 1,
        "crop": 18,
        "resize": None,
        "multiscale": [],
        "augment": "dihedral",
        "cache": "none",
    }
    limits = {"workers": 0, "validation_images": None, "test_images": None, "held_out": 0.5}
    return kind(degradation=BicubicDegradation(scale, 0.0), **{**common, **limits, **options})


def chart(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """A picture whose pixels tell their row, their column and the picture's number."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, number)], axis=-1).astype(np.uint8)


@pytest.fixture
def write(tmp_path: Path, encoded: Callable[..., bytes]) -> Callable[..., Path]:
    """write("lr/a.png", pixels): a PNG file below the test's folder. Returns its folder."""

    def write(name: str, pixels: NDArray[np.uint8]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels, "PNG"))
        return path.parent

    return write


@pytest.fixture
def folders(write: Callable[..., Path]) -> dict[str, str]:
    """Pairs in which LR is a chart and HR its enlargement by three: the LR of a crop is every third pixel of it."""
    for number, size in enumerate(SIZES):
        lr = chart(number, *size)
        write(f"lr/{number}x3.png", lr)
        write(f"hr/{number}.png", np.pad(lr.repeat(3, 0).repeat(3, 1), ((0, number % 3), (0, 1), (0, 0))))
        write(f"vhr/{number}_HR.png", chart(100 + number, 60, 60))
        write(f"vlr/{number}_LRBI_x3.png", chart(200 + number, 20, 20))
    here = write("hr/0.png", chart(0, *SIZES[0]).repeat(3, 0).repeat(3, 1)).parent
    return {"hr": f"{here}/hr", "lr": f"{here}/lr", "validation_hr": f"{here}/vhr", "validation_lr": f"{here}/vlr"}


def stream(data: ImageDataModule, count: int, workers: int = 0, start: int = 0) -> list[Batch]:
    loader = iter(data.batches(workers, start=start))
    return [next(loader) for _ in range(count)]


@pytest.mark.parametrize("augment", ["none", "flip", "dihedral"])
def test_crops_of_hr_and_lr_match_and_the_cache_changes_none(folders: dict[str, str], augment: str) -> None:
    plain, cached = (new(Pairs, **folders, augment=augment, cache=cache) for cache in ("none", "ram"))
    for data in (plain, cached):
        data.setup("fit")
    batches = stream(plain, 40)
    seen: set[bytes] = set()
    for batch, again in zip(batches, stream(cached, 40), strict=True):
        assert batch.lr is not None and again.lr is not None
        assert batch.hr.shape[1:] == (3, 18, 18) and batch.lr.shape[1:] == (3, 6, 6)
        assert torch.equal(batch.hr[..., 1::3, 1::3], batch.lr)
        assert torch.equal(batch.hr, again.hr) and torch.equal(batch.lr, again.lr)
        assert torch.equal(torch.from_numpy(cached._train.lr._cache[0].numpy()), plain._train.lr._read(0))
        seen |= {crop.numpy().tobytes() for crop in batch.lr}
    assert len(seen) > 20
    pair = plain.on_after_batch_transfer(batches[0], 0)
    assert torch.equal(pair.lr, batches[0].lr / 255) and torch.equal(pair.hr, batches[0].hr / 255)


def test_pairs_cut_on_a_gpu_match_too(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Played on the CPU: the loader's batch holds places, from which the pair is made."""
    data = new(Pairs, **folders, cache="ram")
    data.setup("fit")
    draws = [(epoch, index) for epoch in range(8) for index in range(4)]
    images = data._train.__getitems__(draws)
    monkeypatch.setattr(RandomCrops, "on_gpu", True)
    places = data._train.__getitems__(draws)
    assert places.hr.shape == places.lr.shape == (32, 4)
    for found, expected in zip(data.on_after_batch_transfer(places, 0), data.pair(*images), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
def test_pairs_depend_neither_on_workers_nor_on_a_resume(folders: dict[str, str]) -> None:
    data = new(Pairs, **folders)
    data.setup("fit")
    batches = stream(data, 6)
    for others, part in ((stream(data, 6, workers=2), batches), (stream(data, 2, start=4), batches[4:])):
        for one, other in zip(others, part, strict=True):
            assert one.lr is not None and other.lr is not None
            assert torch.equal(one.hr, other.hr) and torch.equal(one.lr, other.lr) and one.seed == other.seed
    assert len({batch.seed for batch in batches}) == 6


def test_scored_pairs_carry_their_own_lr(folders: dict[str, str]) -> None:
    data = new(Pairs, **folders)
    data.setup("validate")
    expected = [(chart(100 + n, 60, 60), chart(200 + n, 20, 20)) for n in range(4)]

    def assert_expected(images: list[tuple[Tensor, Tensor | None]]) -> None:
        for (hr, lr), (hr_chart, lr_chart) in zip(images, expected, strict=True):
            assert lr is not None
            assert np.array_equal(hr[0].permute(1, 2, 0), hr_chart) and np.array_equal(lr[0].permute(1, 2, 0), lr_chart)

    assert_expected([(batch.hr, batch.lr) for batch in data.val_dataloader()])
    split = split_benchmark(data, "test", None)
    alone = pairs_benchmark(folders["validation_hr"], folders["validation_lr"], data.degradation, None, None)
    for benchmark in (split, alone):
        assert_expected([(image.hr, image.lr) for image in (benchmark[index] for index in range(4))])
        assert benchmark.lr_from == "as given"
    assert alone.name == "vhr"


def test_a_held_out_share_keeps_pairs_together(folders: dict[str, str]) -> None:
    data = new(Pairs, **(folders | {"validation_hr": None, "validation_lr": None}))
    parts = (data.splits.train, data.splits.validation, data.splits.test)
    names = [[Path(part.name(index)).stem for index in range(len(part))] for part in parts]
    assert [len(part) for part in names] == [2, 1, 1] and sorted(chain(*names)) == ["0", "1", "2", "3"]
    for part, stems in zip(parts, names, strict=True):
        assert [Path(part.lr.name(index)).stem for index in range(len(part))] == [f"{stem}x3" for stem in stems]


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("0801", "0801x4"),
        ("baby", "baby_x4"),
        ("a_HR", "a_LR"),
        ("img_001_SRF_4_HR", "img_001_SRF_4_LR"),
        ("b", "b_LRBI_x4"),
        ("c.HR", "c_bicubic"),
        ("colour", "colour"),
        ("d/e", "d/e_lr"),
        ("maxx4", "maxx4"),
        ("pix1", "pix1x4"),
    ],
)
def test_names_match_with_the_usual_suffixes(write: Callable[..., Path], tmp_path: Path, hr: str, lr: str) -> None:
    for name in ("plain", "pix2", hr):
        write(f"hr/{name}.png", chart(1, 80, 80))
    for name in ("plainx4", "pix2_x4", lr):
        write(f"lr/{name}.png", chart(2, 20, 20))
    benchmark = pairs_benchmark(f"{tmp_path}/hr", f"{tmp_path}/lr", BicubicDegradation(4), None, None)
    assert sorted(benchmark.names) == sorted(["pix2", "plain", hr])


def test_what_is_no_pair_is_named(folders: dict[str, str], write: Callable[..., Path], tmp_path: Path) -> None:
    def message(**options: object) -> str:
        with pytest.raises(UserError) as raised:
            new(Pairs, **{**folders, **options})
        return str(raised.value)

    validation = {"validation_hr": None, "validation_lr": None}
    assert "that is ×3, scale=2 was given" in message(scale=2)
    assert "give both or none" in message(validation_lr=None)
    assert "data.resize is for images without LR" in message(resize=[24, 24])
    assert "data.multiscale is for images without LR" in message(multiscale=[0.5])
    assert re.search(r"no folder .*data\.lr=PATH", message(lr=f"{tmp_path}/nix"))
    write("lr/3x3.png", chart(3, 9, 29))
    assert "3.png: LR 29×9, HR 91×27: no pair; for scale=3 the LR must be 30×9" in message(**validation)
    write("hr/alone.png", chart(3, 30, 30))
    assert re.search(r"hr/alone\.png has no LR in .*/lr \(1 of 5", message(**validation))
    write("lr/alone.png", chart(3, 10, 10))
    write("lr/more.png", chart(3, 10, 10))
    assert re.search(r"lr/more\.png has no HR in .*/hr \(1 of 6", message(**validation))
    write("lr/alone_x3.png", chart(3, 10, 10))
    assert "have the same partner; rename one" in message(**validation)
