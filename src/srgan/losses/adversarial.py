"""Adversarial losses, computed from the discriminator's logits: one for the discriminator, one for the generator.

Each class defines the two formulas for one tensor of logits, and which logits count as right. The base class averages
them over a discriminator's heads and adds the penalty on its gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.models.discriminators import Logits, heads
from srgan.models.stepwise import Stepwise


class AdversarialLoss(Stepwise):
    """Base class. A subclass defines `_discriminator` and `_generator`, the two formulas; each returns a scalar.

    Attributes:
        boundary: the logit above which the discriminator takes an image for HR; for `accuracy`.
        critic_steps: the generator is updated once per this many steps, the discriminator at every step.
        needs_real: True if the generator's loss also needs the logits of HR.

    Args:
        r1: γ of the R1 penalty γ/2 · ‖∇D(HR)‖² (Mescheder et al. 2018, Eq. 9); 0 for no penalty.
    """

    boundary = 0.0
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
        """The loss that the discriminator minimises. real, fake: its logits for HR and SR."""
        return _mean_over_heads(self._discriminator, real, fake)

    def generator_loss(self, fake: Logits, real: Logits | None = None) -> Tensor:
        """The loss that the generator minimises. fake: the logits for SR; real: those for HR, if `needs_real`."""
        return _mean_over_heads(self._generator, fake, fake if real is None else real)

    def accuracy(self, real: Logits, fake: Logits) -> Tensor | None:
        """Share of the decisions that the discriminator makes right; None if its logits decide nothing."""
        return _mean_over_heads(self._right, real, fake)

    def _right(self, real: Tensor, fake: Tensor) -> Tensor:
        return (_share(real > self.boundary) + _share(fake < self.boundary)) / 2

    @property
    def has_penalty(self) -> bool:
        """True if `penalty` is part of the discriminator's loss."""
        return self.r1 > 0

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        """The penalty on the discriminator's gradient. real, fake: images (B, 3, H, W) detached from the graph."""
        return self.r1 / 2 * _squared_gradient(discriminator, real).mean()


class NonSaturating(AdversarialLoss):
    """Binary cross-entropy (Eq. 2) with the non-saturating generator loss −log D(G(lr)) (§2.2.2, Eq. 6).

    Args:
        real_label: D's target for HR; 0.9 is one-sided label smoothing (Salimans et al. 2016, §3.4).
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
    """The minimax game exactly as in Eq. 2: the generator minimises log(1 − D(G(lr))), flat where D is sure."""

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return -F.softplus(fake).mean()


class LeastSquares(AdversarialLoss):
    """LSGAN on raw logits (Mao et al. 2017, Eq. 2 and 9): D: ½ (D(hr) − 1)² + ½ D(sr)², G: ½ (D(sr) − 1)².

    Args:
        real_label: D's target for HR; see `NonSaturating`.
    """

    def __init__(self, r1: float, real_label: float) -> None:
        super().__init__(r1)
        self.real_label = real_label
        self.boundary = real_label / 2  # the other target is 0

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real - self.real_label).square().mean() + fake.square().mean()) / 2

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return (fake - 1).square().mean() / 2


class Keras(AdversarialLoss):
    """The Keras CelebA recipe's loss. D: least squares on sigmoids, mean of real and fake. G: cross-entropy."""

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return ((real.sigmoid() - 1).square().mean() + fake.sigmoid().square().mean()) / 2

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(-fake).mean()


class Hinge(AdversarialLoss):
    """Hinge. D: max(0, 1 − D(hr)) + max(0, 1 + D(sr)), G: −D(sr) (Lim & Ye 2017; Miyato et al. 2018, Eq. 16, 17)."""

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return -fake.mean()


class RelativisticAverage(AdversarialLoss):
    """Relativistic average GAN: is HR more real than the average SR? (ESRGAN, Wang et al. 2018, Eq. 1 and 2.)

    Both networks minimise the cross-entropy of D(x) − mean D(others); the generator uses the opposite labels.
    """

    needs_real = True

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(real - fake.mean()).mean() + F.softplus(real.mean() - fake).mean()

    def _right(self, real: Tensor, fake: Tensor) -> Tensor:
        return (_share(real > fake.mean()) + _share(fake < real.mean())) / 2


class RelativisticPaired(AdversarialLoss):
    """Relativistic GAN in pairs: is HR more real than the SR of the same place? (RSGAN, Jolicoeur-Martineau 2018.)

    Both networks minimise the cross-entropy of D(x) − D(its counterpart), logit by logit; the generator uses the
    opposite labels. What a place shows is the same on both sides and cancels; only how it looks is left to be learned.
    """

    needs_real = True

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return F.softplus(real - fake).mean()

    def _right(self, real: Tensor, fake: Tensor) -> Tensor:
        return _share(real > fake)


class Wasserstein(AdversarialLoss):
    """WGAN-GP (Gulrajani et al. 2017, Eq. 3). D: D(sr) − D(hr) + penalty on D's gradient between them; G: −D(sr).

    The discriminator is a critic, whose outputs aren't log-odds. It should have no batch normalisation (their §4), as
    `discriminator=patch`, `unet` and `projected`. The positions between HR and SR follow a low-discrepancy sequence
    over the images of a batch (or of a part of it) and over steps, so that a resumed run continues exactly.

    Args:
        gradient_penalty: λ of λ (‖∇D‖ − 1)².
        critic_steps: the generator is updated once per this many steps (n_critic, Algorithm 1), at least 1.
    """

    def __init__(self, gradient_penalty: float, critic_steps: int, r1: float) -> None:
        super().__init__(r1)
        if critic_steps < 1:
            raise UserError(f"adversarial.critic_steps={critic_steps}: expected 1 or more")
        self.gradient_penalty = gradient_penalty
        self.critic_steps = critic_steps
        self.register_buffer("done", torch.zeros((), dtype=torch.float64), persistent=False)

    def begin_step(self, done: int) -> None:
        self.get_buffer("done").fill_(done)

    def _discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return fake.mean() - real.mean()

    def _generator(self, fake: Tensor, real: Tensor) -> Tensor:
        return -fake.mean()

    def accuracy(self, real: Logits, fake: Logits) -> None:
        return None

    @property
    def has_penalty(self) -> bool:
        return self.gradient_penalty > 0 or super().has_penalty

    def penalty(self, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        index = torch.arange(len(real), device=real.device, dtype=torch.float64)
        # Multiples of the generalised golden ratio in two dimensions: uniform in [0, 1) over images and over steps.
        position = (0.7548776662466927 * index + 0.5698402909980532 * self.get_buffer("done")).frac()
        between = torch.lerp(real, fake, position.to(real.dtype)[:, None, None, None])
        norm = (_squared_gradient(discriminator, between) + 1e-12).sqrt()  # 1e-12, since the root has no gradient at 0
        value = self.gradient_penalty * (norm - 1).square().mean()
        return value + super().penalty(discriminator, real, fake) if self.r1 else value


def _share(right: Tensor) -> Tensor:
    return right.float().mean()


def _mean_over_heads(formula: Callable[..., Tensor], *logits: Logits) -> Tensor:
    return torch.stack([formula(*maps) for maps in zip(*map(heads, logits), strict=True)]).mean()


def _squared_gradient(discriminator: nn.Module, images: Tensor) -> Tensor:
    """‖∇D‖² at each image: (B,), fp32. D is the mean of an image's logits."""
    with torch.autocast(images.device.type, enabled=False):
        images = images.detach().float().requires_grad_()
        score = torch.stack([maps.flatten(1).mean(1) for maps in heads(discriminator(images))]).mean(0).sum()
        (gradient,) = torch.autograd.grad(score, images, create_graph=True)
    return gradient.flatten(1).square().sum(1)
