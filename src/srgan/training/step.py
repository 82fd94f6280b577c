"""One step of training, without Lightning: what the trainer runs and what the benchmark times."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from srgan.data.datamodule import Pair
from srgan.losses.mix import LossMix
from srgan.metrics import names
from srgan.training.ema import EMA


def _backward(value: Tensor, gradient: Tensor | None = None) -> None:
    value.backward(gradient)  # pyright: ignore[reportUnknownMemberType]


@dataclass(kw_only=True)
class Step:
    """Updates the discriminator, the generator and the averaged generator with one batch, in this order.

    The batch passes the generator once. The discriminator learns from HR and from SR detached from the graph. Then each
    loss is differentiated at the SR image, through the discriminator just updated, and the weighted sum of these
    gradients goes back through the generator. So the gradient norm of each loss is at hand, the graph of one loss is
    freed before the next is built, and no gradient reaches the weights of the discriminator or of VGG.

    Args:
        generator: the network that learns.
        loss: the phase's mix; if it is adversarial, the discriminator and its optimizer are needed.
        optimizer: the generator's optimizer, or Lightning's wrapper of it.
        discriminator, discriminator_optimizer: needed if the loss is adversarial.
        gradient_clip: the largest norm of each network's gradient; None for no clipping.
        ema: updates the averaged generator after the step; None for no average.
        backward: replaces `value.backward(gradient)`; Lightning's manual_backward fits.
    """

    generator: nn.Module
    loss: LossMix
    optimizer: Optimizer
    discriminator: nn.Module | None = None
    discriminator_optimizer: Optimizer | None = None
    gradient_clip: float | None = None
    ema: EMA | None = None
    backward: Callable[..., None] = _backward

    def __call__(self, batch: Pair, done: int, logging: bool) -> dict[str, Tensor]:
        """Train on one batch.

        done: steps finished in this phase. Returns the figures to log by name, as tensors that stay on the device; an
        empty mapping unless `logging`.
        """
        sr = self.generator(batch.lr)
        values: dict[str, Tensor] = {}
        if self.loss.adversarial is not None:
            values |= self._update_discriminator(sr.detach(), batch.hr, logging)
        values |= self._update_generator(sr, batch.hr, logging)
        if self.ema is not None:
            self.ema.update(done)
        return values

    def _update_discriminator(self, fake: Tensor, real: Tensor, logging: bool) -> dict[str, Tensor]:
        """HR and SR pass the discriminator as two batches, each with its own BN statistics."""
        assert self.discriminator is not None and self.discriminator_optimizer is not None
        assert self.loss.adversarial is not None
        logits_real, logits_fake = self.discriminator(real), self.discriminator(fake)
        value = self.loss.adversarial.discriminator_loss(logits_real, logits_fake)
        self.discriminator_optimizer.zero_grad()
        self.backward(value)
        norm = self._clip(self.discriminator, logging)
        self.discriminator_optimizer.step()
        if not logging:
            return {}
        with torch.no_grad():
            return {
                names.DISCRIMINATOR_LOSS: value,
                names.DISCRIMINATOR_ACCURACY: ((logits_real > 0).float().mean() + (logits_fake < 0).float().mean()) / 2,
                names.REAL_LOGIT: logits_real.mean(),
                names.FAKE_LOGIT: logits_fake.mean(),
                names.DISCRIMINATOR_GRADIENT: norm,
            }

    def _update_generator(self, sr: Tensor, hr: Tensor, logging: bool) -> dict[str, Tensor]:
        image = sr.detach().requires_grad_()
        total, gradient = torch.zeros((), device=sr.device), torch.zeros_like(sr)
        values: dict[str, Tensor] = {}
        for name, term in self.loss.terms(image, hr, self.discriminator):
            weighted = self.loss.weights[name] * term
            (at_image,) = torch.autograd.grad(weighted, image)
            gradient += at_image
            total += weighted.detach()
            if logging:
                values |= {names.loss(name): term, names.gradient_at_sr(name): at_image.norm()}
        self.optimizer.zero_grad()
        self.backward(sr, gradient=gradient)
        norm = self._clip(self.generator, logging)
        self.optimizer.step()
        return {**values, names.TOTAL_LOSS: total, names.GENERATOR_GRADIENT: norm} if logging else {}

    def _clip(self, network: nn.Module, logging: bool) -> Tensor:
        if self.gradient_clip is not None:
            return clip_grad_norm_(network.parameters(), self.gradient_clip)
        if logging:
            return get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        return torch.zeros(())
