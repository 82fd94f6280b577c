"""Upsampling by pixel shuffle or by resizing, and the faster order of the layers around the last shuffle.

A convolution that follows a pixel shuffle of factor r may as well be computed before it. Name a pixel after the shuffle
by the pixel u before it and its sub-pixel a, 0 ≤ a < r, in one direction: it lies at r·u + a. A kernel of `side` taps,
centred at side // 2, takes for the output at r·u + a the input at r·(u + d) + i with its tap

    t = r·d + i − a + side // 2,   if 0 ≤ t < side, and nothing otherwise.

Before the shuffle, sub-pixels are channels and d is an offset in pixels. So the same sums are a convolution from
C·r² to K·r² channels whose kernel has the tap t at (output channel a, input channel i, offset d), with zeros elsewhere.
The paper's last layer, 64 → 3 channels with 9×9 at 4h × 4w, becomes 256 → 12 channels with 5×5 at 2h × 2w: more
channels and fewer pixels, which processors compute faster. The activation acts on each value alone (a PReLU has one
slope) and commutes with the shuffle. `tests/models/test_shuffling.py` compares both orders, with gradients.
"""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]  # makes a layer that acts on each value alone


class PixelShuffleStage(nn.Sequential):
    """Conv 3×3 to `channels · factor²`, pixel shuffle, PReLU (Fig. 4): (B, C, h, w) → (B, C, factor · h, factor · w).

    The convolution starts as ICNR (arXiv 1707.02937): all sub-pixels equal, which leaves no checkerboard.
    """

    def __init__(self, channels: int, factor: int, activation: Activation = nn.PReLU) -> None:
        conv = nn.Conv2d(channels, channels * factor**2, 3, padding=1)
        super().__init__(conv, nn.PixelShuffle(factor), activation())
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.copy_(parameter[:: factor**2].repeat_interleave(factor**2, 0))


class ResizeStage(nn.Sequential):
    """Nearest-neighbour enlargement, conv 3×3, activation: (B, inputs, h, w) → (B, channels, factor · h, factor · w).

    A resize-convolution (Odena et al. 2016, https://distill.pub/2016/deconv-checkerboard): one kernel makes all
    sub-pixels, so that it draws no grid where a pixel shuffle may.

    Args:
        inputs: channels that come in, by default as many as go out.
    """

    def __init__(
        self, channels: int, factor: int, activation: Activation = nn.PReLU, inputs: int | None = None
    ) -> None:
        conv = nn.Conv2d(inputs or channels, channels, 3, padding=1)
        super().__init__(nn.Upsample(scale_factor=factor, mode="nearest"), conv, activation())


class Upsampling(nn.Sequential):
    """Stages in a row, one for each factor: (B, C, h, w) → (B, C, scale · h, scale · w)."""

    def __init__(
        self,
        channels: int,
        factors: Iterable[int],
        activation: Activation = nn.PReLU,
        stage: type[PixelShuffleStage | ResizeStage] = PixelShuffleStage,
    ) -> None:
        super().__init__(*(stage(channels, factor, activation) for factor in factors))

    def then(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """`conv(self(x))`, with `conv` computed before the last pixel shuffle: (B, K, scale · h, scale · w).

        conv: C → K channels, odd square kernel, stride 1, zero padding to the same size, with bias.
        """
        *stages, last = self
        if isinstance(last, ResizeStage):
            return conv(self(x))
        for stage in stages:
            x = stage(x)
        before, shuffle, activation = cast(
            tuple[nn.Conv2d, nn.PixelShuffle, nn.Module], tuple(cast(nn.Sequential, last))
        )
        return convolve_before_shuffle(activation(before(x)), shuffle.upscale_factor, conv)


def convolve_before_shuffle(x: Tensor, factor: int, conv: nn.Conv2d) -> Tensor:
    """`conv(pixel_shuffle(x, factor))`, computed in the faster order. x: (B, C · factor², h, w)."""
    assert conv.bias is not None
    kernel = kernel_before_shuffle(conv.weight, factor)
    x = F.conv2d(x, kernel, conv.bias.repeat_interleave(factor**2), padding=kernel.shape[-1] // 2)
    return F.pixel_shuffle(x, factor)  # (B, K, factor · h, factor · w)


def kernel_before_shuffle(weight: Tensor, factor: int) -> Tensor:
    """The kernel of the same convolution before the shuffle: (K, C, s, s) → (K · factor², C · factor², s', s')."""
    outputs, inputs, side, _ = weight.shape
    reach = (side // 2 + factor - 1) // factor  # radius of the new kernel, in pixels before the shuffle
    offset = torch.arange(-reach, reach + 1)  # d
    sub = torch.arange(factor)  # a and i
    tap = factor * offset + sub[:, None] - sub[:, None, None] + side // 2  # (a, i, d)
    tap = torch.where((tap >= 0) & (tap < side), tap, side).to(weight.device)  # `side` stands for "no tap"
    padded = F.pad(weight, (0, 1, 0, 1))  # the zero that "no tap" refers to
    kernel = padded[:, :, tap[..., None, None, None], tap]  # (K, C, a, i, d, b, j, e), rows and columns
    kernel = kernel.permute(0, 2, 5, 1, 3, 6, 4, 7)  # (K, a, b, C, i, j, d, e)
    return kernel.reshape(outputs * factor**2, inputs * factor**2, len(offset), len(offset))
