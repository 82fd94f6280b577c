import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from srgan.losses.adversarial import NonSaturating

LOSS = NonSaturating()


def random_logits(seed: int) -> Tensor:
    return 4 * torch.randn((5, 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_discriminators_loss_is_cross_entropy_against_ones_and_zeros() -> None:
    real, fake = random_logits(0), random_logits(1)
    expected = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    expected += F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    torch.testing.assert_close(LOSS.discriminator_loss(real, fake), expected)


def test_the_generators_loss_is_cross_entropy_against_ones() -> None:
    fake = random_logits(1)
    expected = F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    torch.testing.assert_close(LOSS.generator_loss(fake), expected)


def test_a_discriminator_that_knows_nothing_has_a_loss_of_two_log_two() -> None:
    zeros = torch.zeros(4, 1)
    assert LOSS.discriminator_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    assert LOSS.generator_loss(zeros).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_logits_give_finite_losses_and_gradients(sign: int) -> None:
    real = torch.full((2, 1), 1e4 * sign, requires_grad=True)
    fake = torch.full((2, 1), -1e4 * sign, requires_grad=True)
    of_discriminator, of_generator = LOSS.discriminator_loss(real, fake), LOSS.generator_loss(fake)
    assert of_discriminator.item() == (0 if sign > 0 else 2e4)
    assert of_generator.item() == (1e4 if sign > 0 else 0)
    (of_discriminator + of_generator).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert torch.isfinite(real.grad).all()
    assert torch.isfinite(fake.grad).all()


def test_the_generator_learns_by_raising_logits_most_where_it_is_found_out() -> None:
    fake = torch.tensor([[-1e4], [-2.0], [0.0], [2.0]], requires_grad=True)
    LOSS.generator_loss(fake).backward()
    assert fake.grad is not None
    assert (fake.grad < 0).all()
    assert (fake.grad.diff(dim=0) > 0).all()
    assert fake.grad[0].item() == pytest.approx(-1 / 4)  # it doesn't saturate: the whole of this logit's share


def test_the_discriminator_learns_by_raising_real_and_lowering_fake_logits() -> None:
    real, fake = random_logits(0).requires_grad_(), random_logits(1).requires_grad_()
    LOSS.discriminator_loss(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert real.grad.max() < 0 < fake.grad.min()
