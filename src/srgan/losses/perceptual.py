"""Perceptual (content) losses: distances between feature maps (§2.2.1, Eq. 5)."""

import random
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.models.vgg import shared_vgg19

PAPER_RESCALE = 1 / 12.75  # factor on the feature maps, §3.2


class VGGLoss(nn.Module):
    """Distance between the VGG19 feature maps of sr and hr, (B, 3, H, W) in [0, 1]; a scalar (§2.2.1, Eq. 5).

    The network is frozen and its weights are in no state dict. In each training step the images are shifted against its
    pooling grid by a random offset (`RandomAlignment`).

    Args:
        layers: the compared convolutions and their weights, such as {"conv5_4": 1.0}.
        weights: which VGG19; see `VGG19`.
        before_relu: compare the maps before their ReLU, as ESRGAN does (Wang et al. 2018, §3.3); the paper compares
            them after it (φ_{i,j}, §2.2.1).
        distance: `mse`, the paper's, or `l1`.
        rescale: `paper` divides the maps by 12.75 (§3.2), which with the original weights makes the loss about as
            large as an MSE in [−1, 1]. `none` leaves the maps as they are.
        normalize: scale each position's features to unit length and sum the squared differences over channels before
            the mean (Zhang et al. 2018, Eq. 1, all w = 1). Dark regions and shallow layers, whose maps differ in
            magnitude, then count equally. `distance` and `rescale` are ignored.
        sizes: factors in (0, 1] by which both images are resized before they are compared; the loss is the sum over
            them, each weighted by 1 / size.
        random_views: compare the images in a new random view at each call; see `RandomViews`.
        signed_input: omit VGG19's preprocessing, as the Keras CelebA recipe does; see `VGG19`.
    """

    def __init__(
        self,
        layers: dict[str, float],
        weights: str,
        before_relu: bool = False,
        distance: Literal["mse", "l1"] = "mse",
        rescale: Literal["paper", "none"] = "none",
        normalize: bool = False,
        sizes: Sequence[float] = (1.0,),
        random_views: bool = False,
        signed_input: bool = False,
    ) -> None:
        super().__init__()
        if not sizes or not all(0 < size <= 1 for size in sizes):
            raise UserError(f"VGG19 sizes {list(sizes)}: expected numbers above 0, up to 1")
        if distance not in ("mse", "l1"):
            raise UserError(f"distance={distance}: expected mse or l1")
        if rescale not in ("paper", "none"):
            raise UserError(f"rescale={rescale}: expected paper (divide VGG19's maps by 12.75) or none")
        self.layer_weights, self.before_relu = dict(layers), before_relu
        self.distance = F.mse_loss if distance == "mse" else F.l1_loss
        self.factor = PAPER_RESCALE if rescale == "paper" else 1.0
        self.normalize, self.sizes = normalize, tuple(sizes)
        self.views = RandomViews() if random_views else None
        self.network = shared_vgg19(weights, layers, before_relu, signed_input)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        terms: list[Tensor] = []
        sr, hr = (sr, hr) if self.views is None else self.views(sr, hr)
        for size in self.sizes:
            sides = [round(size * side) for side in hr.shape[-2:]]
            x, y = (images if size == 1 else F.interpolate(images, sides, mode="area") for images in (sr, hr))
            maps, target = self.network(x), self.network(y.detach())
            for name, weight in self.layer_weights.items():
                pair = (features(name, self.before_relu).float() for features in (maps, target))
                terms.append(weight / size * self._distance(*pair))
        return torch.stack(terms).sum()

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        if self.normalize:
            return (_unit(x) - _unit(y)).square().sum(1).mean()
        return self.distance(self.factor * x, self.factor * y)


class RandomViews(nn.Module):
    """Applies the same random view to several images (B, C, H, W), an idea of E-LPIPS (Kettunen et al. 2019).

    A view cuts up to 8 pixels off the edges, may mirror and rotate by 90°, and resizes by a factor of 0.71 to 1.41.

    A generator trained on features soon learns patterns that are fixed to its output pixels and lower the loss without
    looking right. Such a pattern doesn't survive a random view.

    The view depends only on the number of calls, which checkpoints hold, so a resumed run draws the same views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        rng, self.calls = random.Random(f"view {self.calls}"), self.calls + 1  # not the numbers of RandomAlignment
        height, width = images[0].shape[-2:]
        cut = min(8, height // 8, width // 8)  # pixels cut off in each direction
        top, left, factor = rng.randint(0, cut), rng.randint(0, cut), 2 ** rng.uniform(-0.5, 0.5)
        down, right, turn = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5
        sides = [round((side - cut) * factor) for side in ((width, height) if turn else (height, width))]

        def view(x: Tensor) -> Tensor:
            x = x[..., top : top + height - cut, left : left + width - cut]
            x = x.flip([axis for axis, mirrored in ((-2, down), (-1, right)) if mirrored])
            x = x.transpose(-2, -1) if turn else x
            return F.interpolate(x, sides, mode="bilinear", antialias=True)

        return tuple(view(x) for x in images)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)


def _unit(maps: Tensor) -> Tensor:
    """Scale the feature vector at each position of (B, C, H, W) to length 1."""
    return maps * (maps.square().sum(1, keepdim=True) + 1e-10).rsqrt()  # 1e-10 for all-zero features
