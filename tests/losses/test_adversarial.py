"""Each objective against its formula, written out again or worked out by hand; gradients by finite differences."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.losses.adversarial import (
    AdversarialLoss,
    Hinge,
    Keras,
    LeastSquares,
    Minimax,
    NonSaturating,
    RelativisticAverage,
    RelativisticPaired,
    Wasserstein,
)


def bce(logits: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


WITNESSES: dict[str, tuple[AdversarialLoss, Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "non-saturating": (NonSaturating(0.0, 1.0), lambda r, f: bce(r, 1) + bce(f, 0), lambda f, r: bce(f, 1)),
    "smoothed": (NonSaturating(0.0, 0.9), lambda r, f: bce(r, 0.9) + bce(f, 0), lambda f, r: bce(f, 1)),
    "minimax": (
        Minimax(0.0, 1.0),
        lambda r, f: bce(r, 1) + bce(f, 0),
        lambda f, r: torch.log(1 - f.sigmoid()).mean(),
    ),
    "least squares": (
        LeastSquares(0.0, 1.0),
        lambda r, f: 0.5 * F.mse_loss(r, torch.ones_like(r)) + 0.5 * F.mse_loss(f, torch.zeros_like(f)),
        lambda f, r: 0.5 * F.mse_loss(f, torch.ones_like(f)),
    ),
    "keras": (
        Keras(0.0),
        lambda r, f: 0.5 * (F.mse_loss(r.sigmoid(), torch.ones_like(r)) + F.mse_loss(f.sigmoid(), torch.zeros_like(f))),
        lambda f, r: bce(f, 1),
    ),
    "hinge": (
        Hinge(0.0),
        lambda r, f: (1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean(),
        lambda f, r: -f.mean(),
    ),
    "relativistic": (
        RelativisticAverage(0.0),
        lambda r, f: bce(r - f.mean(), 1) + bce(f - r.mean(), 0),
        lambda f, r: bce(r - f.mean(), 0) + bce(f - r.mean(), 1),
    ),
    "relativistic in pairs": (RelativisticPaired(0.0), lambda r, f: bce(r - f, 1), lambda f, r: bce(r - f, 0)),
    "wasserstein": (Wasserstein(10.0, 5, 0.0), lambda r, f: f.mean() - r.mean(), lambda f, r: -f.mean()),
}


def logits(seed: int) -> Tensor:
    values = 4 * torch.randn((5, 1, 2, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


@pytest.mark.parametrize("name", WITNESSES)
def test_an_objective_is_its_formula_with_the_right_gradients(name: str) -> None:
    loss, for_discriminator, for_generator = WITNESSES[name]
    real, fake = logits(0), logits(1)
    torch.testing.assert_close(loss.discriminator_loss(real, fake), for_discriminator(real, fake))
    torch.testing.assert_close(loss.generator_loss(fake, real), for_generator(fake, real))
    assert torch.autograd.gradcheck(loss.discriminator_loss, (real, fake))
    assert torch.autograd.gradcheck(lambda f: loss.generator_loss(f, real.detach()), (fake,))
    several = loss.discriminator_loss([real, fake], [fake, fake])  # the mean over a discriminator's heads
    torch.testing.assert_close(several, (for_discriminator(real, fake) + for_discriminator(fake, fake)) / 2)


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_logits_give_finite_losses_and_the_generators_does_not_saturate(sign: int) -> None:
    loss = NonSaturating(0.0, 1.0)
    real = torch.full((2, 1), 1e4 * sign, requires_grad=True)
    fake = torch.full((2, 1), -1e4 * sign, requires_grad=True)
    assert loss.discriminator_loss(real, fake).item() == (0 if sign > 0 else 2e4)
    generator_loss = loss.generator_loss(fake)
    assert generator_loss.item() == (1e4 if sign > 0 else 0)
    (gradient,) = torch.autograd.grad(generator_loss, fake)
    assert gradient.sum().item() == (-1 if sign > 0 else 0)  # where D is sure of SR, the generator learns most


class Slope(nn.Module):
    """A discriminator whose logit is `a · Σ x²/2 + Σ b x`: its gradient at an image is a·x + b."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), b

    def forward(self, images: Tensor) -> Tensor:
        return (self.a * images.square() / 2 + self.b * images).sum((1, 2, 3))[:, None]


def test_r1_is_half_gamma_times_the_squared_gradient_at_hr_and_reaches_the_discriminator() -> None:
    critic, real, fake = Slope(2.0, 1.0), torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4)
    penalty = NonSaturating(r1=10.0, real_label=1.0).penalty(critic, real, fake)
    torch.testing.assert_close(penalty, 5 * (2 * real + 1).square().sum((1, 2, 3)).mean())
    penalty.backward()
    assert critic.a.grad is not None and critic.a.grad > 0
    assert not NonSaturating(r1=0.0, real_label=1.0).has_penalty


def test_what_a_place_shows_cancels_in_pairs_alone() -> None:
    """Whatever is added to the logits of a place, for HR and SR alike."""
    real, fake, content = logits(0), logits(1), logits(2)
    for loss, indifferent in ((RelativisticPaired(0.0), True), (RelativisticAverage(0.0), False), (Hinge(0.0), False)):
        for formula in (loss.discriminator_loss, lambda r, f, loss=loss: loss.generator_loss(f, r)):
            same = torch.allclose(formula(real + content, fake + content), formula(real, fake))
            assert same == indifferent, (loss, formula)


def test_wasserstein_penalises_slopes_off_1_between_hr_and_sr_alike_after_a_resume() -> None:
    real, fake = torch.ones(4, 3, 2, 2), torch.zeros(4, 3, 2, 2)  # between them all pixels of an image are alike
    loss = Wasserstein(10.0, 5, 0.0)
    assert loss.penalty(Slope(0.0, 12**-0.5), real, fake).item() == pytest.approx(0, abs=1e-9)
    assert loss.penalty(Slope(0.0, 3 * 12**-0.5), real, fake).item() == pytest.approx(40)
    positions: list[Tensor] = []

    class Spy(Slope):
        def forward(self, images: Tensor) -> Tensor:
            positions.append(images[:, 0, 0, 0].detach())
            return super().forward(images)

    assert loss.penalty(Slope(0.0, 12**-0.5 / 3), real, fake).item() == pytest.approx(40 / 9)  # also below 1
    norms = torch.tensor([0.0, 1.0, 2.0, 4.0])

    class ByImage(nn.Module):
        """Slopes of other norms for each image; two heads, one with a map of four logits per image."""

        def forward(self, images: Tensor) -> list[Tensor]:
            logits = (images * norms.view(-1, 1, 1, 1) * 12**-0.5).sum((1, 2, 3), keepdim=True)
            return [logits.flatten(1), torch.cat([2 * logits, 0 * logits, logits, logits], 1)]

    expected = 10 * (norms - 1).square().mean().item()
    assert loss.penalty(ByImage(), real, fake).item() == pytest.approx(expected, rel=1e-4)
    with_r1 = Wasserstein(10.0, 5, 3.0).penalty(ByImage(), real, fake).item()
    assert with_r1 - expected == pytest.approx(1.5 * norms.square().mean().item(), rel=1e-4)
    for done in range(200):
        loss.begin_step(done)
        loss.penalty(Spy(0.0, 1.0), real, fake)
    seen = torch.stack(positions)
    for column in (*seen.unbind(0), seen[:, 0], seen[:, 1]):
        assert column.unique().numel() == column.numel()
    counts = torch.histc(seen, bins=10, min=0, max=1)
    assert counts.min() > 70 and counts.max() < 90  # of 80: uniform
    positions.clear()
    again = Wasserstein(10.0, 5, 0.0)
    again.begin_step(150)
    again.penalty(Spy(0.0, 1.0), real, fake)
    assert torch.equal(positions[0], seen[150])


def test_the_discriminators_accuracy_is_the_share_of_its_decisions_that_are_right() -> None:
    """Where a loss compares HR with SR, what is added to all logits changes nothing."""
    real, fake = torch.tensor([[1.0], [0.2], [-2.0]]), torch.tensor([[-1.0], [0.4], [-3.0]])
    for loss, right, offset_matters in (
        (NonSaturating(0.0, 0.9), 4 / 6, True),
        (Hinge(0.0), 4 / 6, True),
        (LeastSquares(0.0, 1.0), 4 / 6, True),  # above and below 0.5
        (LeastSquares(0.0, 0.2), 4 / 6, True),
        (RelativisticAverage(0.0), 4 / 6, False),  # SR has a mean of -1.2, HR of -0.27
        (RelativisticPaired(0.0), 2 / 3, False),
    ):
        accuracy = loss.accuracy(real, fake)
        assert accuracy is not None and float(accuracy) == pytest.approx(right), loss
        offset = loss.accuracy(real + 5, fake + 5)
        assert offset is not None and (float(offset) == pytest.approx(0.5 if offset_matters else right)), loss
        several = loss.accuracy([real, real + 5], [fake, fake + 5])  # the mean over the heads
        assert several is not None and float(several) == pytest.approx((right + float(offset)) / 2), loss
    assert Wasserstein(10.0, 5, 0.0).accuracy(real, fake) is None
