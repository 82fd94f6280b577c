"""What a GAN leaves beside detail: a pattern that repeats with the LR pixels (grid), and another mean colour."""

import pytest
import torch
from torch import Tensor

from srgan.data.degradation import BicubicDegradation
from srgan.metrics.consistency import colour_drift
from srgan.metrics.grid import grid

SIDE = 240  # divisible by all periods below


def grey(level: int = 128) -> Tensor:
    return torch.full((1, 3, SIDE, SIDE), level, dtype=torch.uint8)


def repeated(block: Tensor) -> Tensor:
    """An int image of SIDE pixels out of one block (3, period, period)."""
    count = SIDE // block.shape[-1]
    return block.repeat(1, count, count)[None]


def with_pattern(hr: Tensor, pattern: Tensor) -> Tensor:
    return (hr.int() + pattern).clamp(0, 255).to(torch.uint8)


def checks(period: int, amplitude: int) -> Tensor:
    """± amplitude by turns in the one half of a block's columns and the other; the middle of an odd period is 0."""
    row = torch.zeros(period, dtype=torch.int32)
    row[: period // 2], row[-(period // 2) :] = amplitude, -amplitude
    return repeated(row.expand(3, period, period))


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("amplitude", [1, 5])
def test_a_pattern_that_repeats_with_the_lr_pixels_is_measured_as_its_amplitude(scale: int, amplitude: int) -> None:
    hr = torch.randint(20, 230, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sr = with_pattern(hr, checks(scale, amplitude))
    assert grid(sr, hr, scale).tolist() == pytest.approx([amplitude])
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(1)).mul(5).round().int()
    assert grid(with_pattern(sr, noise), hr, scale).tolist() == pytest.approx([amplitude], rel=0.1)


def test_what_does_not_repeat_with_the_lr_pixels_does_not_count() -> None:
    for period in (3, 5, 15):
        assert float(grid(with_pattern(grey(), checks(period, 20)), grey(), 4)) < 1e-9
    noise = torch.randn((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).mul(8).round().int()
    assert float(grid(with_pattern(grey(), noise), grey(), 4)) < 1.5 * 8 / 60  # σ of an average of 60² errors
    assert float(grid(grey(140), grey(), 4)) == 0  # another brightness
    assert float(grid(noise.add(128).byte(), noise.add(128).byte(), 4)) == 0


def test_each_image_has_its_own_grid() -> None:
    sr = torch.cat([with_pattern(grey(), checks(4, 3)), grey()])
    assert grid(sr, torch.cat([grey(), grey()]), 4).tolist() == pytest.approx([3, 0])
    assert torch.equal(grid(sr / 255, sr.flip(0) / 255, 4), grid(sr, sr.flip(0), 4))


def test_the_colour_drift_is_that_of_the_channel_that_drifts_farthest() -> None:
    degradation = BicubicDegradation(4)
    hr = torch.randint(60, 190, (2, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    lr = degradation(hr)
    assert colour_drift(hr, lr, degradation).tolist() == [0, 0]
    tinted = hr.clone()
    tinted[0, 2] -= 7
    tinted[0, 0] += 3
    drift = colour_drift(tinted, lr, degradation)
    assert drift.tolist() == pytest.approx([7, 0])
    assert torch.equal(colour_drift(tinted / 255, lr / 255, degradation), drift)
    turned = hr.flip(-1)  # everything is elsewhere, the colours are the same
    assert colour_drift(turned, lr, degradation).max() < 0.5
