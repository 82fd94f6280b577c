"""Images out of a source: random training crops, and whole pictures for scoring. All uint8, (3, H, W)."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from srgan.data.cache import DecodedImages
from srgan.data.sources import Source
from srgan.errors import UserError
from srgan.images import crop_to_multiple, decode

log = logging.getLogger(__name__)

Augment = Literal["none", "flip", "dihedral"]
SSIM_WINDOW = 11
Draw = tuple[int, int]  # (epoch, index of the image)


class RandomCrops(Dataset[Tensor]):
    """Square crops whose position and flip are a function of (seed, epoch, index) alone.

    Args:
        source: the images.
        crop: side of a crop in HR pixels. An image smaller than that is mirrored at its right and lower edge until
            it is large enough; the first one is named in a warning.
        augment: `flip` mirrors left-right half of the time; `dihedral` takes one of the eight rotations and
            reflections; `none` keeps crops as they are.
        cache: keep decoded images (decoded at once, in threads) on this device, where batches are then cut, too.
    """

    def __init__(
        self,
        source: Source,
        crop: int,
        seed: int,
        augment: Augment = "flip",
        cache: torch.device | None = None,
    ) -> None:
        self.source = source
        self.crop = crop
        self.seed = seed
        self.augment = augment
        self._told = torch.zeros(1, dtype=torch.bool).share_memory_()  # across worker processes
        self._cache = None if cache is None else DecodedImages(len(source), self._read, cache)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: Draw) -> Tensor:
        """(3, crop, crop)."""
        return torch.from_numpy(self._cut(draw).copy())

    def _cut(self, draw: Draw) -> NDArray[np.uint8]:
        """The crop as a view of its image: NumPy turns without copying."""
        image = (self._read(draw[1]) if self._cache is None else self._cache[draw[1]]).numpy()
        top, left, flip, turns = self._place(draw, image.shape[-2], image.shape[-1])
        patch = image[:, top : top + self.crop, left : left + self.crop]
        patch = patch[:, :, ::-1] if flip else patch
        return np.rot90(patch, turns, (-2, -1)) if turns else patch

    def __getitems__(self, draws: Sequence[Draw]) -> Tensor:
        """A whole batch at once: (B, 3, crop, crop)."""
        if self._cache is not None and self._cache.device.type != "cpu":
            return self.gathered(draws)
        batch = torch.empty(len(draws), 3, self.crop, self.crop, dtype=torch.uint8)
        for patch, draw in zip(batch.numpy(), draws, strict=True):
            patch[:] = self._cut(draw)
        return batch

    def gathered(self, draws: Sequence[Draw]) -> Tensor:
        """The same out of the cache in a few operations, whatever the size of the batch: for a GPU."""
        assert self._cache is not None
        sides = [(int(self._cache.heights[index]), int(self._cache.widths[index])) for _, index in draws]
        places = [self._place(draw, *side) for draw, side in zip(draws, sides, strict=True)]
        top, left, flip, turns = (np.array(column) for column in zip(*places, strict=True))
        return self._cache.gather(np.array([index for _, index in draws]), top, left, flip, turns, self.crop)

    def _place(self, draw: Draw, height: int, width: int) -> tuple[int, int, bool, int]:
        """Top, left, whether mirrored, quarter turns: out of 63 well mixed bits."""
        chance, top = divmod(mix(self.seed, *draw), height - self.crop + 1)
        chance, left = divmod(chance, width - self.crop + 1)
        flip = self.augment != "none" and bool(chance & 1)
        return top, left, flip, (chance >> 1) & 3 if self.augment == "dihedral" else 0

    def _read(self, index: int) -> Tensor:
        image = decode(self.source.read(index), self.source.name(index))
        return self._enlarge(image, index) if min(image.shape[-2:]) < self.crop else image

    def _enlarge(self, image: Tensor, index: int) -> Tensor:
        if not self._told:
            self._told.fill_(True)
            log.warning(
                "%s is %d×%d, smaller than the crop of %d: such images are mirrored at their edges to fill it",
                self.source.name(index), image.shape[-1], image.shape[-2], self.crop,
            )  # fmt: skip
        while min(image.shape[-2:]) < self.crop:
            for axis in (-2, -1):
                if image.shape[axis] < self.crop:
                    image = torch.cat([image, image.flip(axis)], dim=axis)
        return image


def check_count(images: object, key: str) -> None:
    """Raise UserError if the limit `key` leaves nothing, or is no number of images."""
    if images is not None and (not isinstance(images, int) or images < 1):
        raise UserError(f"{key}={images}: expected at least 1, or null for all")


class WholeImages(Dataset[Tensor]):
    """Whole images, cut at the bottom and right to a multiple of the scale; at most `limit`, evenly spaced."""

    def __init__(self, source: Source, multiple: int, limit: int | None = None) -> None:
        count = len(source) if limit is None else min(limit, len(source))
        self.source = source
        self.multiple = multiple
        self._indices = [i * len(source) // count for i in range(count)]

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """Where the image lies."""
        return self.source.name(self._indices[index])

    def __getitem__(self, index: int) -> Tensor:
        chosen = self._indices[index]
        image = decode(self.source.read(chosen), self.source.name(chosen))
        if min(image.shape[-2:]) < SSIM_WINDOW + 3 * self.multiple:
            size = f"{image.shape[-1]}×{image.shape[-2]}"
            raise UserError(
                f"{self.source.name(chosen)} is {size}, too small to be scored at ×{self.multiple}; remove it"
            )
        return crop_to_multiple(image, self.multiple).contiguous()

    def verify(self) -> None:
        """Raise UserError, naming the file, if one of the images is damaged or too small."""
        with ThreadPoolExecutor() as pool:
            for _ in pool.map(self.__getitem__, range(len(self))):
                pass


class StepSampler(Sampler[list[Draw]]):
    """Endless batches of (epoch, index): batch t is a function of (seed, t), so a run resumes at any step.

    An epoch is one pass over all images in an order of its own; batches run on across epochs and are always full.
    Under several processes, each takes its part of a batch of `batch_size · world_size`.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[Draw]]:
        step, epoch, order = self.start, -1, torch.empty(0, dtype=torch.int64)
        while True:
            first = (step * self.world_size + self.rank) * self.batch_size
            batch: list[Draw] = []
            for position in range(first, first + self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    generator = torch.Generator().manual_seed(mix(self.seed, epoch, -1))
                    order = torch.randperm(self.length, generator=generator)
                batch.append((epoch, int(order[position % self.length])))
            yield batch
            step += 1


def mix(*values: int) -> int:
    """A 63-bit seed from integers, well mixed even for neighbours (splitmix64's finaliser over each)."""
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def verify(source: Source, most_images: int = 5000, most_bytes: int = 2**26) -> None:
    """Decode a small set once, so that a damaged file is found before training and not hours into it.

    Sets of more than `most_images` images, and what comes after `most_bytes`, are left for when they are drawn.
    Raises UserError naming the file.
    """
    if len(source) > most_images:
        return
    remaining = most_bytes

    def check(index: int) -> None:
        nonlocal remaining
        if remaining > 0:
            data = source.read(index)
            remaining -= len(data)
            decode(data, source.name(index))

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, range(len(source))))
