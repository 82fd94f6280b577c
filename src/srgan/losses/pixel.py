"""Pixel losses between sr and hr, (B, 3, H, W) in [0, 1], and regularisers; each returns a scalar."""

from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.imresize import Imresize


class MSELoss(nn.Module):
    """Mean squared error (Eq. 4) of images in [0, 1]. In the paper's range [−1, 1] it is four times as large."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.mse_loss(sr, hr)


class L1Loss(nn.Module):
    """Mean absolute error of images in [0, 1]."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.l1_loss(sr, hr)


class CharbonnierLoss(nn.Module):
    """Mean of √((sr − hr)² + ε²), an L1 that is smooth at 0 (Charbonnier et al. 1994); images in [0, 1].

    Raises UserError unless ε is above 0.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        if not epsilon > 0:
            raise UserError(f"charbonnier.epsilon={epsilon:g}: expected more than 0, such as 1e-3; content=l1 has none")
        self.epsilon = epsilon

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return ((sr - hr).square() + self.epsilon**2).sqrt().mean()


class LRConsistencyLoss(nn.Module):
    """Mean absolute difference between SR and HR, both reduced to LR's size by the bicubic kernel, unrounded.

    It keeps colours and large shapes in place, which a loss on features alone lets drift.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.reduce = Imresize(1 / scale)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return F.l1_loss(self.reduce(sr), self.reduce(hr))


class TotalVariation(nn.Module):
    """Mean gradient magnitude of sr (forward differences) over pixels and channels; `hr` is ignored.

    The regulariser of SRResNet-VGG22 (§3.2, weight 2e-8), after Aly & Dubois 2005, Eq. 13.
    """

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        down = sr[..., 1:, :-1] - sr[..., :-1, :-1]
        right = sr[..., :-1, 1:] - sr[..., :-1, :-1]
        return (down.square() + right.square() + 1e-12).sqrt().mean()  # 1e-12, since the root has no gradient at 0


class GridLoss(nn.Module):
    """Penalises error patterns that repeat with the LR grid.

    Feature losses reward texture, and the cheapest texture that a generator finds is the same few grey levels added to
    every scale × scale block: a grid. The loss averages the error of each of the scale² sub-pixels over a
    neighbourhood, subtracts the mean over all sub-pixels, and squares. Textures that don't repeat with the LR pixels
    cancel in these averages and cost nothing.

    Args:
        scale: side of a block in pixels.
        window: side of the neighbourhood in blocks; the whole image if it is smaller. Blocks at the right and lower
            edge that fill no window are left out.
    """

    def __init__(self, scale: int, window: int = 8) -> None:
        super().__init__()
        self.scale, self.window = scale, window

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        error = F.pixel_unshuffle(sr - hr, self.scale)  # (B, 3 · scale², h, w)
        window = min(self.window, *error.shape[-2:])
        mean = F.avg_pool2d(error, window).unflatten(1, (3, -1))  # (B, 3, scale², h / window, w / window)
        return (mean - mean.mean(2, keepdim=True)).square().mean()
