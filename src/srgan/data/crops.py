"""Datasets of decoded images: random training crops, whole images for scoring, and their batches. All uint8."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from srgan.data.cache import DecodedImages
from srgan.data.faults import Faults
from srgan.data.sources import PairSource, Source
from srgan.errors import UserError
from srgan.files import several
from srgan.images import crop_to_multiple, decode

Augment = Literal["none", "flip", "dihedral"]
SSIM_WINDOW = 11
Draw = tuple[int, int]  # (epoch, index of the image)


class RandomCrops(Dataset[Tensor]):
    """Square crops whose position and orientation depend on (seed, epoch, index) alone.

    Two data sets with the same seed cut matching pairs if HR's `crop` and `grid` are those of LR times the scale.

    Args:
        source: the images.
        crop: side of a crop in pixels. A smaller image is extended by mirroring at its right and lower edges; a
            warning names the first one, unless `faults` has already named such images.
        seed: seed of positions and orientations.
        augment: `flip` mirrors left-right half of the time; `dihedral` takes one of the eight rotations and
            reflections; `none` keeps crops as they are.
        cache: device on which all images are kept, decoded in threads at the start; on a GPU, `cut` cuts crops there.
        resize: see `resized`; None leaves images as they are.
        multiscale: factors in (0, 1). Each adds every image once more, reduced by it, but not to a side shorter than
            `crop`. With k factors image i has the indices (k + 1) i to (k + 1) i + k.
        grid: crops begin at multiples of it; images are cut at the bottom and right to multiples of it.
        faults: records images that can't be read; None makes a new record.
    """

    def __init__(
        self,
        source: Source,
        crop: int,
        seed: int,
        augment: Augment,
        cache: torch.device | None = None,
        resize: Sequence[int] | None = None,
        multiscale: Sequence[float] = (),
        grid: int = 1,
        faults: Faults | None = None,
    ) -> None:
        self.source = source
        self.faults = Faults(source) if faults is None else faults
        self.crop = crop
        self.grid = grid
        self.seed = seed
        self.augment = augment
        self.resize = resize
        self.factors = (1.0, *multiscale)
        self._unread: dict[int, str] = {}
        self._cache = None if cache is None else DecodedImages(len(source), self._read_for_cache, cache)
        self.faults.add(self._unread)

    def __len__(self) -> int:
        return len(self.source) * len(self.factors)

    def image(self, index: int) -> int:
        """The index in `source` of the image that crops of `index` come from."""
        return index // len(self.factors)

    def __getitem__(self, draw: Draw) -> Tensor:
        """One crop, (3, crop, crop)."""
        return torch.from_numpy(self._cut(draw).copy())

    def _cut(self, draw: Draw) -> NDArray[np.uint8]:
        """The crop as a view of its image; NumPy mirrors and rotates without copying."""
        image = (self._read(draw[1]) if self._cache is None else self._cache[draw[1]]).numpy()
        top, left, flip, turns = self._position(draw, image.shape[-2], image.shape[-1])
        patch = image[:, top : top + self.crop, left : left + self.crop]
        patch = patch[:, :, ::-1] if flip else patch
        return np.rot90(patch, turns, (-2, -1)) if turns else patch

    def __getitems__(self, draws: Sequence[Draw]) -> Tensor:
        """A whole batch of crops, (B, 3, crop, crop); with images on a GPU, the crops' places there, for `cut`."""
        if self.on_gpu:
            return self.places(draws)
        batch = torch.empty(len(draws), 3, self.crop, self.crop, dtype=torch.uint8)
        for patch, draw in zip(batch.numpy(), draws, strict=True):
            patch[:] = self._cut(draw)
        return batch

    @property
    def on_gpu(self) -> bool:
        """True if all images are kept on a GPU, where a batch of crops is cut at once."""
        return self._cache is not None and self._cache.device.type != "cpu"

    def places(self, draws: Sequence[Draw]) -> Tensor:
        """Where the crops of a batch lie in the cache, (B, 4); see `DecodedImages.places`."""
        assert self._cache is not None
        sides = [(int(self._cache.heights[index]), int(self._cache.widths[index])) for _, index in draws]
        positions = [self._position(draw, *side) for draw, side in zip(draws, sides, strict=True)]
        top, left, flip, turns = (np.array(column) for column in zip(*positions, strict=True))
        return self._cache.places(np.array([index for _, index in draws]), top, left, flip, turns, self.crop)

    def cut(self, places: Tensor) -> Tensor:
        """The crops (B, 3, crop, crop) at `places`, which were moved to the cache's device."""
        assert self._cache is not None
        return self._cache.cut(places, self.crop)

    def _position(self, draw: Draw, height: int, width: int) -> tuple[int, int, bool, int]:
        """Top, left, whether to mirror, and the number of 90° rotations, all from the bits of one hash."""
        bits, top = divmod(hash_seed(self.seed, *draw), (height - self.crop) // self.grid + 1)
        bits, left = divmod(bits, (width - self.crop) // self.grid + 1)
        flip = self.augment != "none" and bool(bits & 1)
        top, left = top * self.grid, left * self.grid
        return top, left, flip, (bits >> 1) & 3 if self.augment == "dihedral" else 0

    def check(self, index: int) -> str | None:
        """The reason why an image can't be read; None if it can. Cached images are not read again."""
        try:
            if self._cache is None:
                self._read(index)
        except UserError as error:
            return str(error)
        return None

    def _read_for_cache(self, image: int) -> list[Tensor]:
        """An image of the source in all sizes; black for one that can't be read, which is never drawn."""
        try:
            whole = self._decoded(image)
            return [self._reduced(whole, factor) for factor in self.factors]
        except UserError as error:
            self._unread[image] = str(error)  # threads read; all are told of together
            return [torch.zeros(3, self.crop, self.crop, dtype=torch.uint8)] * len(self.factors)

    def _read(self, index: int) -> Tensor:
        image, copy = divmod(index, len(self.factors))
        return self._reduced(self._decoded(image), self.factors[copy])

    def _decoded(self, index: int) -> Tensor:
        """An image of the source, in its own size or that of `resize`, extended to the crop if it is smaller."""
        image = resized(decode(self.source.read(index), self.source.name(index)), self.resize)
        image = crop_to_multiple(image, self.grid)
        return self._enlarge(image, index) if min(image.shape[-2:]) < self.crop else image

    def _reduced(self, image: Tensor, factor: float) -> Tensor:
        """The image reduced by `factor`, but not to a side shorter than the crop."""
        factor = max(factor, self.crop / min(image.shape[-2:]))
        return image if factor == 1 else resized(image, [round(factor * side) for side in image.shape[-2:]])

    def _enlarge(self, image: Tensor, index: int) -> Tensor:
        self.faults.small([f"{self.source.name(index)} is {image.shape[-1]}×{image.shape[-2]}"], self.crop)
        while min(image.shape[-2:]) < self.crop:
            for axis in (-2, -1):
                if image.shape[axis] < self.crop:
                    image = torch.cat([image, image.flip(axis)], dim=axis)
        return image


def check_count(images: object, key: str) -> None:
    """Raise UserError, naming the setting `key`, unless `images` is None or a whole number from 1."""
    if images is not None and (not isinstance(images, int) or images < 1):
        raise UserError(f"{key}={images}: expected at least 1, or null for all")


def evenly_spaced(count: int, limit: int | None) -> list[int]:
    """At most `limit` of the indices 0 … count − 1, at even intervals and in order; None for all."""
    taken = count if limit is None else min(limit, count)
    return [i * count // taken for i in range(taken)]


def resized(image: Tensor, size: Sequence[int] | None) -> Tensor:
    """Resize (3, H, W) uint8 to (height, width) by antialiased bicubic, ignoring its aspect ratio; None: unchanged."""
    if size is None:
        return image
    return F.interpolate(image[None], tuple(size), mode="bicubic", antialias=True)[0]


class WholeImages(Dataset[Tensor]):
    """Whole images, at most `limit` of them evenly spaced, cut at the bottom and right to a multiple of the scale.

    With `resize` they are first resized, see `resized`.

    Indexing gives (3, H, W). It raises UserError for an image that is damaged or too small to be scored.
    """

    def __init__(
        self, source: Source, multiple: int, limit: int | None = None, resize: Sequence[int] | None = None
    ) -> None:
        self.source = source
        self.multiple = multiple
        self.resize = resize
        self._indices = evenly_spaced(len(source), limit)

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """Path of the image, for messages."""
        return self.source.name(self._indices[index])

    def __getitem__(self, index: int) -> Tensor:
        name = self.name(index)
        image = resized(decode(self.source.read(self._indices[index]), name), self.resize)
        if min(image.shape[-2:]) < SSIM_WINDOW + 3 * self.multiple:
            size = f"{image.shape[-1]}×{image.shape[-2]}"
            raise UserError(f"{name} is {size}, too small to be scored at ×{self.multiple}; remove it")
        return crop_to_multiple(image, self.multiple).contiguous()

    def lr(self, index: int) -> Tensor | None:
        """The image's own LR, (3, h, w), if its source has pairs; otherwise the degradation makes it."""
        if not isinstance(self.source, PairSource):
            return None
        position = self._indices[index]
        return decode(self.source.lr.read(position), self.source.lr.name(position))

    def seed(self, index: int) -> int:
        """The seed for degrading the image: the same in every run, however many images are scored."""
        return hash_seed(self._indices[index])

    def verify(self) -> None:
        """Decode every image once. Raises UserError, naming the files, if some are damaged or too small."""

        def fault(index: int) -> str | None:
            try:
                self[index]
                self.lr(index)
            except UserError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            if faults := [text for text in pool.map(fault, range(len(self))) if text is not None]:
                raise UserError(several(faults))


class Batch(NamedTuple):
    """A loader's batch: hr (B, 3, H, W), its own LR (B, 3, h, w) or None, and the seed of its degradation.

    In place of images that are kept on a GPU, hr and lr hold the crops' places there, (B, 4).
    """

    hr: Tensor
    lr: Tensor | None
    seed: int


class CropBatches(Dataset[Batch]):
    """Batches of training crops, for the draws of a StepSampler.

    No draw occurs twice in a run, so the first draw identifies a batch and is hashed to its seed. The seed depends on
    (seed, step) alone, not on the number of workers or on a resume.

    An image that can't be read is replaced by another, which depends on the seed, the epoch, the index and the set of
    unreadable images, so a resumed run sees the same one. `hr` and `lr` share their faults.
    """

    def __init__(self, hr: RandomCrops, lr: RandomCrops | None = None) -> None:
        self.hr = hr
        self.lr = lr

    def __len__(self) -> int:
        return len(self.hr)

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        while True:  # each iteration finds at least one more unreadable image
            readable = [self._readable(draw) for draw in draws]
            try:
                lr = None if self.lr is None else self.lr.__getitems__(readable)
                hr = self.hr.__getitems__(readable)
            except UserError:
                if not (reasons := self._unreadable(readable)):
                    raise
                self.hr.faults.add(reasons)
            else:
                return Batch(hr, lr, hash_seed(self.hr.seed, *draws[0], -2))

    def cut(self, hr: Tensor, lr: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """A batch's hr and lr as images, cut from a GPU's cache if they are places there."""
        if hr.ndim > 2:
            return hr, lr
        return self.hr.cut(hr), None if lr is None or self.lr is None else self.lr.cut(lr)

    def _readable(self, draw: Draw) -> Draw:
        """The draw itself, or a replacement if its image is known to be unreadable."""
        epoch, index = draw
        attempt = 0
        while self.hr.image(index) in self.hr.faults:
            attempt += 1
            index = hash_seed(self.hr.seed, *draw, -2 - attempt) % len(self)
        return epoch, index

    def _unreadable(self, draws: Sequence[Draw]) -> dict[int, str]:
        """Those images of the draws that can't be read, with the reasons."""
        sets = [self.hr] if self.lr is None else [self.hr, self.lr]
        checked = {index: next(filter(None, (images.check(index) for images in sets)), None) for _, index in draws}
        return {self.hr.image(index): reason for index, reason in checked.items() if reason is not None}


class WholeBatches(Dataset[Batch]):
    """Whole images as batches of one."""

    def __init__(self, images: WholeImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        lr = self.images.lr(index)
        return Batch(self.images[index][None], None if lr is None else lr[None], self.images.seed(index))


class StepSampler(Sampler[list[Draw]]):
    """Endless batches of (epoch, index). Batch t depends on (seed, t) alone, so that a run can resume at any step.

    An epoch is one pass over all images in a new order. Batches continue across epochs and are always full. With
    several processes, each takes its part of a global batch of `batch_size · world_size`.

    Args:
        length: number of images.
        batch_size: draws per batch and process.
        seed: seed of the orders.
        start: the step whose batch comes first.
        rank, world_size: index of this process, number of processes.
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
                    generator = torch.Generator().manual_seed(hash_seed(self.seed, epoch, -1))
                    order = torch.randperm(self.length, generator=generator)
                batch.append((epoch, int(order[position % self.length])))
            yield batch
            step += 1


def hash_seed(*values: int) -> int:
    """Hash integers to a 63-bit seed; neighbouring values give unrelated seeds (splitmix64's finaliser over each)."""
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


class Verified(NamedTuple):
    """Faults of images: the reasons, by index, why some can't be read, and the sizes of small ones."""

    unreadable: dict[int, str]
    small: list[str]  # NAME is WIDTH×HEIGHT


def verify(source: Source, least: int = 1, most_images: int = 5000, most_bytes: int = 2**26) -> Verified:
    """Decode a small data set once, so that damaged and small images are found before training and not hours into it.

    `least`: an image with a shorter side is small. A set of more than `most_images` images is not checked; in others
    checking stops after `most_bytes`.
    """
    remaining = most_bytes if len(source) <= most_images else 0
    found = Verified({}, [])

    def check(index: int) -> None:
        nonlocal remaining
        if remaining <= 0:
            return
        try:
            data = source.read(index)
            remaining -= len(data)
            height, width = decode(data, source.name(index)).shape[-2:]
            if min(height, width) < least:
                found.small.append(f"{source.name(index)} is {width}×{height}")
        except UserError as error:
            found.unreadable[index] = str(error)

    with ThreadPoolExecutor() as pool:
        list(pool.map(check, range(len(source))))
    return Verified(dict(sorted(found.unreadable.items())), sorted(found.small))
