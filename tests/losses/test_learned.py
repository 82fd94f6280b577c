"""LPIPS and DISTS as losses: they agree with the metrics, and their gradients with finite differences."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from srgan.errors import UserError
from srgan.images import to_float
from srgan.losses.learned import DISTSLoss, LPIPSLoss
from srgan.metrics.dists import DISTS
from srgan.metrics.lpips import LPIPS

LOSSES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "lpips": (lambda: LPIPSLoss("squeeze"), lambda: LPIPS("squeeze")),
    "dists": (DISTSLoss, DISTS),
}


@pytest.fixture(params=LOSSES)
def pair(request: pytest.FixtureRequest, hub: Path) -> tuple[nn.Module, nn.Module]:
    """A loss and the metric of the same name, by networks of random weights."""
    loss, metric = LOSSES[request.param]
    return loss(), metric()


def images(noise: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    return to_float(noise(2, 3, 32, 32)), to_float(noise(2, 3, 32, 32))


def test_a_loss_is_the_mean_of_the_metric_without_its_rounding(
    pair: tuple[nn.Module, nn.Module], noise: Callable[..., Tensor]
) -> None:
    loss, metric = pair
    sr, hr = images(noise)
    value = loss(sr, hr)
    assert value.shape == () and value > 0.01
    torch.testing.assert_close(value, metric(sr, hr).mean(), rtol=1e-5, atol=1e-7)
    assert float(loss(hr, hr)) == pytest.approx(0, abs=1e-5)
    between = sr + 0.3 / 255  # rounds to the same 8 bits
    assert torch.equal(metric(between, hr), metric(sr, hr)) and loss(between, hr) != value


def test_its_gradient_is_that_of_finite_differences(
    pair: tuple[nn.Module, nn.Module], noise: Callable[..., Tensor], generator: torch.Generator
) -> None:
    loss = pair[0].double()
    sr, hr = (x.double() for x in images(noise))
    sr.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(sr, hr), sr)
    along = torch.randn(sr.shape, generator=generator, dtype=torch.float64)
    step = 1e-6
    with torch.no_grad():
        difference = (loss(sr + step * along, hr) - loss(sr - step * along, hr)) / (2 * step)
    assert float(difference) == pytest.approx(float((gradient * along).sum()), rel=1e-3)
    assert gradient.norm() > 1e-3


def test_no_checkpoint_and_no_optimizer_sees_its_network(pair: tuple[nn.Module, nn.Module]) -> None:
    loss, _ = pair
    assert not loss.state_dict() and not list(loss.parameters()) and list(loss.buffers())


def test_a_network_that_lpips_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="lpips=resnet: expected alex, squeeze or vgg"):
        LPIPSLoss("resnet")
