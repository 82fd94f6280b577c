"""The proof of the faster order: a convolution before the pixel shuffle is the one after it, gradients included."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.models.shuffling import PixelShuffleStage, Upsampling, convolve_before_shuffle


@pytest.mark.parametrize("factor", [2, 3])
def test_a_new_pixel_shuffle_stage_leaves_no_checkerboard(factor: int) -> None:
    torch.manual_seed(0)
    y = PixelShuffleStage(8, factor)(torch.rand(2, 8, 5, 6) - 0.5)
    assert y.shape == (2, 8, 5 * factor, 6 * factor)
    blocks = F.interpolate(y[..., ::factor, ::factor], scale_factor=factor, mode="nearest")
    torch.testing.assert_close(y, blocks)
    assert y.std((2, 3)).min() > 1e-3, "an image of one value would have no checkerboard either"
    assert y.std(1).max() > 1e-3, "channels must not be copies of each other"


@pytest.mark.parametrize(("side", "factor"), [(9, 2), (3, 2), (9, 3), (3, 3), (5, 4), (1, 2)])
def test_a_convolution_before_the_shuffle_is_the_one_after_it(side: int, factor: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 3, side, padding=side // 2)
    x = torch.randn(2, 4 * factor**2, 5, 7, requires_grad=True)
    results: list[tuple[Tensor, ...]] = []
    for sr in (conv(F.pixel_shuffle(x, factor)), convolve_before_shuffle(x, factor, conv)):
        results.append((sr, *torch.autograd.grad(sr.square().sum(), [x, *conv.parameters()])))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("factors", [(2,), (3,), (2, 2)])
def test_upsampling_then_a_convolution_is_the_convolution_of_the_upsampled(factors: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    upsampling, conv = Upsampling(4, factors).double(), nn.Conv2d(4, 3, 9, padding=4).double()
    for module in upsampling.modules():
        if isinstance(module, nn.PReLU):
            nn.init.constant_(module.weight, 0.3)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(upsampling.then(conv, x), conv(upsampling(x)))
