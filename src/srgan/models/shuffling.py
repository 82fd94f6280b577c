"""Upsampling by pixel shuffle or by resizing, and the faster order of the layers around the last shuffle.

A convolution after a pixel shuffle of factor r can also be computed before it. In one direction, let u be a pixel
before the shuffle and a, 0 ≤ a < r, a sub-pixel of it, which lies at r·u + a after the shuffle. For the output at r·u
+ a a kernel of `side` taps, centred at side // 2, multiplies the input at r·(u + d) + i by its tap

    t = r·d + i − a + side // 2   if 0 ≤ t < side, and by nothing otherwise.

Before the shuffle, sub-pixels are channels and d is an offset in pixels. So the same sum is a convolution from C·r² to
K·r² channels whose kernel holds tap t at (output channel a, input channel i, offset d) and zeros elsewhere.
The paper's last layer, 64 → 3 channels with 9×9 at 4h × 4w, becomes 256 → 12 channels with 5×5 at 2h × 2w: more
channels and fewer pixels, which processors compute faster. The activation acts on each value alone (the PReLU has a
single slope), so it commutes with the shuffle.

A 3×3 convolution after a nearest-neighbour enlargement by r can be computed before it, too. In one direction the three
taps of an output at r·u + a meet two pixels at most: u − 1 and u for a = 0, else u and u + 1. Taps that meet the same
pixel are added up first, so each of the r² sub-pixels has a kernel of 2×2 that reads r² times fewer values: 4/9 of the
products. One convolution with padding makes all of them at h + 1 × w + 1 places; a = 0 takes the first h, others the
last h.

`tests/models/test_shuffling.py` compares all with the readable order, with gradients.
"""

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]  # makes a layer that acts on each value alone


class PixelShuffle(nn.PixelShuffle):
    """`pixel_shuffle` as a layer."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- as torch names it
        return pixel_shuffle(input, self.upscale_factor)


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """(B, C · factor², h, w) → (B, C, factor · h, factor · w), channels-last if the input is.

    torch's own function keeps channels-last layout only on a CPU; elsewhere each later layer would convert its input.
    """
    if x.device.type == "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
        return F.pixel_shuffle(x, factor)
    return shuffle_channels_last(x, factor)


def shuffle_channels_last(x: Tensor, factor: int) -> Tensor:
    """The pixel shuffle of a channels-last tensor, with a single copy."""
    pixels = x.permute(0, 2, 3, 1).unflatten(3, (-1, factor, factor))  # (B, h, w, C, i, j)
    return pixels.permute(0, 1, 4, 2, 5, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class PixelShuffleStage(nn.Sequential):
    """Conv 3×3 to `channels · factor²`, pixel shuffle, PReLU (Fig. 4): (B, C, h, w) → (B, C, factor · h, factor · w).

    The convolution is initialised by ICNR (arXiv 1707.02937): all sub-pixels start equal, without a checkerboard.
    """

    def __init__(self, channels: int, factor: int, activation: Activation = nn.PReLU) -> None:
        conv = nn.Conv2d(channels, channels * factor**2, 3, padding=1)
        super().__init__(conv, PixelShuffle(factor), activation())
        with torch.no_grad():
            for parameter in conv.parameters():
                parameter.copy_(parameter[:: factor**2].repeat_interleave(factor**2, 0))


class ResizeStage(nn.Sequential):
    """Nearest-neighbour enlargement, conv 3×3, activation: (B, inputs, h, w) → (B, channels, factor · h, factor · w).

    A resize-convolution (Odena et al. 2016, https://distill.pub/2016/deconv-checkerboard). One kernel makes all
    sub-pixels, so unlike a pixel shuffle it can't leave a grid.

    Args:
        inputs: input channels, by default as many as output channels.
    """

    def __init__(
        self, channels: int, factor: int, activation: Activation = nn.PReLU, inputs: int | None = None
    ) -> None:
        conv = nn.Conv2d(inputs or channels, channels, 3, padding=1)
        super().__init__(nn.Upsample(scale_factor=factor, mode="nearest"), conv, activation())
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- as torch names it
        _, conv, activation = cast(tuple[nn.Upsample, nn.Conv2d, nn.Module], tuple(self))
        return activation(convolve_nearest(input, self.factor, conv))


class Upsampling(nn.Sequential):
    """Upsampling stages in sequence, one per factor: (B, C, h, w) → (B, C, scale · h, scale · w)."""

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
    return pixel_shuffle(x, factor)  # (B, K, factor · h, factor · w)


def kernel_before_shuffle(weight: Tensor, factor: int) -> Tensor:
    """The kernel of the same convolution before the shuffle: (K, C, s, s) → (K · factor², C · factor², s', s')."""
    outputs, inputs, side, _ = weight.shape
    reach = (side // 2 + factor - 1) // factor  # radius of the new kernel, in pixels before the shuffle
    new_side = 2 * reach + 1
    taps = factor * new_side  # number of (d, i), which index consecutive taps; each a starts one tap earlier
    before = factor * reach + factor - 1 - side // 2  # zeros for "no tap", so that the last a starts at 0
    after = taps + factor - 1 - before - side
    padded = F.pad(weight, (before, after, before, after))
    kernel = padded.unfold(2, taps, 1).unfold(3, taps, 1).flip(2, 3)  # (K, C, a, b, taps, taps)
    kernel = kernel.unflatten(5, (new_side, factor)).unflatten(4, (new_side, factor))  # (K, C, a, b, d, i, e, j)
    kernel = kernel.permute(0, 2, 3, 1, 5, 7, 4, 6)  # (K, a, b, C, i, j, d, e)
    return kernel.reshape(outputs * factor**2, inputs * factor**2, new_side, new_side)


def convolve_nearest(x: Tensor, factor: int, conv: nn.Conv2d) -> Tensor:
    """`conv(F.interpolate(x, scale_factor=factor))`, computed before the enlargement.

    x: (B, C, h, w); conv: C → K channels, 3×3, stride 1, zero padding of 1, with bias; (B, K, factor · h, factor · w).
    """
    assert conv.bias is not None
    kernel = kernel_before_nearest(conv.weight, factor)
    if x.device.type == "cpu":  # weight gradients of wide channels-last images take oneDNN two or three times as long
        x, kernel = x.contiguous(), kernel.contiguous()
    x = F.conv2d(x, kernel, conv.bias.repeat_interleave(factor**2), padding=1)  # (B, K · factor², h + 1, w + 1)
    x = x.unflatten(1, (-1, factor, factor))  # (B, K, a, b, h + 1, w + 1)
    x = torch.cat([x[:, :, :1, :, :-1], x[:, :, 1:, :, 1:]], 2)
    x = torch.cat([x[:, :, :, :1, :, :-1], x[:, :, :, 1:, :, 1:]], 3)  # (B, K, a, b, h, w)
    return pixel_shuffle(x.flatten(1, 3), factor)


def kernel_before_nearest(weight: Tensor, factor: int) -> Tensor:
    """The kernels of the same convolution before the enlargement: (K, C, 3, 3) → (K · factor², C, 2, 2)."""
    kernel = _merge_taps(weight, factor)  # (K, C, 3, b, e)
    kernel = _merge_taps(kernel.movedim(2, -1), factor)  # (K, C, b, e, a, d)
    return kernel.permute(0, 4, 2, 1, 5, 3).flatten(0, 2)  # (K, a, b, C, d, e)


def _merge_taps(taps: Tensor, factor: int) -> Tensor:
    """(…, 3) → (…, factor, 2): for each sub-pixel the sums of those taps that meet the same pixel."""
    left, centre, right = taps.unbind(-1)
    first, last = torch.stack([left, centre + right], -1), torch.stack([left + centre, right], -1)
    within = torch.stack([left + centre + right, torch.zeros_like(left)], -1)
    return torch.stack([first, *[within] * (factor - 2), last], -2)
