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
        pytest.fail("a loss of weight 0, or a later one, is computed")


def images(seed: int) -> Tensor:
    return torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_terms_come_in_order_unweighted_and_the_adversarial_one_last_through_the_discriminator() -> None:
    weights = {"adversarial": 1e-3, "mse": 4.0, "total_variation": 2e-8}
    mix = LossMix({"total_variation": TotalVariation(), "mse": MSELoss()}, weights, NonSaturating())
    torch.manual_seed(0)
    discriminator, sr, hr = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 1)), images(0).requires_grad_(), images(1)
    terms = dict(mix.terms(sr, hr, discriminator))
    assert list(terms) == ["total_variation", "mse", "adversarial"]
    assert torch.equal(terms["total_variation"], TotalVariation()(sr, sr))
    torch.testing.assert_close(terms["mse"], (sr - hr).square().mean())
    expected = F.binary_cross_entropy_with_logits(discriminator(sr), torch.ones(2, 1))
    torch.testing.assert_close(terms["adversarial"], expected)
    (gradient,) = torch.autograd.grad(terms["adversarial"], sr)
    assert gradient.abs().min() > 0
    assert mix.weights == weights


def test_a_term_is_computed_only_when_asked_for() -> None:
    mix = LossMix({"mse": MSELoss(), "late": NeverCalled()}, {"mse": 1.0, "late": 1.0})
    assert next(mix.terms(images(0), images(1), None))[0] == "mse"


def test_each_loss_needs_a_weight_and_each_weight_a_loss() -> None:
    content, adversarial = {"mse": MSELoss(), "l1": L1Loss()}, NonSaturating()
    weights: list[dict[str, float]] = [{}, {"mse": 1}, {"mse": 1, "l2": 1}, {"mse": 1, "l1": 1, "adversarial": 1}]
    cases = [*((given, None) for given in weights), ({"mse": 1, "l1": 1}, adversarial)]
    for given, loss in cases:
        with pytest.raises(UserError, match="give one weight each"):
            LossMix(content, given, loss)


def test_a_weight_of_zero_leaves_its_loss_out_and_zeros_alone_are_refused() -> None:
    content = {"mse": MSELoss(), "never": NeverCalled()}
    mix = LossMix(content, {"mse": 1.0, "never": 0.0, "adversarial": 0.0}, NonSaturating())
    assert [name for name, _ in mix.terms(images(0), images(1), NeverCalled())] == ["mse"]
    assert mix.adversarial is None and not any(isinstance(module, NeverCalled) for module in mix.modules())
    alone = LossMix(content, {"mse": 0.0, "never": 0.0, "adversarial": 1.0}, NonSaturating())
    assert [name for name, _ in alone.terms(images(0), images(1), nn.Flatten())] == ["adversarial"]
    for adversarial, weights in ((None, {"mse": 0.0}), (NonSaturating(), {"mse": 0.0, "adversarial": 0.0})):
        with pytest.raises(UserError, match="nothing to learn"):
            LossMix({"mse": MSELoss()}, weights, adversarial)
