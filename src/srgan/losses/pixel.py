"""Pixel losses between sr and hr, (B, 3, H, W) in [0, 1], and total variation. Each returns a scalar."""

from torch import Tensor, nn
from torch.nn import functional as F


class MSELoss(nn.Module):
    """Mean squared error (Eq. 4) in [0, 1]. In the paper's [−1, 1] it is four times as large."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.mse_loss(sr, hr)


class L1Loss(nn.Module):
    """Mean absolute error in [0, 1]."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.l1_loss(sr, hr)


class TotalVariation(nn.Module):
    """Mean length of the gradient (forward differences) over pixels and channels; takes `hr` and ignores it.

    The regulariser of SRResNet-VGG22 (§3.2, weight 2e-8), after Aly & Dubois 2005, Eq. 13.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        down = sr[..., 1:, :-1] - sr[..., :-1, :-1]
        right = sr[..., :-1, 1:] - sr[..., :-1, :-1]
        return (down.square() + right.square() + 1e-12).sqrt().mean()  # 1e-12: the root has no gradient at 0
