"""Adversarial losses on the discriminator's logits: what it learns by, and what the generator learns through it.

Each class gives the two formulas for one tensor of logits; the base class averages over a discriminator's heads and
adds the penalties on its gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.models.discriminators import Logits, heads
from srgan.models.stepwise import Stepwise


class AdversarialLoss(Stepwise):
    """Base class. A subclass defines `_discriminator` and `_generator`, the two formulas; each returns a scalar.

    Attributes:
        critic_steps: the generator learns at every so many steps, the discriminator at each.
        needs_real: True if the generator's loss needs the logits of HR, too.

    Args:
        r1: γ of the penalty γ/2 · ‖∇D(HR)‖² (R1, Mescheder et al. 2018, Eq. 9); 0 for none.
    """

    critic_steps = 1
    needs_real = False

    def __init__(self, r1: float) -> None:
        super().__init__()
        self.r1 = r1

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        raise NotImplementedError

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        raise NotImplementedError

    def discriminator_loss(self, real: Logits, fake: Logits) -> Tensor:
        """The loss of the logits of HR and of SR that the discriminator minimises."""
        return _mean_over_heads(self._discriminator, real, fake)

    def generator_loss(self, fake: Logits, real: Logits | None = None) -> Tensor:
        """The loss of the logits of SR that the generator minimises; `real` where `needs_real`."""
        return _mean_over_heads(self._generator, fake, fake if real is None else real)

    @property
    def has_penalty(self) -> bool:
        """True if `penalty` is part of the discriminator's loss."""
        return self.r1 > 0

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """The penalty on the discriminator's gradient; real, fake: the images, (B, 3, H, W), without a graph."""
        return self.r1 / 2 * _squared_gradient(discriminator, real).mean()


class NonSaturating(AdversarialLoss):
    """Binary cross-entropy (Eq. 2), the generator's part non-saturating: −log D(G(lr)) (§2.2.2, Eq. 6).

    Args:
        real_label: what D is taught for HR; 0.9 is one-sided label smoothing (Salimans et al. 2016, §3.4).
    """

    def __init__(self, r1: float, real_label: float) -> None:
        super().__init__(r1)
        self.real_label = real_label

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """−log D(real) − log(1 − D(fake)); 2 log 2 if all logits are 0."""
        return (F.softplus(-real) + (1 - self.real_label) * real).mean() + F.softplus(fake).mean()

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        """−log D(fake)."""
        return F.softplus(-fake).mean()


class Minimax(NonSaturating):
    """The game of Eq. 2 as it stands: the generator minimises log(1 − D(G(lr))), which is flat where D is sure."""

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return -F.softplus(fake).mean()


class LeastSquares(AdversarialLoss):
    """½ (D(hr) − 1)² + ½ D(sr)² and ½ (D(sr) − 1)², on the logits themselves (Mao et al. 2017, Eq. 2 and 9).

    Args:
        real_label: what D is taught for HR; see `NonSaturating`.
    """

    def __init__(self, r1: float, real_label: float) -> None:
        super().__init__(r1)
        self.real_label = real_label

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real - self.real_label).square().mean() + fake.square().mean()) / 2

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return (fake - 1).square().mean() / 2


class Keras(AdversarialLoss):
    """The Keras CelebA recipe's: least squares on sigmoids for D, mean of real and fake; cross-entropy for G."""

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real.sigmoid() - 1).square().mean() + fake.sigmoid().square().mean()) / 2

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


class Hinge(AdversarialLoss):
    """max(0, 1 − D(hr)) + max(0, 1 + D(sr)) and −D(sr) (Lim & Ye 2017; Miyato et al. 2018, Eq. 16 and 17)."""

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return -fake.mean()


class RelativisticAverage(AdversarialLoss):
    """Is HR more real than the average SR, and SR less than the average HR? (ESRGAN, Wang et al. 2018, Eq. 1 and 2.)

    Both networks learn by cross-entropy on D(x) − mean D(others); the generator's labels are the opposite ones.
    """

    needs_real = True

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(real - fake.mean()).mean() + F.softplus(real.mean() - fake).mean()


class Wasserstein(AdversarialLoss):
    """D(sr) − D(hr) and −D(sr) with a penalty on D's gradient between them (WGAN-GP, Gulrajani et al. 2017, Eq. 3).

    The discriminator is a critic: its logits are no log-odds. Its batches should not be normalised (§4 there):
    `discriminator=patch` or `unet`. The points between HR and SR are a low-discrepancy sequence over images and steps,
    so that a resumed run takes those that the uninterrupted one would have taken.

    Args:
        gradient_penalty: λ of λ (‖∇D‖ − 1)².
        critic_steps: the generator learns at every so many steps, the discriminator at each (n_critic, Algorithm 1).
    """

    def __init__(self, gradient_penalty: float, critic_steps: int, r1: float) -> None:
        super().__init__(r1)
        self.gradient_penalty = gradient_penalty
        self.critic_steps = critic_steps
        self.register_buffer("done", torch.zeros((), dtype=torch.float64), persistent=False)

    def begin_step(self, done: int) -> None:
        self.get_buffer("done").fill_(done)

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return -fake.mean()

    @property
    def has_penalty(self) -> bool:
        return self.gradient_penalty > 0 or super().has_penalty

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        index = torch.arange(len(real), device=real.device, dtype=torch.float64)
        # Steps along two axes of the generalised golden ratio: uniform in [0, 1) over images and over steps.
        position = (0.7548776662466927 * index + 0.5698402909980532 * self.get_buffer("done")).frac()
        between = torch.lerp(real, fake, position.to(real.dtype)[:, None, None, None])
        norm = (_squared_gradient(discriminator, between) + 1e-12).sqrt()  # 1e-12: the root has no gradient at 0
        value = self.gradient_penalty * (norm - 1).square().mean()
        return value + super().penalty(discriminator, real, fake) if self.r1 else value


def _mean_over_heads(formula: Callable[..., Tensor], *logits: Logits) -> Tensor:
    return torch.stack([formula(*maps) for maps in zip(*map(heads, logits), strict=True)]).mean()


def _squared_gradient(discriminator: nn.Module, images: Tensor) -> Tensor:
    """‖∇D‖² at each image, (B,), in fp32; D is the mean over an image's logits."""
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().float().requires_grad_()
        score = torch.stack([maps.flatten(1).mean(1) for maps in heads(discriminator(images))]).mean(0).sum()
        (gradient,) = torch.autograd.grad(score, images, create_graph=True)
    return gradient.flatten(1).square().sum(1)
