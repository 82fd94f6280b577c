import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.losses.adversarial import NonSaturating
from srgan.losses.mix import LossMix
from srgan.losses.pixel import L1Loss, MSELoss, TotalVariation


class NeverCalled(nn.Module):
    def forward(self, *_: Tensor) -> Tensor:
        pytest.fail("a loss of weight 0 is computed")


def images(seed: int) -> Tensor:
    return torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


def discriminator() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1))


def test_terms_come_in_order_and_unweighted() -> None:
    mix = LossMix({"total_variation": TotalVariation(), "mse": MSELoss()}, {"mse": 4.0, "total_variation": 2e-8})
    sr, hr = images(0), images(1)
    terms = list(mix.terms(sr, hr, None))
    assert [name for name, _ in terms] == ["total_variation", "mse"]
    torch.testing.assert_close(dict(terms)["mse"], (sr - hr).square().mean())
    assert mix.weights == {"mse": 4.0, "total_variation": 2e-8}


def test_the_adversarial_term_comes_last_through_the_discriminator() -> None:
    mix = LossMix({"mse": MSELoss()}, {"adversarial": 1e-3, "mse": 1.0}, NonSaturating())
    judge, sr = discriminator(), images(0).requires_grad_()
    terms = list(mix.terms(sr, images(1), judge))
    assert [name for name, _ in terms] == ["mse", "adversarial"]
    value = terms[-1][1]
    torch.testing.assert_close(value, F.binary_cross_entropy_with_logits(judge(sr), torch.ones(2, 1)))
    (gradient,) = torch.autograd.grad(value, sr)
    assert gradient.abs().min() > 0


def test_an_adversarial_loss_needs_no_content_beside_it() -> None:
    mix = LossMix({}, {"adversarial": 1.0}, NonSaturating())
    assert [name for name, _ in mix.terms(images(0), images(1), discriminator())] == ["adversarial"]


def test_a_term_is_computed_only_when_asked_for() -> None:
    terms = LossMix({"mse": MSELoss(), "late": NeverCalled()}, {"mse": 1.0, "late": 1.0}).terms(
        images(0), images(1), None
    )
    assert next(terms)[0] == "mse"


@pytest.mark.parametrize("weights", [{}, {"mse": 1.0}, {"mse": 1.0, "l2": 1.0}, {"mse": 1.0, "l1": 1.0, "vgg": 1.0}])
def test_each_loss_needs_a_weight_and_each_weight_a_loss(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match="give one weight each"):
        LossMix({"mse": MSELoss(), "l1": L1Loss()}, weights)


def test_an_adversarial_weight_without_the_loss_is_refused_and_the_other_way_round() -> None:
    with pytest.raises(UserError, match="adversarial"):
        LossMix({"mse": MSELoss()}, {"mse": 1.0, "adversarial": 1e-3})
    with pytest.raises(UserError, match="adversarial"):
        LossMix({"mse": MSELoss()}, {"mse": 1.0}, NonSaturating())


def test_a_weight_of_zero_leaves_its_loss_out() -> None:
    mix = LossMix({"mse": MSELoss(), "never": NeverCalled()}, {"mse": 1.0, "never": 0.0})
    assert [name for name, _ in mix.terms(images(0), images(1), None)] == ["mse"]
    assert not any(isinstance(module, NeverCalled) for module in mix.modules())


def test_a_weight_of_zero_leaves_the_adversarial_loss_out() -> None:
    mix = LossMix({"mse": MSELoss()}, {"mse": 1.0, "adversarial": 0.0}, NonSaturating())
    assert mix.adversarial is None
    assert [name for name, _ in mix.terms(images(0), images(1), NeverCalled())] == ["mse"]


@pytest.mark.parametrize("adversarial", [None, NonSaturating()])
def test_a_mix_of_zeros_is_refused(adversarial: NonSaturating | None) -> None:
    weights = {"mse": 0.0} if adversarial is None else {"mse": 0.0, "adversarial": 0.0}
    with pytest.raises(UserError, match="nothing to learn"):
        LossMix({"mse": MSELoss()}, weights, adversarial)
