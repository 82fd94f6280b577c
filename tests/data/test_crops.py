"""Random crops, their order, and whole images."""

from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader

from srgan import cli
from srgan.data.crops import Batch, CropBatches, Draw, RandomCrops, StepSampler, WholeImages, hash_seed, verify
from srgan.data.faults import Faults
from srgan.data.sources import FolderSource
from srgan.errors import UserError

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DRAWS = [(epoch, index) for epoch in range(40) for index in range(4)]  # all eight turns of each


def saved(folder: Path, pictures: list[NDArray[np.uint8]]) -> FolderSource:
    """Arrays (H, W, 3) as 0.png, 1.png, …"""
    names = [f"{index}.png" for index in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(folder / name)
    return FolderSource(folder, np.array(names, dtype=np.bytes_))


def charts(*sizes: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Pictures (H, W, 3) in which each pixel tells its column, its row and the picture's index."""
    grids = [(index, *np.mgrid[:height, :width]) for index, (height, width) in enumerate(sizes)]
    return [np.stack([x, y, np.full_like(x, index)], axis=-1).astype(np.uint8) for index, y, x in grids]


def batches(count: int, length: int, batch_size: int, **options: int) -> list[list[Draw]]:
    return list(islice(StepSampler(length, batch_size, **{"seed": 1, **options}), count))


def test_crops_are_those_of_every_earlier_run(tmp_path: Path) -> None:
    assert hash_seed(0) == 0xE220A8397B1DCDAF >> 1  # splitmix64's published first output for seed 0
    pictures = charts(*[(30, 40)] * 7)
    source = saved(tmp_path, pictures)
    for seed, epoch, index, top, left, flip, turns in [
        (1, 0, 0, 10, 9, False, 0),
        (1, 0, 1, 3, 12, False, 3),
        (1, 1, 0, 4, 6, False, 2),
        (1, 2, 5, 9, 21, True, 2),
        (1, 3, 6, 0, 1, True, 1),
        (2, 0, 1, 20, 27, True, 2),
    ]:
        window = pictures[index][top : top + 8, left : left + 8]
        mirrored = window[:, ::-1] if flip else window
        for augment, expected in (("none", window), ("flip", mirrored), ("dihedral", np.rot90(mirrored, turns))):
            crop = RandomCrops(source, 8, seed, augment)[epoch, index]
            assert np.array_equal(crop.permute(1, 2, 0), expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(("batch_size", "workers"), [(4, 2), (2, 0), (6, 0)])
def test_neither_workers_nor_the_batch_size_change_crops(tmp_path: Path, batch_size: int, workers: int) -> None:
    crops = RandomCrops(saved(tmp_path, charts(*[(30, 40)] * 7)), 8, seed=1, augment="dihedral")
    sampler = StepSampler(7, batch_size, seed=1)
    loader = DataLoader(crops, batch_sampler=sampler, collate_fn=lambda batch: batch, num_workers=workers)
    found = list(islice(loader, 24 // batch_size))
    assert found[0].shape == (batch_size, 3, 8, 8)
    assert torch.equal(torch.cat(found), torch.stack([crops[draw] for draw in batches(1, 7, 24)[0]]))


def test_small_images_are_mirrored_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures = charts((30, 30), (5, 7), (9, 3), (10, 4))
    missing = (0, 0), (5, 7), (9, 9), (0, 12)  # rows and columns until both sides were doubled to 10 or more
    mirrored = [
        np.pad(picture, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
        for picture, (rows, columns) in zip(pictures, missing, strict=True)
    ]
    expected = RandomCrops(saved(tmp_path, mirrored), 10, seed=1, augment="flip").__getitems__(DRAWS)
    crops = RandomCrops(saved(tmp_path, pictures), 10, seed=1, augment="flip")
    crops[0, 0]
    assert not caplog.records
    assert torch.equal(crops.__getitems__(DRAWS), expected)
    assert len(caplog.records) == 1
    assert "1.png is 7×5, smaller than the crop of 10" in caplog.text


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_the_cache_changes_no_crop(tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srgan.data.cache.CHUNK", 3)  # so that its buffer has to grow
    source = saved(tmp_path, charts((9, 12), (30, 11), (8, 8), (5, 20)))  # the last is smaller than the crop
    expected = RandomCrops(source, 8, seed=3, augment="dihedral").__getitems__(DRAWS)
    cached = RandomCrops(source, 8, seed=3, augment="dihedral", cache=torch.device(device))
    for index in range(4):
        Path(source.name(index)).unlink()
    places = cached.places(DRAWS)
    assert cached.cut(places.to(device)).device.type == device
    assert torch.equal(cached.cut(places.to(device)).cpu(), expected)
    assert torch.equal(cached.__getitems__(DRAWS), expected if device == "cpu" else places)


def test_batches_are_those_of_every_earlier_run_whatever_ranks_share_them_from_whatever_step() -> None:
    assert batches(2, 5, 4) == [[(0, 1), (0, 0), (0, 2), (0, 3)], [(0, 4), (1, 0), (1, 3), (1, 4)]]
    assert batches(1, 5, 4, seed=2) == [[(0, 2), (0, 1), (0, 4), (0, 3)]]
    for length, batch_size in ((10, 4), (10, 5), (3, 7)):
        drawn = batches(3 * length, length, batch_size)
        assert {len(batch) for batch in drawn} == {batch_size}
        draws = list(chain.from_iterable(drawn))
        for epoch in range(3 * batch_size):
            assert sorted(draws[epoch * length : (epoch + 1) * length]) == [(epoch, index) for index in range(length)]
    for world_size, start in ((1, 17), (2, 0), (3, 5)):
        ranks = [batches(9, 10, 4, rank=rank, world_size=world_size, start=start) for rank in range(world_size)]
        joined = [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]
        assert joined == batches(9 + start, 10, 4 * world_size)[start:]


@pytest.mark.parametrize("cache", [None, torch.device("cpu"), pytest.param(torch.device("cuda"), marks=GPU)])
def test_multiscale_adds_reduced_copies_of_each_image_not_below_the_crop(
    tmp_path: Path, cache: torch.device | None, generator: torch.Generator
) -> None:
    pictures = [
        torch.randint(256, size, generator=generator).numpy().astype(np.uint8) for size in ((20, 40, 3), (32, 12, 3))
    ]
    source = saved(tmp_path, pictures)
    crops = RandomCrops(source, 10, 1, "none", cache, multiscale=[0.8, 0.1])
    assert len(crops) == 6
    for index, (width, height) in enumerate([(40, 20), (32, 16), (20, 10), (12, 32), (10, 27), (10, 27)]):
        picture = Image.fromarray(pictures[index // 3]).resize((width, height), Image.Resampling.BICUBIC)
        whole = torch.from_numpy(np.array(picture)).permute(2, 0, 1).short()
        for epoch in range(4):
            batch = crops.__getitems__([(epoch, index)])
            crop = (crops.cut(batch.to(cache)).cpu() if crops.on_gpu else batch)[0].short()
            windows = whole.unfold(1, 10, 1).unfold(2, 10, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
            assert (windows - crop).abs().amax(dim=(1, 2, 3)).min() <= 1  # Pillow rounds after each of its two passes


def test_an_image_that_cannot_be_read_is_replaced_in_all_its_sizes_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = saved(tmp_path, charts(*[(16, 16)] * 200))
    (tmp_path / "7.png").unlink()
    for cache in (None, torch.device("cpu")):
        caplog.clear()
        data = CropBatches(RandomCrops(source, 8, 1, "flip", cache, multiscale=[0.75, 0.5]))
        images = torch.cat([data.__getitems__(draws).hr[:, 2, 0, 0] for draws in batches(6, len(data), 100)])
        assert len(images) == len(data) == 600 and 7 not in images and set(images.tolist()) == {*range(200)} - {7}
        assert caplog.text.count("7.png") == 1 and "so far 1 of 200 training images" in caplog.text


def test_whole_images_are_evenly_spaced_and_cut_to_the_scale_and_none_may_be_too_small(tmp_path: Path) -> None:
    source, whole = saved(tmp_path, charts(*[(25, 31)] * 10)), charts(*[(24, 28)] * 10)
    for limit, kept in ((None, [*range(10)]), (1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (99, [*range(10)])):
        images = WholeImages(source, 4, limit)
        assert [images.name(position) for position in range(len(images))] == [source.name(index) for index in kept]
        for position, index in enumerate(kept):
            assert np.array_equal(images[position].permute(1, 2, 0), whole[index])
    WholeImages(saved(tmp_path, charts((23, 40), (40, 23))), 4).verify()  # 11 pixels of SSIM's window, and 3 · 4
    for size in ((22, 40), (40, 22)):
        with pytest.raises(UserError, match=rf"1\.png is {size[1]}×{size[0]}, too small to be scored at ×4"):
            WholeImages(saved(tmp_path, charts((40, 40), size)), 4).verify()
    with pytest.raises(UserError, match=r"(?s)0\.png is 9×9, too small.*9\.png is 9×9.*… and 2 more$"):
        WholeImages(saved(tmp_path, charts(*[(9, 9)] * 12)), 4).verify()


def test_verify_finds_what_is_damaged_or_small_unless_it_is_beyond_its_limits(tmp_path: Path) -> None:
    source = saved(tmp_path, charts(*[(8, 8)] * 5, (7, 9)))
    assert verify(source, 7) == ({}, [])
    damaged = Path(source.name(3))
    damaged.write_bytes(damaged.read_bytes()[:40])
    for limits in ({}, {"most_images": 6}, {"most_bytes": 10**4}):
        found = verify(source, 8, **limits)
        assert found.small == [f"{source.name(5)} is 9×7"]
        assert [*found.unreadable] == [3] and "3.png: not a readable image" in found.unreadable[3]
    assert verify(source, 8, most_images=5) == verify(source, 8, most_bytes=0) == ({}, [])
    damaged.unlink()
    assert "3.png: can't be read (No such file" in verify(source).unreadable[3]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
def test_other_images_take_the_places_of_those_that_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """HR and LR are charts whose pixels name the image; of 200 pairs two may fail, in either file, and no third."""
    hr, lr = tmp_path / "hr", tmp_path / "lr"
    hr.mkdir()
    lr.mkdir()
    names = saved(hr, charts(*[(16, 16)] * 200)).names
    saved(lr, charts(*[(8, 8)] * 200))

    def new(cache: torch.device | None = None) -> CropBatches:
        faults = Faults(FolderSource(hr, names))
        return CropBatches(
            RandomCrops(FolderSource(hr, names), 8, 1, "flip", cache, grid=2, faults=faults),
            RandomCrops(FolderSource(lr, names), 4, 1, "flip", cache, faults=faults),
        )

    def seen(data: CropBatches, start: int = 0, workers: int = 0) -> list[Batch]:
        sampler = StepSampler(200, 40, seed=1, start=start)
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=lambda batch: batch, num_workers=workers)
        return list(islice(loader, 10 - start))

    whole, running = seen(new()), new()
    (hr / "7.png").unlink()
    (lr / "9.png").write_bytes(b"not an image")
    batches = seen(running)
    assert len(caplog.records) == 2 and caplog.text.count("/hr/7.png") == caplog.text.count("/lr/9.png") == 1
    assert "so far 2 of 200 training images can't be used" in caplog.text
    for batch, other in zip(batches, whole, strict=True):
        assert batch.lr is not None and other.lr is not None and batch.seed == other.seed
        images, before = batch.hr[:, 2, 0, 0], other.hr[:, 2, 0, 0]
        assert torch.equal(batch.lr[:, 2, 0, 0], images)
        assert torch.equal(images != before, (before == 7) | (before == 9))
        assert not set(images.tolist()) & {7, 9}
    for again, start in (
        (seen(new(), start=6), 6),
        (seen(new(), 2, workers=2), 2),
        (seen(new(torch.device("cpu"))), 0),
    ):
        for batch, other in zip(again, batches[start:], strict=True):
            assert torch.equal(batch.hr, other.hr) and torch.equal(batch.lr, other.lr)
    (hr / "11.png").unlink()
    for workers in (0, 1):
        with pytest.raises(
            UserError, match=r"3 of 200 training images can't be used, which is more than 1%:"
        ) as raised:
            seen(new(), workers=workers)
        assert all(name in cli.message(raised.value) for name in ("hr/7.png", "9.png", "hr/11.png"))
        assert cli.message(raised.value).startswith("3 of 200")
