import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srgan.errors import UserError
from srgan.losses.pixel import CharbonnierLoss, GridLoss, L1Loss, MSELoss, TotalVariation


def random_images(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape or (2, 3, 5, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pixel_losses_are_those_of_numpy() -> None:
    """MSE, MAE, and the mean length of the gradient in all pixels with a neighbour below and on the right."""
    sr, hr = random_images(0), random_images(1)
    x, error = sr.numpy(), sr.numpy() - hr.numpy()
    assert MSELoss()(sr, hr).item() == pytest.approx(np.mean(error**2), rel=1e-12)
    assert L1Loss()(sr, hr).item() == pytest.approx(np.mean(np.abs(error)), rel=1e-12)
    lengths = [
        np.hypot(x[b, c, i + 1, j] - x[b, c, i, j], x[b, c, i, j + 1] - x[b, c, i, j])
        for b, c, i, j in np.ndindex(2, 3, 4, 6)
    ]
    assert TotalVariation()(sr, hr).item() == pytest.approx(np.mean(lengths), rel=1e-9)


@pytest.mark.parametrize("loss", [MSELoss(), L1Loss(), TotalVariation(), GridLoss(2, window=2)])
def test_a_pixel_loss_is_a_scalar_whose_gradient_is_right(loss: nn.Module) -> None:
    sr, hr = random_images(0, 1, 3, 8, 8).requires_grad_(), random_images(1, 1, 3, 8, 8)
    assert loss(sr, hr).shape == ()
    assert torch.autograd.gradcheck(lambda x: loss(x, hr), (sr,))


def test_charbonnier_without_its_epsilon_is_refused() -> None:
    with pytest.raises(UserError, match="content=l1 has none"):
        CharbonnierLoss(0.0)


def test_total_variation_is_zero_on_a_constant_image_with_a_finite_gradient_there() -> None:
    sr = torch.full((1, 3, 6, 6), 0.3, requires_grad=True)
    value = TotalVariation()(sr, sr)
    (gradient,) = torch.autograd.grad(value, sr)
    assert value.item() == pytest.approx(1e-6)  # the root of the 1e-12 that keeps the gradient finite
    assert torch.equal(gradient, torch.zeros_like(sr))


def test_the_grid_loss_is_that_of_a_loop_over_blocks_and_positions() -> None:
    sr, hr = random_images(0, 2, 3, 12, 8), random_images(1, 2, 3, 12, 8)
    error, squares = (sr - hr).numpy(), list[float]()
    for b, c, row, column in np.ndindex(2, 3, 3, 2):  # neighbourhoods of 2 × 2 blocks of 2 × 2 pixels
        part = error[b, c, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        positions = [part[i::2, j::2].mean() for i, j in np.ndindex(2, 2)]
        squares += [(position - np.mean(positions)) ** 2 for position in positions]
    assert GridLoss(2, window=2)(sr, hr).item() == pytest.approx(np.mean(squares), rel=1e-9)


def test_the_grid_loss_is_the_square_of_a_grid_and_ignores_brightness_and_what_does_not_repeat() -> None:
    hr, loss = torch.rand(1, 3, 64, 64), GridLoss(4)
    grid = 0.1 * torch.tensor([1.0, -1]).repeat(6)
    assert float(GridLoss(2, window=8)(hr[..., :8, :12] + grid, hr[..., :8, :12])) == pytest.approx(0.01, rel=1e-3)
    assert loss(hr + 0.1, hr) < 1e-12
    ramp = torch.linspace(-0.1, 0.1, 16).repeat_interleave(4)  # of blocks, each of one value
    assert loss(hr + ramp, hr) < 1e-12
    stripes = 0.1 * torch.tensor([1.0, -1, 0, 0, -1, 1, 0, 0]).repeat(8)  # with twice the blocks' period
    assert loss(hr + stripes, hr) < 1e-12
