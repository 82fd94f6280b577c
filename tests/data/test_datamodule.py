"""The data modules: what they refuse, how they degrade, the pairs and batches they give."""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from srgan.data.datamodule import CelebA, Folder, ImageDataModule, Photos
from srgan.data.degradation import BicubicDegradation
from srgan.errors import UserError
from srgan.imresize import imresize

OPTIONS = {"batch_size": 2, "seed": 1, "crop": 16, "augment": "flip", "cache": "none"}
OPTIONS |= {"workers": None, "resize": None, "multiscale": [], "validation_images": 64, "test_images": 256}
HALF = {"validation_root": None, "held_out": 0.5}


def new(kind: type[ImageDataModule], scale: int = 4, blur_sigma: float = 0.0, **options: object) -> Any:
    return kind(degradation=BicubicDegradation(scale, blur_sigma), **{**OPTIONS, **options})


def batches(data: ImageDataModule, count: int, step: int = 0, rank: int = 0, world_size: int = 1) -> list[Tensor]:
    """The batches that training on a CPU would get from that step."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(
        global_step=step, global_rank=rank, world_size=world_size, num_devices=world_size, strategy=strategy
    )
    loader = iter(data.train_dataloader())
    return [next(loader).hr for _ in range(count)]


def levels(images: Any) -> list[int]:
    return [int(getattr(image, "hr", image).unique()) for image in images]


def save_grey(folder: Path, levels: Iterable[int]) -> None:
    folder.mkdir(exist_ok=True)
    for level in levels:
        Image.new("RGB", (26, 24), (level, level, level)).save(folder / f"{level:06d}.png")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 2, "crop": 97}, "crop 97 is not divisible by scale 2; try data.crop=96 or 98"),
        ({"scale": 1}, "scale 1: expected a whole number from 2"),
        ({"scale": 2.5}, r"scale 2\.5: expected a whole number from 2"),
        ({"blur_sigma": -0.5}, r"blur_sigma -0\.5"),
        ({"scale": 4, "crop": 1}, "try data.crop=4 or 8"),
        ({"scale": 8, "crop": 0}, "try data.crop=8 or 16"),
        ({"cache": "disk"}, "data.cache=disk: expected one of none, ram, device"),
        ({"augment": "rotate"}, "data.augment=rotate: expected one of none, flip, dihedral"),
        ({"batch_size": 0}, "batch_size 0: expected at least 1"),
        ({"workers": -1}, "data.workers=-1: expected 0 or more"),
        ({"validation_images": 0}, "data.validation_images=0: expected at least 1"),
        ({"multiscale": [0.5, 1.0]}, r"data.multiscale=\[0.5, 1.0\]: expected factors between 0 and 1"),
        ({"test_images": 1.5}, "data.test_images=1.5: expected at least 1"),
    ],
)
def test_values_that_cannot_work_are_refused_with_those_that_can(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        new(Photos, **options)


def test_a_pair_is_hr_and_its_reduction_with_the_border_asked_for(noise: Callable[..., Tensor]) -> None:
    hr = noise(2, 3, 48, 24)
    for scale in (2, 3, 4, 8):
        by_default, mirrored = BicubicDegradation(scale)(hr), BicubicDegradation(scale, 0.0, "symmetric")(hr)
        assert torch.equal(by_default, imresize(hr, 1 / scale, "replicate"))
        assert torch.equal(mirrored, imresize(hr, 1 / scale, "symmetric"))
        assert not torch.equal(by_default, mirrored)
    with pytest.raises(ValueError, match="border 'wrap': expected replicate or symmetric"):
        BicubicDegradation(2, 0.0, "wrap")(hr)  # pyright: ignore[reportArgumentType]
    pair = new(Photos, scale=3, crop=24).pair(hr)
    for images, whole in ((pair.lr, BicubicDegradation(3)(hr)), (pair.hr, hr)):
        assert images.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(images, whole.float() / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_agrees_with_scipys_gaussian(noise: Callable[..., Tensor], sigma: float) -> None:
    hr = noise(2, 3, 48, 36)
    blurred = hr.numpy().astype(np.float64)
    for axis in (2, 3):
        blurred = gaussian_filter1d(blurred, sigma, axis=axis, mode="mirror", truncate=4)
    expected = imresize(torch.from_numpy(np.rint(blurred).astype(np.uint8)), 1 / 2)
    lr = BicubicDegradation(2, sigma)(hr)
    assert lr.dtype == torch.uint8
    difference = (lr.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.2


def test_photographs_make_batches_that_go_on_at_any_step_and_differ_between_processes() -> None:
    data = new(Photos, scale=7, crop=14)
    parts = data.splits.train, data.splits.validation, data.splits.test
    assert [len(part) for part in parts] == [6, 1, 2]
    assert len({part.name(index) for part in parts for index in range(len(part))}) == 9
    data.setup("validate")  # needs no training set
    assert [batch.hr.shape for batch in data.val_dataloader()] == [(1, 3, 399, 595)]  # coffee.png, 400×600
    data.setup("fit")
    stream = batches(data, 4)
    assert [(batch.shape, batch.dtype) for batch in stream] == [((2, 3, 14, 14), torch.uint8)] * 4
    assert torch.equal(batches(data, 1, step=3)[0], stream[3])
    assert not torch.equal(*(batches(data, 1, rank=rank, world_size=2)[0] for rank in (0, 1)))


def test_a_folder_keeps_what_it_scores_from_training(tmp_path: Path) -> None:
    save_grey(tmp_path, range(40))
    data = new(Folder, root=str(tmp_path), **HALF)
    data.setup("fit")
    trained = {level for batch in batches(data, 30) for level in levels(batch)}
    validated, tested = set(levels(data.val_dataloader())), set(levels(data.test_set()))
    assert (len(trained), len(validated), len(tested)) == (20, 10, 10)
    assert trained | validated | tested == set(range(40))
    few = new(Folder, root=str(tmp_path), **HALF, validation_images=3, test_images=4)
    few.setup("fit")
    assert (len(few.val_dataloader()), len(few.test_set())) == (3, 4)
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        shares.append(levels(data.val_dataloader()))
    assert sorted([*shares[0], *shares[1]]) == sorted(validated) and len(shares[0]) == 5
    few.trainer = SimpleNamespace(global_rank=3, world_size=4)
    assert len(few.val_dataloader()) == 3  # too few to share out
    save_grey(tmp_path / "held", [200])
    given = new(Folder, root=str(tmp_path), validation_root=str(tmp_path / "held"), held_out=0.5)
    given.setup("fit")
    assert levels(given.val_dataloader()) == levels(given.test_set()) == [200]
    assert len(given.splits.train) == 40


def test_what_validation_scores_is_told_by_names_of_any_bytes(tmp_path: Path) -> None:
    for folder in ("one", "moved"):
        save_grey(tmp_path / folder, range(8))
        (tmp_path / folder / "000003.png").rename(tmp_path / folder / os.fsdecode(b"caf\xe9.png"))
    for folder, first in ("other", 50), ("train", 100):
        save_grey(tmp_path / folder, range(first, first + 8))

    def scored(folder: str, **options: Any) -> str:
        held = str(tmp_path / folder)
        data = new(Folder, root=str(tmp_path / "train"), validation_root=held, held_out=0.5, **options)
        return data.scored_in_validation()

    assert scored("one") == scored("moved") and len(scored("one")) == 64
    assert len({scored("one"), scored("other"), scored("one", validation_images=3)}) == 3


def test_the_ram_cache_changes_no_batch_and_damage_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_grey(tmp_path, range(9))
    plain, cached = (new(Folder, root=str(tmp_path), **HALF, cache=cache) for cache in ("none", "ram"))
    caplog.set_level(logging.INFO)
    plain.setup("fit")
    assert "into memory" not in caplog.text
    cached.setup("fit")
    assert "Decoded 5 images into memory" in caplog.text
    assert torch.equal(torch.stack(batches(plain, 3)), torch.stack(batches(cached, 3)))
    for source in (plain.splits.train, plain.splits.validation, plain.splits.test):
        path = Path(source.name(0))
        whole = path.read_bytes()
        path.write_bytes(whole[:40])
        with pytest.raises(UserError, match=rf"{path.stem}\.png: not a readable image"):
            plain.setup("fit")
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("device", "cache", "workers", "cores", "expected"),
    [
        ("cpu", "none", None, 2, 1),
        ("cpu", "none", None, 64, 1),
        ("cpu", "ram", None, 2, 0),
        ("cpu", "none", 0, 2, 0),
        ("cpu", "ram", 3, 2, 3),
        ("cuda", "none", None, 4, 3),
        ("cuda", "ram", None, 64, 8),
        ("cuda", "none", None, 1, 1),
        ("cuda", "device", 4, 8, 0),
    ],
)
def test_loader_processes_by_device_cache_and_cores(
    device: str, cache: str, workers: int | None, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    data, asked = new(Photos, cache=cache, workers=workers), Mock()
    monkeypatch.setattr(data, "batches", asked)
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1, num_devices=1, strategy=strategy)
    data.train_dataloader()
    assert asked.call_args.args == (expected, device == "cuda", 0, 0, 1)
    monkeypatch.setattr(multiprocessing.current_process(), "name", "LokyProcess-1")  # as in a sweep by joblib
    refusal = f"data.workers={workers}: a run in a process of a pool .* can't start others"
    if workers and cache != "device":
        with pytest.raises(UserError, match=refusal):
            data.train_dataloader()
    else:
        data.train_dataloader()
        assert asked.call_args.args == (0, device == "cuda", 0, 0, 1)


def test_celeba_is_downloaded_only_on_demand_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        (tmp_path / "celeba/img_align_celeba").mkdir(parents=True)
        for number in (1, 162_771, 182_638):
            (tmp_path / f"celeba/img_align_celeba/{number:06d}.jpg").write_bytes(b"a face, not decoded")

    torchvisions = Mock(side_effect=fetch)
    monkeypatch.setattr("torchvision.datasets.CelebA", torchvisions)
    with pytest.raises(UserError, match=rf"{tmp_path}(?s:.*)data\.download=true"):
        new(CelebA, root=str(tmp_path), download=False)
    torchvisions.assert_not_called()
    for _ in range(2):
        assert len(new(CelebA, root=str(tmp_path), download=True).splits.test) == 1
    torchvisions.assert_called_once_with(str(tmp_path), split="all", download=True)
