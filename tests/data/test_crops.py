"""Random crops, their order, and whole images."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from srgan.data.crops import Augment, Draw, RandomCrops, StepSampler, WholeImages, hash_seed, verify
from srgan.errors import UserError

CPU = torch.device("cpu")
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SIZES = (9, 12), (30, 11), (8, 8), (5, 20)  # of all kinds for a crop of 8: the last is smaller than it
DRAWS = [(epoch, index) for epoch in range(40) for index in range(4)]  # all eight turns of each


@dataclass(frozen=True)
class Files:
    """A source in memory."""

    files: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return f"{index}.png"

    def read(self, index: int) -> bytes:
        return self.files[index]


Charts = Callable[..., Files]


def chart(index: int, height: int, width: int) -> NDArray[np.uint8]:
    """A picture (3, H, W) in which each pixel tells its column, its row and the picture's index."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.full_like(rows, index)]).astype(np.uint8)


@pytest.fixture
def charts(encoded: Callable[..., bytes]) -> Charts:
    """charts((height, width), …): a source of charts."""
    return lambda *sizes: Files([encoded(chart(i, *size).transpose(1, 2, 0), "PNG") for i, size in enumerate(sizes)])


def batches(count: int, length: int, batch_size: int, **options: int) -> list[list[Draw]]:
    return list(islice(StepSampler(length, batch_size, **{"seed": 1, **options}), count))


def test_crops_are_those_of_every_earlier_run(charts: Charts) -> None:
    assert hash_seed(0) == 0xE220A8397B1DCDAF >> 1  # splitmix64's published first output for seed 0
    source = charts(*[(30, 40)] * 7)
    for seed, epoch, index, top, left, flip, turns in [
        (1, 0, 0, 10, 9, False, 0),
        (1, 0, 1, 3, 12, False, 3),
        (1, 1, 0, 4, 6, False, 2),
        (1, 2, 5, 9, 21, True, 2),
        (1, 3, 6, 0, 1, True, 1),
        (2, 0, 1, 20, 27, True, 2),
    ]:
        window = chart(index, 30, 40)[:, top : top + 8, left : left + 8]
        mirrored = window[:, :, ::-1] if flip else window
        turned = np.rot90(mirrored, turns, (1, 2))
        for augment, expected in (("none", window), ("flip", mirrored), ("dihedral", turned)):
            assert np.array_equal(RandomCrops(source, 8, seed, augment)[epoch, index], expected)


@pytest.mark.parametrize(
    ("augment", "kinds", "chi_squared"), [("none", 6, 20.5), ("flip", 12, 31.3), ("dihedral", 48, 82.7)]
)
def test_every_position_and_turn_is_as_likely(charts: Charts, augment: Augment, kinds: int, chi_squared: float) -> None:
    """chi_squared: 99.9 % of uniform draws lie below it."""
    crops = RandomCrops(charts((9, 10)), 8, seed=1, augment=augment, cache=CPU)
    counts = Counter(crops[epoch, 0].numpy().tobytes() for epoch in range(100 * kinds))
    assert len(counts) == kinds
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < chi_squared


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(("batch_size", "workers"), [(4, 2), (2, 0), (6, 0)])
def test_crops_depend_neither_on_workers_nor_on_the_rest_of_the_batch(
    charts: Charts, batch_size: int, workers: int
) -> None:
    crops = RandomCrops(charts(*[(30, 40)] * 7), 8, seed=1, augment="dihedral")
    sampler = StepSampler(7, batch_size, seed=1)
    loader = DataLoader(crops, batch_sampler=sampler, collate_fn=lambda batch: batch, num_workers=workers)
    found = list(islice(loader, 24 // batch_size))
    assert found[0].shape == (batch_size, 3, 8, 8)
    assert torch.equal(torch.cat(found), torch.stack([crops[draw] for draw in batches(1, 7, 24)[0]]))


def test_small_images_are_mirrored_to_fill_the_crop_with_one_warning_by_name(
    charts: Charts, encoded: Callable[..., bytes], caplog: pytest.LogCaptureFixture
) -> None:
    sizes, filled = [(30, 30), (5, 7), (9, 3), (10, 4)], [(30, 30), (10, 14), (18, 12), (10, 16)]
    mirrored = [chart(index, *size).transpose(1, 2, 0) for index, size in enumerate(sizes)]
    for index, (before, after) in enumerate(zip(sizes, filled, strict=True)):
        padding = [(0, after[0] - before[0]), (0, after[1] - before[1]), (0, 0)]
        mirrored[index] = np.pad(mirrored[index], padding, mode="symmetric")
    sources = charts(*sizes), Files([encoded(picture, "PNG") for picture in mirrored])
    small, large = (RandomCrops(source, 10, seed=1, augment="flip") for source in sources)
    assert torch.equal(small[0, 0], large[0, 0])
    assert not caplog.records
    assert all(torch.equal(small[draw], large[draw]) for draw in DRAWS)
    assert len(caplog.records) == 1
    assert "1.png is 7×5, smaller than the crop of 10" in caplog.text


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
def test_the_cache_changes_no_crop_and_decodes_each_image_once(
    charts: Charts, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srgan.data.cache.CHUNK", 3)  # so that its buffer has to grow
    source = charts(*SIZES)
    files = list(source.files)
    plain = RandomCrops(source, 8, seed=3, augment="dihedral")
    cached = RandomCrops(Files(files), 8, seed=3, augment="dihedral", cache=torch.device(device))
    files[:] = [b""] * len(files)
    expected = plain.__getitems__(DRAWS)
    for batch in (cached.__getitems__(DRAWS), cached.gathered(DRAWS)):
        assert batch.device.type == device
        assert torch.equal(batch.cpu(), expected)


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (10, 5), (3, 7)])
def test_batches_are_full_and_each_epoch_is_a_permutation(length: int, batch_size: int) -> None:
    drawn = batches(3 * length, length, batch_size)
    assert {len(batch) for batch in drawn} == {batch_size}
    draws = list(chain.from_iterable(drawn))
    for epoch in range(3 * batch_size):
        assert sorted(draws[epoch * length : (epoch + 1) * length]) == [(epoch, index) for index in range(length)]


def test_the_order_is_that_of_every_earlier_run() -> None:
    assert batches(2, 5, 4) == [[(0, 1), (0, 0), (0, 2), (0, 3)], [(0, 4), (1, 0), (1, 3), (1, 4)]]
    assert batches(1, 5, 4, seed=2) == [[(0, 2), (0, 1), (0, 4), (0, 3)]]


@pytest.mark.parametrize(("world_size", "start"), [(1, 17), (2, 0), (3, 5)])
def test_a_resumed_sampler_goes_on_and_all_ranks_make_up_the_global_batch(world_size: int, start: int) -> None:
    ranks = [batches(9, 10, 4, rank=rank, world_size=world_size, start=start) for rank in range(world_size)]
    joined = [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]
    assert joined == batches(9 + start, 10, 4 * world_size)[start:]


def test_whole_images_are_evenly_spaced_and_cut_to_the_scale(charts: Charts) -> None:
    for limit, kept in ((None, [*range(10)]), (1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (99, [*range(10)])):
        images = WholeImages(charts(*[(25, 31)] * 10), 4, limit)
        assert [images.name(position) for position in range(len(images))] == [f"{index}.png" for index in kept]
        for position, index in enumerate(kept):
            assert np.array_equal(images[position], chart(index, 24, 28))


def test_whole_images_too_small_to_score_are_refused_by_name(charts: Charts) -> None:
    WholeImages(charts((23, 40), (40, 23)), 4).verify()  # 11 pixels of SSIM's window, and 3 · 4
    for size in ((22, 40), (40, 22)):
        with pytest.raises(UserError, match=rf"1\.png is {size[1]}×{size[0]}, too small to be scored at ×4"):
            WholeImages(charts((40, 40), size), 4).verify()


def test_verify_names_the_damaged_file_unless_it_is_beyond_its_limits(charts: Charts) -> None:
    files = list(charts(*[(8, 8)] * 5).files)
    verify(Files(files))
    with pytest.raises(UserError, match=r"3\.png: not a readable image"):
        verify(Files([*files[:3], files[3][:40], files[4]]))
    damaged = Files([b"no image"] * 5)
    verify(damaged, most_images=4)
    verify(damaged, most_bytes=0)
    for limit in ({"most_images": 5}, {"most_bytes": 1}):
        with pytest.raises(UserError):
            verify(damaged, **limit)
