"""One training step, independent of Lightning: the Trainer runs it and `srgan.speed` times it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from srgan.data.datamodule import Pair
from srgan.losses.mix import ADVERSARIAL, FEATURE_MATCHING, LossMix
from srgan.metrics import names
from srgan.models.discriminators import Discriminator, Logits, heads
from srgan.models.stepwise import Stepwise, stepwise_parts
from srgan.training.ema import EMA
from srgan.training.guard import Guard

Part = TypeVar("Part")
GENERATOR, DISCRIMINATOR = "the generator", "the discriminator"  # as the log names them


def _backward(value: Tensor, gradient: Tensor | None = None) -> None:
    value.backward(gradient)  # pyright: ignore[reportUnknownMemberType]


@dataclass(kw_only=True)
class Step:
    """Updates the discriminator, the generator and the averaged generator with one batch, in this order.

    The batch passes the generator once; only with `accumulate` or `separate_batches`, and where the discriminator alone
    is trained, the SR that it learns from takes a pass of its own. The discriminator learns from HR and from SR
    detached from the graph. Each loss is differentiated at the SR image, adversarial losses through the updated
    discriminator, and the weighted sum of these gradients is backpropagated through the generator. So each loss'
    gradient norm is known, one loss' graph is freed before the next is built, and no gradient reaches the weights of
    the discriminator or of VGG.

    A step in which a loss or a gradient is not finite leaves all as it was; see `Guard` for the exception.

    Args:
        generator: the network to train.
        loss: the phase's losses; if they include an adversarial one, the discriminator and its optimizer are needed.
        optimizer: the generator's optimizer.
        discriminator, discriminator_optimizer: needed if the loss is adversarial.
        gradient_clip: the largest norm of each network's gradient; None for no clipping.
        accumulate: the number of equal parts in which a batch is processed to save memory. Their averaged gradient is
            that of the whole batch, except that batch normalisation, relativistic losses and shares (`balance`) see one
            part at a time, and that random views and the positions of WGAN-GP are drawn for each part.
        separate_batches: the discriminator learns from the first half of the batch, the generator from the second.
        ema: updates the averaged generator after the step; None for no average.
        backward: replaces `value.backward(gradient)`; Lightning's manual_backward fits.
        average: averages a network's gradients, and the tensor beside it, over several processes before its update;
            None in a single one.
    """

    generator: nn.Module
    loss: LossMix
    optimizer: Optimizer
    discriminator: Discriminator | None = None
    discriminator_optimizer: Optimizer | None = None
    gradient_clip: float | None = None
    accumulate: int = 1
    separate_batches: bool = False
    ema: EMA | None = None
    backward: Callable[..., None] = _backward
    average: Callable[[nn.Module, Tensor], None] | None = None

    def __call__(self, batch: Pair, done: int, logging: bool) -> dict[str, Tensor]:
        """Train on one batch.

        done: number of finished steps in this phase. Returns the values to log by name, as tensors on the device; an
        empty mapping unless `logging`.
        """
        self.begin(done)
        values = self.run(batch, self.generator_learns(done), logging)
        self.end()
        return values

    def begin(self, done: int) -> None:
        """Set the numbers that change from step to step: they lie on the device, where `run` finds them."""
        for part in self._stepwise:
            part.begin_step(done)
        self.guard.begin(done)
        if self.ema is not None:
            self.ema.begin(done // self._period)

    def run(self, batch: Pair, generator_learns: bool, logging: bool) -> dict[str, Tensor]:
        """The device's work, between `begin` and `end`. A CUDA graph may replay it."""
        self.guard.keep()
        values = self._update(batch, generator_learns, logging)
        self.guard.end()
        if self.ema is not None and generator_learns:
            self.ema.update(self.guard.finite)
        return values

    def end(self) -> None:
        """Free what was kept for the step."""
        for part in self._stepwise:
            part.end_step()

    @cached_property
    def _stepwise(self) -> list[Stepwise]:
        return stepwise_parts(self.loss, self.discriminator if self.loss.adversarial is not None else None)

    @cached_property
    def guard(self) -> Guard:
        """Keeps the step from changing anything if it is not finite."""
        parts, optimizers = [self.generator, self.loss], [self.optimizer]
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            parts.append(self.discriminator)
            optimizers.append(self.discriminator_optimizer)
        return Guard(parts, optimizers)

    def generator_learns(self, done: int) -> bool:
        """False for steps that only train a Wasserstein critic."""
        return (done + 1) % self._period == 0

    @property
    def _period(self) -> int:
        """The number of steps per update of the generator."""
        return 1 if self.loss.adversarial is None else self.loss.adversarial.critic_steps

    def _update(self, batch: Pair, generator_learns: bool, logging: bool) -> dict[str, Tensor]:
        """Update both networks."""
        discriminator_parts, parts = self._parts(batch)
        one_pass = generator_learns and discriminator_parts is parts and len(parts) == 1
        values: dict[str, Tensor] = {}
        images: list[Tensor] = []  # SR, by parts
        if self.loss.adversarial is not None and not one_pass:
            images = [self._generate(part.lr) for part in discriminator_parts]
            pairs = zip(images, (part.hr for part in discriminator_parts), strict=True)
            values |= self._update_discriminator(self._one_by_one(pairs), logging)
        if not generator_learns:
            self.guard.decide(lr=batch.lr, hr=batch.hr, sr=torch.cat(images))
            return values
        self.optimizer.zero_grad()
        means = _Means()
        images.clear()
        for part in self._one_by_one(parts):
            sr = self.generator(part.lr)
            image = sr.detach().requires_grad_()
            images.append(image.detach())
            terms, gradients = dict[str, Tensor](), dict[str, Tensor]()
            # Before the discriminator's update, which then reuses the features of SR.
            self._differentiate(self.loss.content_terms(image, part.hr), image, terms, gradients)
            if self.loss.adversarial is not None:
                assert self.discriminator is not None
                if one_pass:
                    values |= self._update_discriminator([(image.detach(), part.hr)], logging)
                self._differentiate(
                    self.loss.adversarial_terms(image, part.hr, self.discriminator), image, terms, gradients
                )
            weights = self.loss.weigh(gradients)
            gradient = torch.zeros_like(sr)
            for name, at_image in gradients.items():
                gradient += weights[name] * at_image
            self.backward(sr, gradient=gradient / len(parts))
            if logging:
                means.add(_generator_figures(terms, gradients, weights))
        norm = self._prepare(self.generator, GENERATOR)
        self.optimizer.step()
        self.guard.decide(lr=batch.lr, hr=batch.hr, sr=torch.cat(images))
        return {**values, **means.means(), names.GENERATOR_GRADIENT: norm} if logging else {}

    def _one_by_one(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield the parts of a batch, and free what was kept for each before the next."""
        for part in parts:
            yield part
            for module in self._stepwise:
                module.end_part()

    def _parts(self, batch: Pair) -> tuple[list[Pair], list[Pair]]:
        """The parts of the batch for the discriminator and for the generator; the same list if they are equal."""
        if self.loss.adversarial is None or not self.separate_batches:
            parts = _split(batch, self.accumulate)
            return parts, parts
        for_discriminator, for_generator = _split(batch, 2)
        return _split(for_discriminator, self.accumulate), _split(for_generator, self.accumulate)

    @torch.no_grad()
    def _generate(self, lr: Tensor) -> Tensor:
        return self.generator(lr)

    def _update_discriminator(self, parts: Iterable[tuple[Tensor, Tensor]], logging: bool) -> dict[str, Tensor]:
        """Train the discriminator on parts of (SR, HR). HR and SR are two batches with separate BN statistics."""
        assert self.discriminator is not None and self.discriminator_optimizer is not None
        adversarial = self.loss.adversarial
        assert adversarial is not None
        self.discriminator_optimizer.zero_grad()
        means = _Means()
        for fake, real in parts:
            logits_real, logits_fake = self.discriminator(real), self.discriminator(fake)
            value = adversarial.discriminator_loss(logits_real, logits_fake)
            penalty = adversarial.penalty(self.discriminator, real, fake) if self.loss.penalises_gradients else None
            total = value if penalty is None else value + penalty
            self.guard.watch(f"{DISCRIMINATOR}'s loss", total.detach())
            self.backward(total if self.accumulate == 1 else total / self.accumulate)
            if logging:
                figures = _logit_figures(logits_real, logits_fake) | {names.DISCRIMINATOR_LOSS: value.detach()}
                if (accuracy := adversarial.accuracy(logits_real, logits_fake)) is not None:
                    figures[names.DISCRIMINATOR_ACCURACY] = accuracy
                if penalty is not None:
                    figures[names.DISCRIMINATOR_PENALTY] = penalty.detach()
                means.add(figures)
        norm = self._prepare(self.discriminator, DISCRIMINATOR)
        self.discriminator_optimizer.step()
        return {**means.means(), names.DISCRIMINATOR_GRADIENT: norm} if logging else {}

    def _differentiate(
        self,
        losses: Iterable[tuple[str, Tensor]],
        image: Tensor,
        terms: dict[str, Tensor],
        gradients: dict[str, Tensor],
    ) -> None:
        """Store each loss' value and its gradient at the image."""
        for name, term in losses:
            # Losses may share a network's pass, so its graph is retained and freed with the last reference.
            (gradients[name],) = torch.autograd.grad(term, image, retain_graph=True)
            terms[name] = term.detach()
            self.guard.watch(f"{GENERATOR}'s loss {name}", terms[name])

    def _prepare(self, network: nn.Module, name: str) -> Tensor:
        """Average a network's gradients over the processes and clip them. Returns their norm, before clipping."""
        if self.average is not None:
            self.guard.look()
            self.average(network, self.guard.finite)
        if self.gradient_clip is not None:
            norm = clip_grad_norm_(network.parameters(), self.gradient_clip)
        else:
            norm = get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        self.guard.watch(f"{name}'s gradient", norm)
        self.guard.look()
        return norm


class _Means:
    """Averages values by name over the parts of a batch."""

    def __init__(self) -> None:
        self._values: defaultdict[str, list[Tensor]] = defaultdict(list)

    def add(self, figures: Mapping[str, Tensor]) -> None:
        for name, value in figures.items():
            self._values[name].append(value)

    def means(self) -> dict[str, Tensor]:
        return {
            name: torch.stack(values).mean(0) if len(values) > 1 else values[0] for name, values in self._values.items()
        }


@torch.no_grad()
def _logit_figures(real: Logits, fake: Logits) -> dict[str, Tensor]:
    """Mean logits, averaged over the heads."""
    return _mean_over_heads(
        {
            names.REAL_LOGIT: x.mean(),
            names.FAKE_LOGIT: y.mean(),
            names.LOGIT_GAP: x.mean() - y.mean(),
        }
        for x, y in zip(heads(real), heads(fake), strict=True)
    )


@torch.no_grad()
def _generator_figures(
    terms: Mapping[str, Tensor], gradients: Mapping[str, Tensor], weights: Mapping[str, Tensor | float]
) -> dict[str, Tensor]:
    """Each loss' unweighted value, norm of its weighted gradient at SR, and its weight if it varies; the total."""
    figures = {names.TOTAL_LOSS: torch.stack([weights[name] * term for name, term in terms.items()]).sum()}
    for name, term in terms.items():
        weight = weights[name]
        figures |= {names.loss(name): term, names.gradient_at_sr(name): (weight * gradients[name]).norm()}
        if isinstance(weight, Tensor):
            figures[names.weight(name)] = weight
    of_discriminator = (ADVERSARIAL, FEATURE_MATCHING)
    content = [weights[name] * gradient for name, gradient in gradients.items() if name not in of_discriminator]
    if content and ADVERSARIAL in gradients:
        ratio = torch.stack(content).sum(0).norm() / figures[names.gradient_at_sr(ADVERSARIAL)].clamp(min=1e-20)
        figures[names.CONTENT_TO_ADVERSARIAL] = ratio
    return figures


def _mean_over_heads(rows: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    means = _Means()
    for row in rows:
        means.add(row)
    return means.means()


def _split(batch: Pair, parts: int) -> list[Pair]:
    """The batch in equal parts."""
    return [batch] if parts == 1 else [Pair(*images) for images in zip(*(x.chunk(parts) for x in batch), strict=True)]
