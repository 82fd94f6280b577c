from typing import cast

import pytest
import torch
from torch import Tensor, nn

from srgan.metrics.lpips import LPIPS
from srgan.metrics.psnr import PSNR
from srgan.metrics.scores import Scores
from srgan.metrics.ssim import SSIM


class Brightness(nn.Module):
    """In LPIPS' place: a distance of each image that is known."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (sr - hr).mean((1, 2, 3))


def pictures(seed: int, count: int = 3) -> Tensor:
    return torch.rand((count, 3, 24, 24), generator=torch.Generator().manual_seed(seed))


def with_distance(scale: int) -> Scores:
    return Scores(scale, cast(LPIPS, Brightness()))


def test_psnr_and_ssim_are_measured_and_lpips_only_if_given() -> None:
    plain, more = Scores(4), with_distance(4)
    for scores in (plain, more):
        scores.update(pictures(0), pictures(1))
    assert list(plain.compute()) == ["psnr", "ssim"]
    assert list(more.compute()) == ["psnr", "ssim", "lpips"]
    assert all(type(value) is float for value in more.compute().values())


@pytest.mark.parametrize("scale", [2, 4])
def test_each_figure_stands_under_its_name(scale: int) -> None:
    scores, psnr, ssim = Scores(scale), PSNR(scale), SSIM(scale)
    for metric in (scores, psnr, ssim):
        metric.update(pictures(0), pictures(1))
    assert scores.compute() == {"psnr": psnr.compute().item(), "ssim": ssim.compute().item()}


def test_lpips_is_a_mean_over_images_not_over_batches() -> None:
    scores, hr = with_distance(2), torch.zeros(3, 3, 24, 24)
    scores.update(hr + 0.8, hr)
    scores.update(hr[:1], hr[:1])
    assert scores.compute()["lpips"] == pytest.approx(3 * 0.8 / 4)


def test_scores_forget_when_reset() -> None:
    scores, fresh = with_distance(4), with_distance(4)
    scores.update(pictures(0), pictures(1))
    before = scores.compute()
    scores.reset()
    for each in (scores, fresh):
        each.update(pictures(2), pictures(3))
    assert scores.compute() == fresh.compute()
    assert all(scores.compute()[name] != before[name] for name in before)


def test_scores_add_nothing_to_the_checkpoint_of_their_holder() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = Scores(4, cast(LPIPS, nn.Conv2d(3, 3, 3)))

    assert Holder().state_dict() == {}
    assert list(Holder().parameters()) == []
