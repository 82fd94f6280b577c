"""The data modules: what they refuse, the pairs they make, the batches they give."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningDataModule
from torch import Tensor

from srgan.data.datamodule import CelebA, Folder, Photos
from srgan.data.degradation import BicubicDegradation
from srgan.errors import UserError
from srgan.imresize import imresize

SCALES = (2, 3, 4, 8)


def photos(scale: int = 4, **options: object) -> Photos:
    given = {"batch_size": 2, "seed": 1, "crop": 24, "cache": "none", **options}
    return Photos(degradation=BicubicDegradation(scale), **given)


def trainer_at(global_step: int = 0, global_rank: int = 0, world_size: int = 1) -> SimpleNamespace:
    """As much of a Trainer as the training loader asks for."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return SimpleNamespace(global_step=global_step, global_rank=global_rank, world_size=world_size, strategy=strategy)


def first_batch(data: LightningDataModule, **trainer: int) -> Tensor:
    data.trainer = trainer_at(**trainer)
    return next(iter(data.train_dataloader()))


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("crop", [97, 25, 1, 0, -5])
def test_the_message_about_a_crop_suggests_values_that_work(crop: int, scale: int) -> None:
    with pytest.raises(UserError, match=f"crop {crop} is not divisible by scale {scale}") as raised:
        photos(scale, crop=crop)
    suggested = [int(number) for number in re.findall(r"\d+", str(raised.value).partition("data.crop=")[2])]
    assert len(suggested) == 2
    for value in suggested:
        assert photos(scale, crop=value).crop == value
        assert crop <= scale or abs(value - crop) < scale


@pytest.mark.parametrize(
    ("key", "value", "allowed"), [("cache", "disk", "none, ram, device"), ("augment", "rotate", "none, flip, dihedral")]
)
def test_an_unknown_choice_is_refused_with_those_there_are(key: str, value: str, allowed: str) -> None:
    with pytest.raises(UserError, match=f"data.{key}={value}.*{allowed}"):
        photos(**{key: value})


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_empty_batch_is_refused(batch_size: int) -> None:
    with pytest.raises(UserError, match=f"batch_size {batch_size}"):
        photos(batch_size=batch_size)


@pytest.mark.parametrize("kind", [CelebA, Folder])
def test_missing_images_are_told_at_once(tmp_path: Path, kind: type[CelebA | Folder]) -> None:
    with pytest.raises(UserError, match=str(tmp_path / "missing")):
        kind(degradation=BicubicDegradation(4), batch_size=2, seed=1, root=str(tmp_path / "missing"))


# --- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", [False, True])
@pytest.mark.parametrize("scale", SCALES)
def test_a_pair_is_hr_and_its_reduction_in_0_to_1(noise: Callable[..., Tensor], scale: int, hook: bool) -> None:
    data, hr = photos(scale), noise(2, 3, 48, 24)
    pair = data.on_after_batch_transfer(hr, 0) if hook else data.pair(hr)
    for images, whole in ((pair.lr, imresize(hr, 1 / scale)), (pair.hr, hr)):
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert 0 <= images.min() < images.max() <= 1
        torch.testing.assert_close(images * 255, whole.float(), rtol=0, atol=1e-4)


# --- batches --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted() -> Photos:
    data = photos(crop=32)
    data.setup("fit")
    return data


def test_photographs_make_training_batches(fitted: Photos) -> None:
    batch = first_batch(fitted)
    assert batch.shape == (2, 3, 32, 32)
    assert batch.dtype == torch.uint8
    assert fitted.pair(batch).lr.shape == (2, 3, 8, 8)


def test_training_goes_on_at_the_step_of_the_trainer(fitted: Photos) -> None:
    fitted.trainer = trainer_at()
    steps = iter(fitted.train_dataloader())
    stream = [next(steps) for _ in range(4)]
    assert torch.equal(first_batch(fitted, global_step=3), stream[3])
    assert not torch.equal(stream[0], stream[3])


def test_two_processes_train_on_different_images(fitted: Photos) -> None:
    one, other = (first_batch(fitted, global_rank=rank, world_size=2) for rank in (0, 1))
    assert not torch.equal(one, other)


def test_one_photograph_validates_and_two_test(fitted: Photos) -> None:
    (image,) = fitted.val_dataloader()
    assert image.shape == (1, 3, 400, 600)  # coffee.png
    assert image.dtype == torch.uint8
    assert len(fitted.test_set()) == 2


def test_validation_needs_no_training_set() -> None:
    data = photos(scale=8)
    data.setup("validate")
    (image,) = data.val_dataloader()
    assert [side % 8 for side in image.shape[-2:]] == [0, 0]


@pytest.fixture
def pictures(tmp_path: Path, encoded: Callable[..., bytes]) -> Path:
    """Forty PNGs, each of one level of grey: its number."""
    for number in range(40):
        pixels = np.full((24, 26, 3), number, dtype=np.uint8)
        (tmp_path / f"{number:06d}.png").write_bytes(encoded(pixels, "PNG"))
    return tmp_path


def folder(root: Path, **options: object) -> Folder:
    return Folder(degradation=BicubicDegradation(4), batch_size=2, seed=1, crop=16, root=str(root), **options)


def levels(data: Folder) -> list[int]:
    return [int(image.unique()) for image in data.val_dataloader()]


def test_a_folder_keeps_what_it_validates_from_training(pictures: Path) -> None:
    data = folder(pictures, held_out=0.5)
    data.setup("fit")
    data.trainer = trainer_at()
    steps = iter(data.train_dataloader())
    trained = {int(level) for _ in range(30) for level in next(steps).unique()}
    tested = {int(image.unique()) for image in data.test_set()}
    assert (len(trained), len(levels(data)), len(tested)) == (20, 10, 10)
    assert trained | set(levels(data)) | tested == set(range(40))


def test_the_limits_bound_what_is_scored(pictures: Path) -> None:
    data = folder(pictures, held_out=0.5, validation_images=3, test_images=4)
    data.setup("fit")
    assert len(levels(data)) == 3
    assert len(data.test_set()) == 4


def test_a_validation_root_is_scored_whole(tmp_path: Path, pictures: Path, encoded: Callable[..., bytes]) -> None:
    held = tmp_path / "held"
    held.mkdir()
    (held / "only.png").write_bytes(encoded(np.full((24, 26, 3), 200, dtype=np.uint8), "PNG"))
    train = tmp_path / "train"
    train.mkdir()
    for path in pictures.glob("*.png"):
        path.rename(train / path.name)
    data = folder(train, validation_root=str(held))
    data.setup("fit")
    assert levels(data) == [200]
    assert len(data.splits.train) == 40


def test_a_damaged_file_is_named_before_training(pictures: Path) -> None:
    (pictures / "000007.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=r"000007\.png: not a readable image"):
        folder(pictures).setup("fit")


def test_the_ram_cache_changes_no_batch(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, cached = folder(pictures), folder(pictures, cache="ram")
    with caplog.at_level(logging.INFO):
        plain.setup("fit")
        assert "into memory" not in caplog.text
        cached.setup("fit")
    assert "Decoded 38 images into memory" in caplog.text
    assert torch.equal(first_batch(plain), first_batch(cached))


@pytest.mark.parametrize("download", [False, True])
def test_celeba_is_downloaded_only_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: Callable[..., bytes], download: bool
) -> None:
    fetched: list[str] = []

    def fetch(root: str, **_: object) -> None:
        fetched.append(root)
        faces = Path(root) / "celeba/img_align_celeba"
        faces.mkdir(parents=True)
        for number in (1, 162_771, 182_638):
            (faces / f"{number:06d}.jpg").write_bytes(encoded(np.zeros((16, 16, 3), dtype=np.uint8), "JPEG"))

    monkeypatch.setattr("torchvision.datasets.CelebA", fetch)
    given = {"degradation": BicubicDegradation(4), "batch_size": 2, "seed": 1, "root": str(tmp_path)}
    if download:
        assert len(CelebA(**given, download=True).splits.test) == 1
        assert len(CelebA(**given, download=True).splits.test) == 1  # found, not fetched again
    else:
        with pytest.raises(UserError, match=r"data\.download=true"):
            CelebA(**given)
    assert fetched == [str(tmp_path)] * download
