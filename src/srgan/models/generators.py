"""Generators: (B, 3, h, w) LR in [0, 1] → (B, 3, scale · h, scale · w) SR, near [0, 1] but not clamped, float32."""

import math

from torch import Tensor, nn

from srgan.errors import UserError
from srgan.imresize import imresize
from srgan.models.shuffling import Upsampling

UPSAMPLING_STAGES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


class Generator(nn.Module):
    """Base class of all generators.

    Attributes:
        scale: the factor by which it enlarges.
        receptive_field: the radius in LR pixels of the neighbourhood that an SR pixel depends on.
    """

    scale: int
    receptive_field: int


class ResidualBlock(nn.Module):
    """Conv 3×3, BN, PReLU, conv 3×3, BN, elementwise sum (Fig. 4). Without BN the convolutions have biases."""

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv3x3(channels, batch_norm),
            nn.PReLU(),
            *_conv3x3(channels, batch_norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SRResNet(Generator):
    """The paper's generator (Fig. 4, §2.1.1), 1.55 M weights at ×4.

    The last convolution works in the paper's range of HR, [−1, 1]; the output is mapped to [0, 1].

    Args:
        scale: 2, 3, 4 or 8. Powers of two are stages of ×2; ×3 is one stage.
        channels: feature maps, 64 in the paper.
        blocks: residual blocks, 16 in the paper.
    """

    def __init__(self, scale: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())
        self.trunk = nn.Sequential(
            *(ResidualBlock(channels, batch_norm=True) for _ in range(blocks)),
            *_conv3x3(channels, batch_norm=True),
        )
        self.upsampling = _upsampling(channels, scale)
        self.tail = nn.Conv2d(channels, 3, 9, padding=4)
        self.receptive_field = 4 + 2 * blocks + 1 + _upsampling_field(scale, tail=4)

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr)  # (B, 64, h, w)
        x = x + self.trunk(x)  # 16 residual blocks, conv, BN; then the elementwise sum
        x = self.upsampling.then(self.tail, x)  # self.tail(self.upsampling(x)): (B, 3, scale · h, scale · w)
        return (x.float() + 1) / 2


class Compact(Generator):
    """A small generator for laptops: the same blocks without BN, adding to the bicubic enlargement.

    It starts as bicubic interpolation exactly (the last convolution starts at zero), so that every step of a short
    training goes into what bicubic misses.

    Args:
        scale: 2, 3, 4 or 8.
        channels: feature maps.
        blocks: residual blocks.
    """

    def __init__(self, scale: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.PReLU())
        self.trunk = nn.Sequential(
            *(ResidualBlock(channels, batch_norm=False) for _ in range(blocks)),
            *_conv3x3(channels, batch_norm=False),
        )
        self.upsampling = _upsampling(channels, scale)
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)
        for parameter in self.tail.parameters():
            nn.init.zeros_(parameter)
        self.receptive_field = 1 + 2 * blocks + 1 + _upsampling_field(scale, tail=1)

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr)  # (B, 32, h, w)
        x = x + self.trunk(x)
        x = self.upsampling(x)  # (B, 32, scale · h, scale · w)
        return imresize(lr.float(), self.scale) + self.tail(x).float()


def _conv3x3(channels: int, batch_norm: bool) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
    return [conv, nn.BatchNorm2d(channels)] if batch_norm else [conv]


def _upsampling_field(scale: int, tail: int) -> int:
    """Radius in LR pixels of the upsampling stages and of a last convolution whose radius is `tail` SR pixels."""
    radius, enlarged = 0.0, 1
    for factor in UPSAMPLING_STAGES[scale]:
        radius += 1 / enlarged
        enlarged *= factor
    return math.ceil(radius + tail / scale)


def check_scale(scale: int) -> None:
    """Raise UserError if no generator enlarges by `scale`."""
    if scale not in UPSAMPLING_STAGES:
        raise UserError(f"no generator for scale {scale}; choose scale=2, 3, 4 or 8")


def _upsampling(channels: int, scale: int) -> Upsampling:
    check_scale(scale)
    return Upsampling(channels, UPSAMPLING_STAGES[scale])
