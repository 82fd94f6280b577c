import pytest
import torch
from torch import Tensor, nn

from srgan.imresize import imresize
from srgan.inference.tiles import in_tiles
from srgan.models.generators import Compact, Generator, SRResNet


def random_lr(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


def trained(kind: type[Generator], scale: int) -> Generator:
    """A generator whose every weight and running statistic is random, as after a training."""
    torch.manual_seed(scale)
    generator = kind(scale, channels=6, blocks=2)
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return generator.eval()


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(53, 71), (41, 39), (19, 107)])
@torch.inference_mode()
def test_tiles_give_the_sr_of_the_whole_image(kind: type[Generator], scale: int, size: tuple[int, int]) -> None:
    generator, lr = trained(kind, scale), random_lr(*size)
    radius = generator.receptive_field
    side = 2 * radius + 11
    assert size[0] * size[1] > side**2
    tiled = in_tiles(generator, lr, scale, side, radius)
    assert 0.05 < tiled.std() < 2
    assert tiled.shape == (1, 3, scale * size[0], scale * size[1])
    torch.testing.assert_close(tiled, generator(lr), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@torch.inference_mode()
def test_too_small_an_overlap_leaves_seams(kind: type[Generator]) -> None:
    generator, lr = trained(kind, 2), random_lr(53, 71)
    seams = (in_tiles(generator, lr, 2, 21, generator.receptive_field // 2 - 1) - generator(lr)).abs()
    assert seams.max() > 1e-3


def sizes_seen(lr: Tensor, side: int, overlap: int) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []

    def bicubic(tile: Tensor) -> Tensor:
        seen.append((tile.shape[-2], tile.shape[-1]))
        return imresize(tile, 2)

    torch.testing.assert_close(in_tiles(bicubic, lr, 2, side, overlap), imresize(lr, 2))
    return seen


def test_an_image_of_no_more_pixels_than_a_tile_goes_through_whole() -> None:
    assert sizes_seen(random_lr(16, 25), side=20, overlap=2) == [(16, 25)]


def test_no_tile_has_a_side_longer_than_asked_for() -> None:
    seen = sizes_seen(random_lr(17, 90), side=20, overlap=2)
    assert len(seen) == 2 * 6
    assert max(max(size) for size in seen) == 20


@pytest.mark.parametrize("side", [1, 9, 10])
def test_a_tile_that_is_nothing_but_overlap_is_refused(side: int) -> None:
    with pytest.raises(ValueError, match=rf"tiles of {side} pixels .* more than 10"):
        in_tiles(lambda lr: imresize(lr, 2), random_lr(12, 12), 2, side, 5)
    assert sizes_seen(random_lr(12, 12), side=11, overlap=5)
