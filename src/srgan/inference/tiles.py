"""Computes large pictures in tiles, with the same result as in one pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from srgan.models.generators import Generator

TILE = 384  # LR pixels: 1.3 GiB with the paper's generator at ×4
MAX_OVERLAP = 64  # LR pixels, for `Upscaler`: RRDBNet's radius of 349 would need tiles too large for most memories
MAX_SIDE = 8  # in tile sides: longer pictures are cut even if thin, since bicubic's memory grows with the square


def enlarge(generator: Generator, lr: Tensor, tile: int = TILE) -> Tensor:
    """Compute `generator(lr)` for a picture (1, 3, h, w) of any size, in tiles if it is large."""
    radius = generator.receptive_field
    return in_tiles(generator, lr, generator.scale, max(tile, 3 * radius), radius, multiple=generator.multiple)


def fits(lr: Tensor, side: int) -> bool:
    """True if (…, h, w) is small enough to be computed in one pass."""
    height, width = lr.shape[-2:]
    return height * width <= side**2 and max(height, width) <= MAX_SIDE * side


def in_tiles(
    network: Callable[[Tensor], Tensor],
    lr: Tensor,
    scale: int,
    side: int,
    overlap: int,
    progress: Callable[[int, int], object] | None = None,
    multiple: int = 1,
) -> Tensor:
    """Compute `network(lr)`, tile by tile if lr has more than `side`² pixels or is very long.

    If `overlap` is at least the radius of the receptive field there are no seams: a tile holds all pixels that its
    middle depends on and begins at a multiple of `multiple`.

    Args:
        network: (1, C, h, w) → (1, C, scale · h, scale · w).
        lr: (1, C, h, w); the result has its type and device.
        side: side of a tile with its overlap, in LR pixels, more than 2 · overlap.
        overlap: LR pixels on each side of a tile that are computed but discarded, a multiple of `multiple`.
        progress: called after each tile with the number of finished tiles and the total.
        multiple: see `Generator`.

    Raises ValueError if the tiles are too small, MemoryError if there is no room for the result.
    """
    if fits(lr, side):
        sr = network(lr)
        if progress:
            progress(1, 1)
        return sr
    step = (side - 2 * overlap) // multiple * multiple
    if step < 1:
        raise ValueError(
            f"tiles of {side} pixels are too small for an overlap of {overlap};"
            f" take more than {2 * overlap + multiple - 1}"
        )
    height, width = lr.shape[-2:]
    size = (1, lr.shape[1], scale * height, scale * width)
    try:
        sr = torch.empty(size, dtype=lr.dtype, device=lr.device, memory_format=torch.channels_last)  # files' order
    except RuntimeError as error:
        raise MemoryError(f"no room for {scale * width}×{scale * height} pixels") from error
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    for done, (top, left) in enumerate(corners, start=1):
        first_row, first_column = max(0, top - overlap), max(0, left - overlap)
        bottom, right = min(top + step, height), min(left + step, width)
        tile = network(lr[..., first_row : bottom + overlap, first_column : right + overlap])
        rows = slice(scale * (top - first_row), scale * (bottom - first_row))
        columns = slice(scale * (left - first_column), scale * (right - first_column))
        sr[..., scale * top : scale * bottom, scale * left : scale * right] = tile[..., rows, columns]
        if progress:
            progress(done, len(corners))
    return sr
