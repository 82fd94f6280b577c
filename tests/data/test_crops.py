"""Random crops, their order, and whole images."""

import logging
import resource
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from srgan.data.crops import Augment, Draw, RandomCrops, StepSampler, WholeImages, mix, verify
from srgan.errors import UserError

CPU = torch.device("cpu")


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


@pytest.fixture
def charts(encoded: Callable[..., bytes]) -> Charts:
    """charts((height, width), …): pictures in which each pixel tells its column, its row and its picture."""

    def chart(index: int, height: int, width: int) -> bytes:
        rows, columns = np.mgrid[:height, :width]
        return encoded(np.stack([columns, rows, np.full_like(rows, index)], axis=-1).astype(np.uint8), "PNG")

    return lambda *sizes: Files([chart(index, *size) for index, size in enumerate(sizes)])


def place(patch: Tensor) -> tuple[int, int]:
    """Row and column where a patch of a chart was cut."""
    return int(patch[1].min()), int(patch[0].min())


def from_above(patch: Tensor) -> Tensor:
    """A patch of a chart, less its place."""
    return patch - patch.amin(dim=(1, 2), keepdim=True)


def batches(count: int, length: int, batch_size: int, **options: int) -> list[list[Draw]]:
    return list(islice(StepSampler(length, batch_size, **{"seed": 1, **options}), count))


# --- crops ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [1, 8, 20])
def test_a_crop_is_a_window_of_its_image(charts: Charts, crop: int) -> None:
    crops = RandomCrops(charts((20, 30), (25, 20)), crop, seed=1, augment="none")
    for epoch, index in [(0, 0), (0, 1), (7, 0), (7, 1)]:
        patch = crops[epoch, index]
        top, left = place(patch)
        assert patch.shape == (3, crop, crop)
        assert patch.dtype == torch.uint8
        assert patch[2].unique().tolist() == [index]
        assert patch[0].tolist() == [list(range(left, left + crop))] * crop
        assert patch[1].T.tolist() == [list(range(top, top + crop))] * crop


@pytest.mark.parametrize("augment", ["none", "flip", "dihedral"])
def test_positions_are_uniform_over_the_whole_range(charts: Charts, augment: Augment) -> None:
    crops = RandomCrops(charts((10, 12)), 8, seed=1, augment=augment)
    counts = Counter(place(crops[epoch, 0]) for epoch in range(1500))
    assert set(counts) == {(top, left) for top in range(3) for left in range(5)}
    chi_squared = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_squared < 36.1  # 99.9 % of uniform draws, 14 degrees of freedom


def test_flips_mirror_left_and_right_half_of_the_time(charts: Charts) -> None:
    crops = RandomCrops(charts((8, 8)), 8, seed=1, augment="flip")
    upright = RandomCrops(charts((8, 8)), 8, seed=1, augment="none")[0, 0]
    patches = [crops[epoch, 0] for epoch in range(1000)]
    flipped = sum(torch.equal(patch, upright.flip(-1)) for patch in patches)
    assert flipped + sum(torch.equal(patch, upright) for patch in patches) == 1000
    assert 450 < flipped < 550


def test_dihedral_gives_all_eight_views_equally_often(charts: Charts) -> None:
    crops = RandomCrops(charts((8, 8)), 8, seed=1, augment="dihedral")
    upright = RandomCrops(charts((8, 8)), 8, seed=1, augment="none")[0, 0]
    views = [view.rot90(turns, (-2, -1)) for view in (upright, upright.transpose(-2, -1)) for turns in range(4)]
    counts = [0] * 8
    for epoch in range(1600):
        patch = crops[epoch, 0]
        counts[[torch.equal(patch, view) for view in views].index(True)] += 1
    assert min(counts) > 150
    assert max(counts) < 250


def test_without_augmentation_no_crop_is_turned(charts: Charts) -> None:
    crops = RandomCrops(charts((9, 12)), 8, seed=1, augment="none")
    views = torch.stack([from_above(crops[epoch, 0]) for epoch in range(100)])
    assert (views == views[0]).all()


def test_position_and_flip_are_not_tied(charts: Charts) -> None:
    crops = RandomCrops(charts((8, 9)), 8, seed=1, augment="flip")
    seen = Counter(
        (place(patch)[1], bool(patch[0, 0, 0] > patch[0, 0, 1])) for patch in (crops[e, 0] for e in range(400))
    )
    assert min(seen[left, flipped] for left in (0, 1) for flipped in (False, True)) > 70


def test_crops_change_with_seed_epoch_and_index(charts: Charts) -> None:
    source = charts(*[(90, 90)] * 20)

    def places(seed: int, epoch: int) -> list[tuple[int, int]]:
        crops = RandomCrops(source, 8, seed, "none")
        return [place(crops[epoch, index]) for index in range(20)]

    assert places(1, 0) == places(1, 0)
    assert len(set(places(1, 0))) > 15
    for other in (places(2, 0), places(1, 1), places(0, 1)):
        assert sum(one == two for one, two in zip(places(1, 0), other, strict=True)) < 3


def test_neighbouring_values_mix_to_distinct_seeds() -> None:
    seeds = {mix(seed, epoch, index) for seed in range(20) for epoch in range(20) for index in range(-1, 20)}
    assert len(seeds) == 20 * 20 * 21
    assert all(0 <= seed < 2**63 for seed in seeds)


def stream(source: Files, batch_size: int, workers: int, batches: int) -> list[Tensor]:
    crops = RandomCrops(source, 8, seed=1, augment="dihedral")
    sampler = StepSampler(len(source), batch_size, seed=1)
    loader = DataLoader(crops, batch_sampler=sampler, collate_fn=lambda batch: batch, num_workers=workers)
    return list(islice(loader, batches))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
def test_batches_do_not_depend_on_the_number_of_workers(charts: Charts) -> None:
    source = charts(*[(30, 40)] * 7)
    alone, shared_out = (stream(source, 4, workers, 6) for workers in (0, 2))
    assert [batch.shape for batch in shared_out] == [(4, 3, 8, 8)] * 6
    assert torch.equal(torch.stack(alone), torch.stack(shared_out))


def test_crops_do_not_depend_on_what_else_is_in_the_batch(charts: Charts) -> None:
    source = charts(*[(30, 40)] * 7)
    small, large = (torch.cat(stream(source, size, 0, 24 // size)) for size in (2, 6))
    crops = RandomCrops(source, 8, seed=1, augment="dihedral")
    (draws,) = batches(1, 7, 24)
    assert torch.equal(small, large)
    assert torch.equal(small, torch.stack([crops[draw] for draw in reversed(draws)]).flip(0))


@pytest.mark.parametrize(("height", "width"), [(5, 7), (9, 3), (4, 40)])
def test_a_small_image_is_mirrored_to_fill_the_crop(charts: Charts, height: int, width: int) -> None:
    crops = RandomCrops(charts((height, width)), 10, seed=1, augment="none")
    rows, columns = (np.pad(np.arange(side), (0, 40), mode="symmetric") for side in (height, width))
    for epoch in range(20):
        patch = crops[epoch, 0]
        assert patch.shape == (3, 10, 10)
        for line, axis in ((patch[1, :, 0], rows), (patch[0, 0, :], columns)):
            assert any(np.array_equal(line, axis[start : start + 10]) for start in range(len(axis) - 9))
        assert (patch[1] == patch[1, :, :1]).all()
        assert (patch[0] == patch[0, :1, :]).all()


def test_small_images_are_warned_about_once_by_name(charts: Charts, caplog: pytest.LogCaptureFixture) -> None:
    crops = RandomCrops(charts((30, 30), (5, 7), (6, 6)), 10, seed=1)
    with caplog.at_level(logging.WARNING):
        crops[0, 0]
        assert not caplog.records
        for draw in [(0, 1), (0, 2), (1, 1)]:
            crops[draw]
    assert len(caplog.records) == 1
    assert "1.png is 7×5, smaller than the crop of 10" in caplog.text


def test_the_cache_changes_nothing(charts: Charts) -> None:
    source = charts((30, 40), (12, 9), (5, 7))
    cached, plain = (RandomCrops(source, 8, seed=1, augment="dihedral", cache=cache) for cache in (CPU, None))
    for draw in [(epoch, index) for epoch in (0, 1) for index in range(3)] * 2:
        assert torch.equal(cached[draw], plain[draw])


@pytest.mark.parametrize("augment", ["none", "flip", "dihedral"])
def test_a_batch_gathered_from_the_cache_is_the_one_cut_crop_by_crop(charts: Charts, augment: Augment) -> None:
    source = charts((9, 12), (30, 11), (8, 8), (5, 20))  # of all sizes, one smaller than the crop
    draws = [(epoch, index) for epoch in range(40) for index in range(4)]  # all eight turns of each
    cached = RandomCrops(source, 8, seed=3, augment=augment, cache=CPU)
    plain = RandomCrops(source, 8, seed=3, augment=augment)
    assert torch.equal(cached.gathered(draws), plain.__getitems__(draws))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_crops_cut_on_a_gpu_are_those_cut_on_the_cpu(charts: Charts) -> None:
    source = charts((9, 12), (30, 11), (8, 8), (5, 20))
    draws = [(epoch, index) for epoch in range(40) for index in range(4)]
    there = RandomCrops(source, 8, seed=3, augment="dihedral", cache=torch.device("cuda")).__getitems__(draws)
    assert there.is_cuda
    assert torch.equal(there.cpu(), RandomCrops(source, 8, seed=3, augment="dihedral").__getitems__(draws))


def test_the_cache_decodes_each_image_once(charts: Charts) -> None:
    source = charts((30, 40), (12, 9))
    files = list(source.files)
    crops = RandomCrops(Files(files), 8, seed=1, cache=CPU)
    files.clear()
    assert crops[0, 1].shape == (3, 8, 8)


def test_the_cache_holds_more_images_than_a_process_may_open_files(charts: Charts) -> None:
    source = Files(charts((8, 8)).files * 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        crops = RandomCrops(source, 8, seed=1, cache=CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert crops[0, 299].shape == (3, 8, 8)


# --- order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (10, 5), (3, 7), (1, 2)])
def test_batches_are_full_and_each_epoch_is_a_permutation(length: int, batch_size: int) -> None:
    drawn = batches(3 * length, length, batch_size)
    assert {len(batch) for batch in drawn} == {batch_size}
    draws = [draw for batch in drawn for draw in batch]
    assert [epoch for epoch, _ in draws] == [position // length for position in range(len(draws))]
    for epoch in range(3 * batch_size):
        assert sorted(draws[epoch * length : (epoch + 1) * length]) == [(epoch, index) for index in range(length)]


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    orders = [[index for _, index in batch] for batch in batches(5, 30, 30) + batches(5, 30, 30, seed=2)]
    assert len({tuple(order) for order in orders}) == 10
    assert list(range(30)) not in orders


@pytest.mark.parametrize("start", [1, 2, 3, 17])
def test_a_resumed_sampler_goes_on_where_the_other_would(start: int) -> None:
    assert batches(8, 10, 4, start=start) == batches(8 + start, 10, 4)[start:]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("start", [0, 5])
def test_the_batches_of_all_ranks_make_up_the_global_batch(world_size: int, start: int) -> None:
    ranks = [batches(9, 10, 4, rank=rank, world_size=world_size, start=start) for rank in range(world_size)]
    joined = [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)]
    assert joined == batches(9, 10, 4 * world_size, start=start)


# --- whole images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "count"), [(None, 10), (1, 1), (3, 3), (4, 4), (10, 10), (99, 10)])
def test_the_limit_keeps_images_evenly_spaced(charts: Charts, limit: int | None, count: int) -> None:
    images = WholeImages(charts(*[(24, 24)] * 10), 4, limit)
    kept = [int(images[position][2, 0, 0]) for position in range(len(images))]
    assert len(kept) == count
    assert kept[0] == 0
    assert set(np.diff([*kept, 10])) <= {10 // count, -(-10 // count)}


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_sides_of_whole_images_divide_by_the_scale(charts: Charts, scale: int) -> None:
    sizes = [(49, 58), (48, 48), (61, 37)]
    images = WholeImages(charts(*sizes), scale)
    for position, (height, width) in enumerate(sizes):
        assert images[position].shape == (3, height - height % scale, width - width % scale)
        assert place(images[position]) == (0, 0)
        assert images[position].dtype == torch.uint8


# --- verify ---------------------------------------------------------------------------------------------------------


def test_verify_names_the_damaged_file(charts: Charts) -> None:
    files = list(charts(*[(8, 8)] * 5).files)
    verify(Files(files))
    with pytest.raises(UserError, match=r"3\.png: not a readable image"):
        verify(Files([*files[:3], files[3][:40], files[4]]))


@pytest.mark.parametrize("limit", [{"most_images": 4}, {"most_bytes": 0}])
def test_verify_leaves_what_is_beyond_its_limits(limit: dict[str, int]) -> None:
    verify(Files([b"no image"] * 5), **limit)
    with pytest.raises(UserError):
        verify(Files([b"no image"] * 5))
