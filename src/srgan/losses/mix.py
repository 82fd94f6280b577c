"""The weighted sum of losses that one phase of training minimises."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.losses.adversarial import AdversarialLoss
from srgan.models.discriminators import Discriminator
from srgan.models.stepwise import Stepwise

ADVERSARIAL, FEATURE_MATCHING = "adversarial", "feature_matching"


class LossMix(Stepwise):
    """Weighted sum of content losses and, in a GAN phase, the adversarial loss (Eq. 3).

    Args:
        content: content losses by name; each is called with (sr, hr).
        weights: the weight of each content loss by the same name, of `adversarial`, and optionally of
            `feature_matching`, the L1 distance between the discriminator's feature maps of sr and hr (Wang et al.
            2018, pix2pixHD, Eq. 4). A loss of weight 0 is not computed.
        adversarial: None for a sum without a discriminator.
        ramp: number of steps over which the adversarial weight rises from 0.
        balance: by name, shares that replace weights. A loss with share s is weighted so that the norm of its gradient
            at the SR image is s times that of the losses without a share, feature matching aside (running means of
            both). So one share suits losses of any scale. None keeps the weight.

    Raises UserError if names and weights don't match, or if all weights are 0.
    """

    def __init__(
        self,
        content: Mapping[str, nn.Module],
        weights: Mapping[str, float],
        adversarial: AdversarialLoss | None = None,
        ramp: int = 0,
        balance: Mapping[str, float | None] | None = None,
    ) -> None:
        super().__init__()
        possible = [*content, *([ADVERSARIAL, FEATURE_MATCHING] if adversarial is not None else [])]
        if not {*possible} - {FEATURE_MATCHING} <= set(weights) <= {*possible}:
            raise UserError(
                f"loss weights are given for {sorted(weights)}, the losses are {sorted(possible)}; give one weight each"
            )
        if ramp < 0:
            raise UserError(f"adversarial_ramp={ramp}: expected a number of steps, 0 for none")
        if not any(weights.values()):
            raise UserError("all loss weights are 0: nothing to learn")
        if weights.get(FEATURE_MATCHING) and not weights.get(ADVERSARIAL):
            raise UserError("feature_matching needs a discriminator that learns: give adversarial_weight more than 0")
        self.content = nn.ModuleDict({name: loss for name, loss in content.items() if weights[name]})
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        self.adversarial = adversarial if weights.get(ADVERSARIAL) else None
        self.ramp = ramp
        shares = {name: share for name, share in (balance or {}).items() if share is not None}
        if unknown := sorted(shares.keys() - weights.keys()):
            raise UserError(
                f"balance is given for {', '.join(unknown)}; the losses are {', '.join(weights)}; null takes one out"
            )
        if negative := [f"{name} {share:g}" for name, share in shares.items() if not share >= 0]:
            raise UserError(f"balance: a share is a part of the content's gradient, not below 0: {', '.join(negative)}")
        if idle := [name for name, share in shares.items() if share and name not in self.weights]:
            raise UserError(
                f"balance is given for {', '.join(idle)}, of weight 0, which takes that loss out; give any weight above"
                " 0, or null for the share"
            )
        self.balance = {name: float(share) for name, share in shares.items() if name in self.weights}
        self._references = self.weights.keys() - self.balance.keys() - {FEATURE_MATCHING}  # what the shares refer to
        if self.balance and not self._references:
            raise UserError("every content loss is balanced against the others; give at least one a weight instead")
        self.register_buffer("ramped", torch.ones(()), persistent=False)
        if self.balance:
            self.register_buffer("norms", torch.zeros(1 + len(self.balance)))
            self.register_buffer("steps", torch.zeros(()))

    @property
    def penalises_gradients(self) -> bool:
        """True if the discriminator's loss has a penalty on its gradient."""
        return self.adversarial is not None and self.adversarial.has_penalty

    def begin_step(self, done: int) -> None:
        if self.ramp:
            self.get_buffer("ramped").fill_(min(1.0, (done + 1) / self.ramp))

    def content_terms(self, sr: Tensor, hr: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and unweighted value (a scalar) of each content loss.

        They are computed one by one, so that each graph can be freed before the next is built.
        """
        for name, loss in self.content.items():
            yield name, loss(sr, hr)

    def adversarial_terms(self, sr: Tensor, hr: Tensor, discriminator: Discriminator) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses that pass through the discriminator (adversarial, feature matching) in the same way."""
        if self.adversarial is None:
            return
        logits, maps = discriminator.with_features(sr)
        real_logits, real_maps = None, list[Tensor]()
        if self.adversarial.needs_real or FEATURE_MATCHING in self.weights:
            with torch.no_grad():
                real_logits, real_maps = discriminator.with_features(hr)
        yield ADVERSARIAL, self.adversarial.generator_loss(logits, real_logits)
        if FEATURE_MATCHING in self.weights:
            distances = [F.l1_loss(x.float(), y.float()) for x, y in zip(maps, real_maps, strict=True)]
            yield FEATURE_MATCHING, torch.stack(distances).mean()

    def weigh(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor | float]:
        """The weight of each loss, given the gradient of each unweighted loss at the SR image."""
        weights: dict[str, Tensor | float] = {name: self.weights[name] for name in gradients}
        present = [name for name in self.balance if name in gradients]
        if present:
            others = [self.weights[name] * gradients[name] for name in gradients if name in self._references]
            sums = [torch.stack(others).sum(0), *(gradients[name] for name in present)]
            norms, steps = self.get_buffer("norms"), self.get_buffer("steps")
            new = torch.stack([gradient.norm() for gradient in sums]).to(norms.dtype)
            norms.lerp_(new, torch.clamp(1 / (steps + 1), min=0.1))  # roughly the mean of the last ten steps
            steps += 1
            reference, *own = norms.unbind()
            weights |= {
                name: self.balance[name] * reference / (norm + 1e-20) for name, norm in zip(present, own, strict=True)
            }
        for name in (ADVERSARIAL, FEATURE_MATCHING):
            if self.ramp and name in weights:
                weights[name] = weights[name] * self.get_buffer("ramped")
        return weights
