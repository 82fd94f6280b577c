"""Generators: (B, 3, h, w) LR in [0, 1] → (B, 3, scale · h, scale · w) SR, near [0, 1] but not clamped, float32."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.imresize import imresize

UPSAMPLING_STAGES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


class Generator(nn.Module):
    """What every generator has.

    Attributes:
        scale: the factor by which it enlarges.
        receptive_field: an SR pixel depends on LR pixels at most so far from the one below it.
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


class PixelShuffleStage(nn.Sequential):
    """Conv 3×3 to `channels · factor²`, pixel shuffle, PReLU (Fig. 4): (B, C, h, w) → (B, C, factor · h, factor · w).

    The convolution starts as ICNR (arXiv 1707.02937): all sub-pixels equal, which leaves no checkerboard.
    """

    def __init__(self, channels: int, factor: int) -> None:
        conv = nn.Conv2d(channels, channels * factor**2, 3, padding=1)
        super().__init__(conv, nn.PixelShuffle(factor), nn.PReLU())
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.copy_(parameter[:: factor**2].repeat_interleave(factor**2, 0))


class SRResNet(Generator):
    """The paper's generator (Fig. 4, §2.1.1), 1.55 M weights at ×4.

    The last convolution works in the paper's range of HR, [−1, 1]; the output is mapped to [0, 1].

    Args:
        scale: 2, 3, 4 or 8. Powers of two are stages of ×2; ×3 is one stage.
        channels: feature maps.
        blocks: residual blocks.
    """

    def __init__(self, scale: int, channels: int = 64, blocks: int = 16) -> None:
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
        x = x + self.trunk(x)
        x = self.upsampling[:-1](x)  # (B, 64, scale · h / r, scale · w / r)
        conv, _, activation = cast(nn.Sequential, self.upsampling[-1])
        x = activation(conv(x))  # (B, 64 · r², scale · h / r, scale · w / r)
        x = conv_of_shuffled(x, UPSAMPLING_STAGES[self.scale][-1], self.tail)  # (B, 3, scale · h, scale · w)
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

    def __init__(self, scale: int, channels: int = 32, blocks: int = 8) -> None:
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


def conv_of_shuffled(x: Tensor, factor: int, conv: nn.Conv2d) -> Tensor:
    """`conv(pixel_shuffle(x, factor))`, with the convolution done before the shuffle.

    Each of the factor² sub-pixels of an output pixel is a channel, so that 64 → 3 channels with 9×9 become 256 → 12
    with 5×5 on a quarter of the pixels: more channels and fewer pixels are what processors do faster. A PReLU of one
    slope, which acts alike on every value, may stand before the shuffle as well.

    Args:
        x: (B, C · factor², h, w).
        factor: of the pixel shuffle.
        conv: C → K channels, odd square kernel, stride 1, zero padding to the same size, with bias.
    """
    assert conv.bias is not None
    kernel = kernel_before_shuffle(conv.weight, factor)
    x = F.conv2d(x, kernel, conv.bias.repeat_interleave(factor**2), padding=kernel.shape[-1] // 2)
    return F.pixel_shuffle(x, factor)  # (B, K, factor · h, factor · w)


def kernel_before_shuffle(weight: Tensor, factor: int) -> Tensor:
    """The kernel of `conv_of_shuffled`: (K, C, side, side) → (K · factor², C · factor², side', side')."""
    outputs, inputs, side, _ = weight.shape
    reach = (side // 2 + factor - 1) // factor  # of the new kernel, in pixels before the shuffle
    pixel = torch.arange(-reach, reach + 1)
    sub = torch.arange(factor)
    # The old kernel's tap between sub-pixel i of the pixel at offset u and sub-pixel a of this one; `side`: none.
    tap = factor * pixel + sub[:, None] - sub[:, None, None] + side // 2  # (a, i, u)
    tap = torch.where((tap >= 0) & (tap < side), tap, side).to(weight.device)
    padded = F.pad(weight, (0, 1, 0, 1))  # a zero for "none"
    kernel = padded[:, :, tap[..., None, None, None], tap]  # (K, C, a, i, u, b, j, v)
    kernel = kernel.permute(0, 2, 5, 1, 3, 6, 4, 7)  # (K, a, b, C, i, j, u, v)
    return kernel.reshape(outputs * factor**2, inputs * factor**2, len(pixel), len(pixel))


def _conv3x3(channels: int, batch_norm: bool) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
    return [conv, nn.BatchNorm2d(channels)] if batch_norm else [conv]


def _upsampling_field(scale: int, tail: int) -> int:
    """Radius in LR pixels of the upsampling stages and of a last convolution of that radius in SR pixels."""
    radius, enlarged = 0.0, 1
    for factor in UPSAMPLING_STAGES[scale]:
        radius += 1 / enlarged
        enlarged *= factor
    return math.ceil(radius + tail / scale)


def check_scale(scale: int) -> None:
    """Raise UserError if no generator has it."""
    if scale not in UPSAMPLING_STAGES:
        raise UserError(f"no generator for scale {scale}; choose scale=2, 3, 4 or 8")


def _upsampling(channels: int, scale: int) -> nn.Sequential:
    check_scale(scale)
    return nn.Sequential(*(PixelShuffleStage(channels, factor) for factor in UPSAMPLING_STAGES[scale]))
