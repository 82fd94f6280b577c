import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from srgan.metrics.daala import daala_ssim, window_taps

HEIGHTS = [1, 8, 24, 64, 256, 1081]


def planes(*shape: int, seed: int = 0) -> Tensor:
    """Noise in 0…255."""
    return 255 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(x: Tensor) -> Tensor:
    return (x + 40 * torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=x.dtype)).clamp(0, 255)


def taps_by_hand(height: int) -> list[int]:
    """Outwards from the centre, as long as the weight is at least half of one 256th."""
    normal = NormalDist(0, height * 1.5 / 256)
    side: list[int] = []
    while 256 * normal.pdf(len(side) + 1) >= 0.5:
        side.append(round(256 * normal.pdf(len(side) + 1)))
    return [*reversed(side), 256 - 2 * sum(side), *side]


def brute_force(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The definition, window by window, on two planes (H, W)."""
    height, width = x.shape
    taps = np.array(taps_by_hand(height), dtype=np.float64)
    radius = len(taps) // 2
    weights: list[float] = []
    weighted: list[float] = []
    for row in range(height):
        for column in range(width):
            rows = [i for i in range(row - radius, row + radius + 1) if 0 <= i < height]
            columns = [j for j in range(column - radius, column + radius + 1) if 0 <= j < width]
            kernel = np.outer([taps[i - row + radius] for i in rows], [taps[j - column + radius] for j in columns])
            p, q = x[np.ix_(rows, columns)], y[np.ix_(rows, columns)]
            w = kernel.sum()
            sx, sy, sxx, syy, sxy = ((kernel * moment).sum() for moment in (p, q, p * p, q * q, p * q))
            c1, c2 = (0.01 * 255) ** 2 * w**2, (0.03 * 255) ** 2 * w**2
            numerator = (2 * sx * sy + c1) * (2 * (sxy * w - sx * sy) + c2)
            denominator = (sx**2 + sy**2 + c1) * ((sxx * w - sx**2) + (syy * w - sy**2) + c2)
            weights.append(w)
            weighted.append(w * numerator / denominator)
    return math.fsum(weighted) / math.fsum(weights)


@pytest.mark.parametrize("shape", [(1, 9), (24, 31), (64, 40), (131, 2), (257, 3)])
def test_it_is_the_definition_window_by_window(shape: tuple[int, int]) -> None:
    x = planes(1, 1, *shape)
    y = noisy(x)
    ssims = daala_ssim(x, y)
    assert ssims.dtype == torch.float64
    assert ssims.tolist() == pytest.approx([brute_force(x[0, 0].numpy(), y[0, 0].numpy())], rel=0, abs=1e-12)


@pytest.mark.parametrize("height", HEIGHTS)
def test_taps_are_positive_symmetric_integers_with_the_sum_256_that_end_where_the_definition_says(height: int) -> None:
    sigma = height * 1.5 / 256
    half_width = math.floor(sigma * math.sqrt(2 * math.log(512 / (sigma * math.sqrt(2 * math.pi)))))
    taps = window_taps(height)
    assert len(taps) == 2 * half_width + 1
    assert taps.tolist() == taps_by_hand(height)
    assert taps.sum() == 256
    assert torch.equal(taps, taps.round()) and torch.equal(taps, taps.flip(0)) and (taps > 0).all()


def test_at_a_height_of_256_the_deviation_is_one_and_a_half_pixels() -> None:
    assert window_taps(256).tolist() == [2, 9, 28, 55, 68, 55, 28, 9, 2]


def test_ssim_of_equal_images_is_one_even_if_they_are_flat() -> None:
    x = torch.cat([planes(2, 1, 70, 20), torch.full((1, 1, 70, 20), 100.0)])
    torch.testing.assert_close(daala_ssim(x, x), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_each_image_has_the_mean_of_its_channels() -> None:
    x, y = planes(2, 3, 70, 20), planes(2, 3, 70, 20, seed=1)
    y[:, 1] = noisy(x[:, 1])
    channels = torch.stack([daala_ssim(x[:, i : i + 1], y[:, i : i + 1]) for i in range(3)])
    assert (channels[1] > channels[0] + 0.1).all()
    torch.testing.assert_close(daala_ssim(x, y), channels.mean(0), rtol=0, atol=1e-12)


def test_8_bit_planes_are_scored_as_the_numbers_they_hold() -> None:
    x, y = (planes(2, 1, 70, 20, seed=seed).round().to(torch.uint8) for seed in (0, 1))
    assert torch.equal(daala_ssim(x, y), daala_ssim(x.double(), y.double()))


def test_where_the_window_is_one_pixel_only_brightness_counts() -> None:
    x, y = planes(1, 1, 8, 8), planes(1, 1, 8, 8, seed=1)
    c1 = 2.55**2
    expected = ((2 * x * y + c1) / (x * x + y * y + c1)).mean()
    assert window_taps(8).tolist() == [256]
    assert float(daala_ssim(x, y)) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 1, 13, 16), (1, 1, 13, 17), (3, 3, 13, 17)])
def test_images_of_different_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        daala_ssim(planes(3, 1, 13, 17), planes(*shape))
