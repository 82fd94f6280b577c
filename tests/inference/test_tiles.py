from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from srgan.imresize import imresize
from srgan.inference.tiles import in_tiles
from srgan.models.generators import Compact, Generator, SRResNet


def random_lr(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("kind", "scale"), [(SRResNet, 2), (SRResNet, 3), (Compact, 4)])
@torch.inference_mode()
def test_tiles_give_the_sr_of_the_whole_image_if_they_overlap_enough(
    kind: type[Generator], scale: int, trained: Callable[..., Generator]
) -> None:
    generator = trained(kind, scale, blocks=2)
    radius = generator.receptive_field
    side = 2 * radius + 11
    for height, width in ((53, 71), (19, 107)):
        lr = random_lr(height, width)
        assert height * width > side**2
        sr = generator(lr)
        tiled = in_tiles(generator, lr, scale, side, radius)
        assert tiled.std() > 0.05
        torch.testing.assert_close(tiled, sr, atol=2e-5, rtol=0)
    assert (in_tiles(generator, lr, scale, 21, radius // 2 - 1) - sr).abs().max() > 1e-3


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
        lr = random_lr(*size)
        torch.testing.assert_close(in_tiles(bicubic, lr, 2, side, overlap), imresize(lr, 2))
        assert (len(sizes), max(map(max, sizes))) == (tiles, longest)
    for side in (1, 10):
        with pytest.raises(ValueError, match=rf"tiles of {side} pixels .* more than 10"):
            in_tiles(bicubic, random_lr(12, 12), 2, side, 5)
