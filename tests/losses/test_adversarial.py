import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from srgan.losses.adversarial import NonSaturating

LOSS = NonSaturating()


def random_logits(seed: int) -> Tensor:
    logits = 4 * torch.randn((5, 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.requires_grad_()


def test_both_losses_are_cross_entropies_with_the_right_gradients() -> None:
    """The discriminator's against ones and zeros, the generator's against ones: 2 log 2 and log 2 for logits of 0."""
    real, fake = random_logits(0), random_logits(1)
    against_ones = F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))
    torch.testing.assert_close(LOSS.generator_loss(fake), against_ones)
    expected = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    expected = expected + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    torch.testing.assert_close(LOSS.discriminator_loss(real, fake), expected)
    assert torch.autograd.gradcheck(LOSS.discriminator_loss, (real, fake))
    assert torch.autograd.gradcheck(LOSS.generator_loss, (fake,))
    zeros = torch.zeros(4, 1)
    assert LOSS.discriminator_loss(zeros, zeros).item() == pytest.approx(2 * math.log(2))
    assert LOSS.generator_loss(zeros).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_logits_give_finite_losses_and_the_generators_does_not_saturate(sign: int) -> None:
    real = torch.full((2, 1), 1e4 * sign, requires_grad=True)
    fake = torch.full((2, 1), -1e4 * sign, requires_grad=True)
    assert LOSS.discriminator_loss(real, fake).item() == (0 if sign > 0 else 2e4)
    generator_loss = LOSS.generator_loss(fake)
    assert generator_loss.item() == (1e4 if sign > 0 else 0)
    (gradient,) = torch.autograd.grad(generator_loss, fake)
    assert gradient.flatten().tolist() == ([-0.5, -0.5] if sign > 0 else [0, 0])  # each logit's whole share
