"""The weighted sum of losses that one phase of training minimises."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from srgan.errors import UserError
from srgan.losses.adversarial import NonSaturating

ADVERSARIAL = "adversarial"


class LossMix(nn.Module):
    """Weighted content losses and, in a GAN, the adversarial one (Eq. 3).

    Args:
        content: content losses by name; each is called with (sr, hr).
        weights: the weight of each by the same name, and of `adversarial`. A loss of weight 0 is left out.
        adversarial: None for a mix without a discriminator.

    Raises UserError if names and weights don't match, or if all weights are 0.
    """

    def __init__(
        self, content: Mapping[str, nn.Module], weights: Mapping[str, float], adversarial: NonSaturating | None = None
    ) -> None:
        super().__init__()
        named = [*content, *([ADVERSARIAL] if adversarial is not None else [])]
        if set(named) != set(weights):
            raise UserError(
                f"loss weights are given for {sorted(weights)}, the losses are {sorted(named)}; give one weight each"
            )
        if not any(weights.values()):
            raise UserError("all loss weights are 0: nothing to learn")
        self.content = nn.ModuleDict({name: loss for name, loss in content.items() if weights[name]})
        self.weights = dict(weights)
        self.adversarial = adversarial if weights.get(ADVERSARIAL) else None

    def terms(self, sr: Tensor, hr: Tensor, discriminator: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
        """Yield name and unweighted value (a scalar) of each loss, computed one by one.

        So the graph of one can be freed before the next is built.
        """
        for name, loss in self.content.items():
            yield name, loss(sr, hr)
        if self.adversarial is not None:
            assert discriminator is not None
            yield ADVERSARIAL, self.adversarial.generator_loss(discriminator(sr))
