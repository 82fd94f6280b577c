"""Prepares trained generators for inference: whatever is constant after training is computed once."""

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from srgan.imresize import cubic
from srgan.models.generators import Compact, Generator, SRResNet
from srgan.models.shuffling import PixelShuffleStage, kernel_before_shuffle


def fold(generator: Generator) -> Generator:
    """Make a copy for inference, in evaluation mode.

    Batch normalisations are merged into the convolutions before them, SRResNet's last convolution is moved before
    its last pixel shuffle, and Compact's bicubic enlargement becomes a convolution. The copy gives the same SR up to
    rounding and can't be trained further.
    """
    folded = copy.deepcopy(generator).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
    if isinstance(folded, SRResNet) and isinstance(folded.upsampling[-1], PixelShuffleStage):
        folded = FoldedSRResNet(folded)
    elif isinstance(folded, Compact):
        folded = FoldedCompact(folded)
    return folded.eval().requires_grad_(False)


class FoldedSRResNet(Generator):
    """An SRResNet with pixel shuffles. It stores the kernel that `Upsampling.then` otherwise computes at every call."""

    def __init__(self, generator: SRResNet) -> None:
        super().__init__()
        self.scale, self.receptive_field = generator.scale, generator.receptive_field
        self.head, self.trunk = generator.head, generator.trunk
        *stages, last = generator.upsampling
        conv, shuffle, activation = cast(tuple[nn.Conv2d, nn.PixelShuffle, nn.Module], tuple(cast(nn.Sequential, last)))
        self.upsampling = nn.Sequential(*stages, conv, activation)
        self.tail = conv_before_shuffle(generator.tail, shuffle.upscale_factor)
        self.shuffle = shuffle

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr)  # (B, 64, h, w)
        x = x + self.trunk(x)
        x = self.upsampling(x)  # (B, 64 · r², scale · h / r, scale · w / r)
        x = self.shuffle(self.tail(x))  # (B, 3, scale · h, scale · w)
        return (x.float() + 1) / 2


class FoldedCompact(Generator):
    """A Compact whose bicubic enlargement is a convolution and a pixel shuffle, in float32 even under autocast."""

    def __init__(self, generator: Compact) -> None:
        super().__init__()
        self.scale, self.receptive_field = generator.scale, generator.receptive_field
        self.head, self.trunk, self.upsampling = generator.head, generator.trunk, generator.upsampling
        self.tail = generator.tail
        self.bicubic = nn.Sequential(
            nn.ReplicationPad2d(2), bicubic_before_shuffle(self.scale), nn.PixelShuffle(self.scale)
        )

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr)  # (B, 32, h, w)
        x = x + self.trunk(x)
        x = self.upsampling(x)  # (B, 32, scale · h, scale · w)
        with torch.autocast(lr.device.type, enabled=False):
            enlarged = self.bicubic(lr.float())  # (B, 3, scale · h, scale · w)
        return enlarged + self.tail(x).float()


def conv_before_shuffle(conv: nn.Conv2d, factor: int) -> nn.Conv2d:
    """The convolution which, followed by a pixel shuffle, equals `conv(pixel_shuffle(x))`."""
    kernel = kernel_before_shuffle(conv.weight.detach(), factor)
    before = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[-1], padding=kernel.shape[-1] // 2)
    before.weight = nn.Parameter(kernel)
    before.bias = nn.Parameter(cast(Tensor, conv.bias).detach().repeat_interleave(factor**2))
    return before


@torch.no_grad()
def bicubic_before_shuffle(scale: int) -> nn.Conv2d:
    """The convolution which, followed by a pixel shuffle, equals `imresize(rgb, scale)` 2 pixels off the edges."""
    offset = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = cubic(offset[:, None] - torch.arange(-2, 3))  # (scale, 5), one row per sub-pixel position
    kernel = torch.einsum("au,bv->abuv", taps, taps).reshape(scale**2, 1, 5, 5)
    conv = nn.Conv2d(3, 3 * scale**2, 5, groups=3, bias=False)
    conv.weight.copy_(kernel.repeat(3, 1, 1, 1))
    return conv


def _fold_sequence(sequence: nn.Sequential) -> None:
    previous: nn.Module | None = None
    for name, module in list(sequence.named_children()):
        if isinstance(module, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            position = list(sequence).index(previous)
            sequence[position] = fuse_conv_bn_eval(previous, module)
            delattr(sequence, name)
        previous = module
