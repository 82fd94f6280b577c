import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srgan.losses.pixel import GridLoss, L1Loss, MSELoss, TotalVariation


def random_images(seed: int) -> Tensor:
    return torch.rand((2, 3, 5, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mse_is_the_mean_of_squared_differences() -> None:
    sr, hr = random_images(0), random_images(1)
    expected = np.mean((sr.numpy() - hr.numpy()) ** 2)
    assert MSELoss()(sr, hr).item() == pytest.approx(expected, rel=1e-12)


def test_l1_is_the_mean_of_absolute_differences() -> None:
    sr, hr = random_images(0), random_images(1)
    expected = np.mean(np.abs(sr.numpy() - hr.numpy()))
    assert L1Loss()(sr, hr).item() == pytest.approx(expected, rel=1e-12)


def test_total_variation_is_the_mean_length_of_the_gradient() -> None:
    sr = random_images(0)
    pixels = sr.numpy()
    lengths = [
        math.hypot(pixels[b, c, i + 1, j] - pixels[b, c, i, j], pixels[b, c, i, j + 1] - pixels[b, c, i, j])
        for b, c, i, j in np.ndindex(2, 3, 4, 6)
    ]
    assert TotalVariation()(sr, sr).item() == pytest.approx(np.mean(lengths), rel=1e-9)


def test_total_variation_of_a_ramp_is_its_slope() -> None:
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    ramp = (0.03 * rows + 0.04 * columns).expand(1, 3, 6, 8)
    assert TotalVariation()(ramp, ramp).item() == pytest.approx(0.05, rel=1e-5)


def test_total_variation_is_zero_on_a_constant_image_with_a_finite_gradient_there() -> None:
    sr = torch.full((1, 3, 6, 6), 0.3, requires_grad=True)
    value = TotalVariation()(sr, sr)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert sr.grad is not None
    assert torch.equal(sr.grad, torch.zeros_like(sr))


def test_total_variation_ignores_hr() -> None:
    sr = random_images(0)
    assert TotalVariation()(sr, random_images(1)) == TotalVariation()(sr, random_images(2))


@pytest.mark.parametrize("loss", [MSELoss(), L1Loss(), TotalVariation()])
def test_a_pixel_loss_is_a_scalar_whose_gradient_is_right(loss: nn.Module) -> None:
    sr, hr = random_images(0).requires_grad_(), random_images(1)
    assert loss(sr, hr).shape == ()
    assert torch.autograd.gradcheck(lambda x: loss(x, hr), (sr,))


def test_the_grid_loss_is_the_square_of_a_pattern_that_repeats_with_the_blocks() -> None:
    hr = torch.rand(2, 3, 32, 48)
    grid = 0.02 * torch.randn(1, 3, 4, 4)
    grid = grid - grid.mean((-2, -1), keepdim=True)
    for window in (2, 4, 8):
        loss = GridLoss(4, window)(hr + grid.repeat(1, 1, 8, 12), hr)
        torch.testing.assert_close(loss, grid.square().mean(), atol=1e-9, rtol=1e-3)


def test_the_grid_loss_ignores_brightness_and_what_does_not_repeat() -> None:
    hr = torch.rand(1, 3, 64, 64)
    loss = GridLoss(4)
    assert loss(hr + 0.1, hr) < 1e-12
    ramp = torch.linspace(-0.1, 0.1, 16).repeat_interleave(4)  # of blocks, each of one value
    assert loss(hr + ramp, hr) < 1e-12
    stripes = 0.1 * torch.tensor([1.0, -1, 0, 0, -1, 1, 0, 0]).repeat(8)  # with twice the blocks' period
    assert loss(hr + stripes, hr) < 1e-12
    noise = 0.1 * torch.randn(1, 3, 64, 64)
    assert loss(hr + noise, hr) < 0.03 * noise.square().mean()


def test_the_grid_loss_takes_images_smaller_than_its_window() -> None:
    hr = torch.rand(1, 3, 8, 12)
    grid = torch.tensor([1.0, -1]).repeat(6)
    assert float(GridLoss(2, window=8)(hr + 0.1 * grid, hr)) == pytest.approx(0.01, rel=1e-3)


def test_the_gradient_of_the_grid_loss_is_right() -> None:
    sr, hr = torch.rand(2, 1, 3, 8, 8, dtype=torch.float64).unbind(0)
    assert torch.autograd.gradcheck(lambda x: GridLoss(2, window=2)(x, hr), sr.requires_grad_())
