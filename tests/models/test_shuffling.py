"""The proof of the faster orders: a convolution before an enlargement is the one after it, gradients included."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.models.shuffling import PixelShuffleStage, ResizeStage, Upsampling, shuffle_channels_last


@pytest.mark.parametrize("factor", [2, 3])
def test_a_new_pixel_shuffle_stage_leaves_no_checkerboard(factor: int) -> None:
    torch.manual_seed(0)
    y = PixelShuffleStage(8, factor)(torch.rand(2, 8, 5, 6) - 0.5)
    assert y.shape == (2, 8, 5 * factor, 6 * factor)
    blocks = F.interpolate(y[..., ::factor, ::factor], scale_factor=factor, mode="nearest")
    torch.testing.assert_close(y, blocks)
    assert y.std((2, 3)).min() > 1e-3, "an image of one value would have no checkerboard either"
    assert y.std(1).max() > 1e-3, "channels must not be copies of each other"


@pytest.mark.parametrize("factor", [2, 3])
def test_the_shuffle_of_a_gpus_layout_is_torchs_and_keeps_the_layout(factor: int) -> None:
    x = torch.randn(2, 3 * factor**2, 4, 5).to(memory_format=torch.channels_last)
    y = shuffle_channels_last(x, factor)
    assert torch.equal(y, F.pixel_shuffle(x, factor)) and y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("side", "factors"), [(9, (2,)), (9, (3,)), (3, (2, 2)), (3, (3,)), (5, (4,)), (1, (2,))])
def test_a_convolution_before_the_shuffle_is_the_one_after_it(side: int, factors: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    upsampling, conv = Upsampling(4, factors).double(), nn.Conv2d(4, 3, side, padding=side // 2).double()
    for name, slope in upsampling.named_parameters():
        if name.endswith(".2.weight"):
            nn.init.constant_(slope, 0.3)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    results: list[tuple[Tensor, ...]] = []
    for sr in (conv(upsampling(x)), upsampling.then(conv, x)):
        inputs = [x, *upsampling.parameters(), *conv.parameters()]
        results.append((sr, *torch.autograd.grad(sr.square().sum(), inputs)))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_convolution_before_the_nearest_enlargement_is_the_one_after_it(factor: int) -> None:
    torch.manual_seed(0)
    stage = ResizeStage(5, factor, nn.Identity, inputs=4).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    results: list[tuple[Tensor, ...]] = []
    for y in (nn.Sequential(*stage)(x), stage(x)):
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *stage.parameters()])))
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)
