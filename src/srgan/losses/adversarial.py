"""Adversarial losses on the discriminator's logits, (B, 1) or one for each patch. Each call returns a scalar."""

from torch import Tensor, nn
from torch.nn import functional as F


class NonSaturating(nn.Module):
    """Binary cross-entropy (Eq. 2), the generator's part non-saturating: −log D(G(lr)) (§2.2.2, Eq. 6)."""

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """−log D(real) − log(1 − D(fake)); 2 log 2 if all logits are 0."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_loss(self, fake: Tensor) -> Tensor:
        """−log D(fake)."""
        return F.softplus(-fake).mean()
