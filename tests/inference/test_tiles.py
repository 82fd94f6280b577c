import pytest
import torch
from torch import Tensor

from srgan.imresize import imresize
from srgan.inference.tiles import in_tiles


def test_only_an_image_of_more_pixels_than_a_tile_is_cut_and_no_tile_is_longer_than_asked_for() -> None:
    sizes: list[tuple[int, int]] = []

    def bicubic(tile: Tensor) -> Tensor:
        sizes.append((tile.shape[-2], tile.shape[-1]))
        return imresize(tile, 2)

    for size, side, overlap, tiles, longest in (
        ((16, 25), 20, 2, 1, 25),
        ((17, 90), 20, 2, 2 * 6, 20),
        ((12, 12), 11, 5, 12 * 12, 11),
    ):
        sizes.clear()
        done: list[tuple[int, int]] = []
        lr = torch.rand(1, 3, *size)
        sr = in_tiles(bicubic, lr, 2, side, overlap, lambda *counts, done=done: done.append(counts))
        torch.testing.assert_close(sr, imresize(lr, 2))
        assert (len(sizes), max(map(max, sizes))) == (tiles, longest)
        assert done == [(number, tiles) for number in range(1, tiles + 1)]
    for side in (1, 10):
        with pytest.raises(ValueError, match=rf"tiles of {side} pixels .* more than 10"):
            in_tiles(bicubic, lr, 2, side, 5)
