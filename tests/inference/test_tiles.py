from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from srgan.imresize import imresize
from srgan.inference.tiles import in_tiles
from srgan.models.generators import Compact, Generator, SRResNet


def random_lr(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("kind", "scale"), [(SRResNet, 2), (SRResNet, 3), (SRResNet, 4), (Compact, 3), (Compact, 4)])
@torch.inference_mode()
def test_tiles_give_the_sr_of_the_whole_image_if_they_overlap_enough(
    kind: type[Generator], scale: int, trained: Callable[..., Generator]
) -> None:
    generator = trained(kind, scale, blocks=2)
    radius = generator.receptive_field
    for height, width in ((53, 71), (19, 107)):
        lr = random_lr(height, width)
        side = 2 * radius + 11
        assert height * width > side**2
        sr = generator(lr)
        tiled = in_tiles(generator, lr, scale, side, radius)
        assert tiled.std() > 0.05
        torch.testing.assert_close(tiled, sr, atol=2e-5, rtol=0)
    assert (in_tiles(generator, lr, scale, 21, radius // 2 - 1) - sr).abs().max() > 1e-3


def sizes_seen(lr: Tensor, side: int, overlap: int) -> list[tuple[int, int]]:
    """The sizes of the tiles into which a picture is cut; the result is checked as well."""
    sizes: list[tuple[int, int]] = []

    def bicubic(tile: Tensor) -> Tensor:
        sizes.append((tile.shape[-2], tile.shape[-1]))
        return imresize(tile, 2)

    torch.testing.assert_close(in_tiles(bicubic, lr, 2, side, overlap), imresize(lr, 2))
    return sizes


def test_only_an_image_of_more_pixels_than_a_tile_is_cut_and_no_tile_is_longer_than_asked_for() -> None:
    assert sizes_seen(random_lr(16, 25), side=20, overlap=2) == [(16, 25)]
    sizes = sizes_seen(random_lr(17, 90), side=20, overlap=2)
    assert len(sizes) == 2 * 6
    assert max(max(size) for size in sizes) == 20


@pytest.mark.parametrize("side", [1, 10])
def test_a_tile_that_is_nothing_but_overlap_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match=rf"tiles of {side} pixels .* more than 10"):
        in_tiles(lambda lr: imresize(lr, 2), random_lr(12, 12), 2, side, 5)
    assert sizes_seen(random_lr(12, 12), side=11, overlap=5)
