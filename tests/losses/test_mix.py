import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.losses.adversarial import AdversarialLoss, NonSaturating, RelativisticAverage, RelativisticPaired
from srgan.losses.mix import LossMix
from srgan.losses.pixel import L1Loss, MSELoss, TotalVariation
from srgan.models.discriminators import Discriminator

BCE = NonSaturating(r1=0.0, real_label=1.0)


class NeverCalled(nn.Module):
    def forward(self, *_: Tensor) -> Tensor:
        pytest.fail("a loss of weight 0, or a later one, is computed")


def images(seed: int) -> Tensor:
    return torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


class Linear(Discriminator):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.Linear(5, 1))

    def with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = self.layers[:2](images)
        return self.layers[2](maps), [maps]


def test_terms_come_in_order_unweighted_and_those_of_the_gan_pass_through_the_discriminator() -> None:
    weights = {"adversarial": 1e-3, "mse": 4.0, "total_variation": 2e-8, "feature_matching": 0.1}
    content = {"total_variation": TotalVariation(), "mse": MSELoss()}
    mix = LossMix(content, weights, BCE)
    torch.manual_seed(0)
    discriminator, sr, hr = Linear(), images(0).requires_grad_(), images(1)
    terms = dict(mix.content_terms(sr, hr))
    assert list(terms) == ["total_variation", "mse"]
    assert torch.equal(terms["total_variation"], TotalVariation()(sr, sr))
    torch.testing.assert_close(terms["mse"], (sr - hr).square().mean())
    terms = dict(mix.adversarial_terms(sr, hr, discriminator))
    expected = F.binary_cross_entropy_with_logits(discriminator(sr), torch.ones(2, 1))
    torch.testing.assert_close(terms["adversarial"], expected)
    maps = (discriminator.layers[:2](x) for x in (sr, hr))
    torch.testing.assert_close(terms["feature_matching"], F.l1_loss(*maps))
    for term in terms.values():
        (gradient,) = torch.autograd.grad(term, sr, retain_graph=True)
        assert gradient.abs().min() > 0
    assert mix.weights == weights


@pytest.mark.parametrize("loss", [RelativisticAverage(0.0), RelativisticPaired(0.0)])
def test_a_loss_that_compares_sr_with_hr_gets_both_without_feature_matching(loss: AdversarialLoss) -> None:
    mix = LossMix({"mse": MSELoss()}, {"mse": 1.0, "adversarial": 1.0}, loss)
    torch.manual_seed(0)
    discriminator, sr, hr = Linear(), images(0).requires_grad_(), images(1)
    term = dict(mix.adversarial_terms(sr, hr, discriminator))["adversarial"]
    torch.testing.assert_close(term, loss.generator_loss(discriminator(sr), discriminator(hr)))
    assert torch.autograd.grad(term, sr)[0].norm() > 1e-4


def test_feature_matching_is_the_mean_over_all_maps() -> None:
    class Two(Linear):
        def with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
            return images.mean((1, 2, 3)), [images, 10 * images[:, :1, :2]]

    mix = LossMix({"mse": MSELoss()}, {"mse": 1.0, "adversarial": 1.0, "feature_matching": 1.0}, BCE)
    sr, hr = images(0), images(1)
    term = dict(mix.adversarial_terms(sr, hr, Two()))["feature_matching"]
    expected = ((sr - hr).abs().mean() + 10 * (sr - hr)[:, :1, :2].abs().mean()) / 2
    torch.testing.assert_close(term, expected)


def test_a_term_is_computed_only_when_asked_for() -> None:
    mix = LossMix({"mse": MSELoss(), "late": NeverCalled()}, {"mse": 1.0, "late": 1.0})
    assert next(mix.content_terms(images(0), images(1)))[0] == "mse"


def test_a_share_needs_a_loss_to_be_a_share_of() -> None:
    content, weights = {"mse": MSELoss(), "l1": L1Loss()}, {"mse": 1.0, "l1": 1.0}
    with pytest.raises(UserError, match=r"not below 0: l1 -0\.3"):
        LossMix(content, weights, balance={"l1": -0.3})
    with pytest.raises(UserError, match="balance is given for vgg; the losses are mse, l1"):
        LossMix(content, weights, balance={"vgg": 0.1})
    with pytest.raises(UserError, match="balance is given for l1, of weight 0"):
        LossMix(content, {"mse": 1.0, "l1": 0.0}, balance={"l1": 0.1})
    with pytest.raises(UserError, match="at least one a weight"):
        LossMix(content, weights, balance={"mse": 0.1, "l1": 0.1})
    assert LossMix(content, weights, balance={"mse": None}).balance == {}


def test_each_loss_needs_a_weight_and_each_weight_a_loss() -> None:
    content, adversarial = {"mse": MSELoss(), "l1": L1Loss()}, BCE
    weights: list[dict[str, float]] = [{}, {"mse": 1}, {"mse": 1, "l2": 1}, {"mse": 1, "l1": 1, "adversarial": 1}]
    cases = [*((given, None) for given in weights), ({"mse": 1, "l1": 1}, adversarial)]
    for given, loss in cases:
        with pytest.raises(UserError, match="give one weight each"):
            LossMix(content, given, loss)


def test_feature_matching_without_a_discriminator_that_learns_is_refused() -> None:
    with pytest.raises(UserError, match="give adversarial_weight more than 0"):
        LossMix({"mse": MSELoss()}, {"mse": 1.0, "adversarial": 0.0, "feature_matching": 1.0}, BCE)


def test_a_weight_of_zero_leaves_its_loss_out_and_zeros_alone_are_refused() -> None:
    content = {"mse": MSELoss(), "never": NeverCalled()}
    mix = LossMix(content, {"mse": 1.0, "never": 0.0, "adversarial": 0.0}, BCE)
    assert [name for name, _ in mix.content_terms(images(0), images(1))] == ["mse"]
    assert not list(mix.adversarial_terms(images(0), images(1), Linear()))
    assert mix.adversarial is None and not any(isinstance(module, NeverCalled) for module in mix.modules())
    alone = LossMix(content, {"mse": 0.0, "never": 0.0, "adversarial": 1.0}, BCE)
    assert not list(alone.content_terms(images(0), images(1)))
    assert [name for name, _ in alone.adversarial_terms(images(0), images(1), Linear())] == ["adversarial"]
    for adversarial, weights in (
        (None, {"mse": 0.0}),
        (BCE, {"mse": 0.0, "adversarial": 0.0}),
    ):
        with pytest.raises(UserError, match="nothing to learn"):
            LossMix({"mse": MSELoss()}, weights, adversarial)
