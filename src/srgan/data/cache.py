"""Decoded images in one buffer in memory or on a GPU, from which one gather cuts a batch of crops."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srgan.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 2048  # files decoded at a time


class DecodedImages:
    """Images of any sizes, uint8 (3, H, W), in one buffer on `device`; on a CPU in shared memory.

    `read` returns what is to be kept of each of `count` files. Raises UserError if a CUDA device has too little memory.
    """

    def __init__(self, count: int, read: Callable[[int], Sequence[Tensor]], device: torch.device) -> None:
        self.device = device
        shapes: list[tuple[int, int]] = []
        filled = 0
        pixels = torch.empty(0, dtype=torch.uint8)
        for files, images in _decoded(count, read):
            sizes = [image.numel() for image in images]
            if filled + sum(sizes) > len(pixels):
                pixels = self._grow(pixels[:filled], round((filled + sum(sizes)) * count / files))
            for image, size in zip(images, sizes, strict=True):
                pixels[filled : filled + size].view(image.shape).copy_(image)
                shapes.append((image.shape[-2], image.shape[-1]))
                filled += size
        self.pixels = pixels[:filled]
        self.heights, self.widths = (np.array(sides, dtype=np.int64) for sides in zip(*shapes, strict=True))
        sizes = 3 * self.heights * self.widths
        self.starts = np.cumsum(sizes) - sizes
        log.info("Decoded %d images into memory (%s): %.0f MiB", len(shapes), device, filled / 2**20)

    def _grow(self, pixels: Tensor, size: int) -> Tensor:
        """A buffer of `size` bytes that begins with `pixels`."""
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
            if size > 0.9 * free:
                raise UserError(
                    f"data.cache=device needs {size / 2**30:.1f} GiB, {torch.cuda.get_device_name(self.device)} has"
                    f" {free / 2**30:.1f} GiB free; use data.cache=ram or none"
                )
        grown = torch.empty(size, dtype=torch.uint8, device=self.device)
        if self.device.type == "cpu":
            try:
                grown = grown.share_memory_()
            except RuntimeError as error:  # torch: unable to allocate shared memory
                raise UserError(
                    f"data.cache=ram needs {size / 2**30:.1f} GiB of shared memory, more than /dev/shm has; enlarge it"
                    " (docker run --shm-size=…), or take data.cache=none"
                ) from error
        grown[: len(pixels)] = pixels
        return grown

    def __getitem__(self, index: int) -> Tensor:
        height, width, start = (int(array[index]) for array in (self.heights, self.widths, self.starts))
        return self.pixels[start : start + 3 * height * width].view(3, height, width)

    def places(
        self,
        indices: NDArray[np.int64],
        top: NDArray[np.int64],
        left: NDArray[np.int64],
        flip: NDArray[np.bool_],
        turns: NDArray[np.int64],
        crop: int,
    ) -> Tensor:
        """Where crops of the images `indices` lie, mirrored left-right, then rotated by `turns` · 90°: (B, 4) int64.

        Pixel (y, x) of a crop lies at first + plane · channel + down · y + right · x in the buffer; these four are its
        numbers. Mirroring and rotating only change `first`, `down` and `right`.
        """
        width, last = self.widths[indices], crop - 1
        corner = self.starts[indices] + top * width + left
        # For the crop not yet turned: its first pixel, and the steps in the buffer for one pixel down and right.
        first, down, right = corner + np.where(flip, last, 0), width, np.where(flip, -1, 1)
        corners = [first, first + last * right, first + last * (down + right), first + last * down]
        first = np.choose(turns, corners)
        down, right = np.choose(turns, [down, -right, -down, right]), np.choose(turns, [right, down, -right, -down])
        return torch.from_numpy(np.stack([first, self.heights[indices] * width, down, right], axis=1))

    def cut(self, places: Tensor, crop: int) -> Tensor:
        """The crops (B, 3, crop, crop) at `places`, which lie on the cache's device. A CUDA graph may replay it."""
        first, plane, down, right = places.T.view(4, -1, 1, 1, 1)
        x = torch.arange(crop, device=self.device)
        y, channel = x.view(-1, 1), torch.arange(3, device=self.device).view(3, 1, 1)
        return self.pixels[first + plane * channel + down * y + right * x]


def _decoded(count: int, read: Callable[[int], Sequence[Tensor]]) -> Iterator[tuple[int, Sequence[Tensor]]]:
    """Yield the images of `CHUNK` files at a time, after the number of files read so far."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, CHUNK):
            end = min(start + CHUNK, count)
            yield end, [image for images in pool.map(read, range(start, end)) for image in images]
