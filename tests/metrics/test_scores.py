from functools import partial

import pytest
import torch
from torch import Tensor, nn

from srgan.data.degradation import BicubicDegradation
from srgan.imresize import imresize
from srgan.metrics.consistency import lr_psnr
from srgan.metrics.means import MeanScores
from srgan.metrics.measures import Measures
from srgan.metrics.protocol import MATLAB, PROTOCOLS, Protocol
from srgan.metrics.psnr import psnr
from srgan.metrics.scores import Figures, image_figures, mean, perceptual_scores, protocol_scores
from srgan.metrics.ssim import protocol_ssim


class Brightness(nn.Module):
    """In the place of a network: a distance of each image that is known."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (sr - hr).mean((1, 2, 3))


BRIGHTNESS: Measures = {"lpips_alex": Brightness()}
BICUBIC = BicubicDegradation(4)


def pictures(seed: int, count: int = 3) -> Tensor:
    return torch.rand((count, 3, 24, 24), generator=torch.Generator().manual_seed(seed))


def figures(
    sr: Tensor,
    hr: Tensor,
    lr: Tensor,
    protocols: tuple[Protocol, ...] = tuple(PROTOCOLS.values()),
    measures: Measures | None = None,
) -> Figures:
    return image_figures(sr, hr, lr, 4, protocols, BICUBIC, measures or {})


def test_the_figures_of_an_image_are_its_scores_under_each_protocol() -> None:
    sr, hr, lr = pictures(0, 1), pictures(1, 1), pictures(2, 1)[..., :6, :6]
    measured = figures(sr, hr, lr, measures=BRIGHTNESS)
    assert list(measured) == ["paper", "matlab", "rgb", "lpips_alex", "grid", "colour", "lr_psnr"]
    for name, protocol in PROTOCOLS.items():
        planes = protocol.prepare(sr, 4), protocol.prepare(hr, 4)
        assert measured[name] == {"psnr": psnr(*planes).item(), "ssim": protocol_ssim(*planes, protocol).item()}
        assert {key: value.item() for key, value in protocol_scores(sr, hr, 4, protocol).items()} == measured[name]
    assert len({measured[name]["psnr"] for name in PROTOCOLS}) == 3
    assert len({measured[name]["ssim"] for name in PROTOCOLS}) == 3
    assert measured["lpips_alex"] == pytest.approx(float((sr - hr).mean()))
    assert measured["lr_psnr"] == lr_psnr(sr, lr, BICUBIC).item()
    assert type(measured["lpips_alex"]) is type(measured["lr_psnr"]) is float


def test_an_exact_image_has_100_db_and_an_ssim_of_one() -> None:
    hr = pictures(0, 1).mul(255).round().to(torch.uint8)
    measured = figures(hr, hr, BICUBIC(hr))
    assert measured["lr_psnr"] == 100
    for name in PROTOCOLS:
        assert measured[name] == {"psnr": 100, "ssim": pytest.approx(1, abs=1e-9)}


def test_the_mean_is_taken_of_each_figure_by_itself() -> None:
    rows: list[Figures] = [
        {"paper": {"psnr": 20.0, "ssim": 0.5}, "rgb": {"psnr": 18.0, "ssim": 0.25}, "niqe": None, "lr_psnr": 40.0},
        {"paper": {"psnr": 26.0, "ssim": 0.75}, "rgb": {"psnr": 20.0, "ssim": 0.5}, "niqe": None, "lr_psnr": 100.0},
        {"paper": {"psnr": 29.0, "ssim": 1.0}, "rgb": {"psnr": 22.0, "ssim": 0.0}, "niqe": None, "lr_psnr": 100.0},
    ]
    assert mean(iter(rows)) == {
        "paper": {"psnr": 25.0, "ssim": 0.75},
        "rgb": {"psnr": 20.0, "ssim": 0.25},
        "niqe": None,
        "lr_psnr": 80.0,
    }
    assert mean({**row, "niqe": niqe} for row, niqe in zip(rows, (None, 2.0, 5.0), strict=True))["niqe"] == 3.5
    assert mean(rows[:1]) == rows[0]


# --- means over many images -------------------------------------------------------------------------------------------


def test_mean_scores_hold_the_measures_that_are_given() -> None:
    plain, more = MeanScores(4), MeanScores(4, BRIGHTNESS)
    for scores in (plain, more):
        scores.update(pictures(0), pictures(1), pictures(2)[..., :6, :6])
    assert list(plain.compute()) == ["psnr", "ssim", "grid", "colour"]
    assert list(more.compute()) == ["psnr", "ssim", "lpips_alex", "grid", "colour"]
    assert all(type(value) is float for value in more.compute().values())


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_mean_scores_are_means_over_images_whatever_the_batches(protocol: Protocol) -> None:
    sr, hr = pictures(0, 5), pictures(1, 5)
    sr[0] = hr[0]  # an exact image, so that weights matter
    lr = imresize(hr, 1 / 2).roll(1, 0)
    each = protocol_scores(sr, hr, 2, protocol)
    each |= perceptual_scores(sr, hr, lr, 2, partial(imresize, scale=1 / 2), BRIGHTNESS)
    expected = {key: value.double().mean().item() for key, value in each.items()}
    for sizes in ([5], [1, 4], [1] * 5):
        scores = MeanScores(2, BRIGHTNESS, protocol)
        for batch in zip(sr.split(sizes), hr.split(sizes), lr.split(sizes), strict=True):
            scores.update(*batch)
        assert scores.compute() == pytest.approx(expected, rel=1e-6)


def test_the_scale_decides_the_border_and_matlab_is_the_protocol_by_default() -> None:
    for scale in (2, 4):
        scores = MeanScores(scale)
        scores.update(pictures(0, 1), pictures(1, 1), imresize(pictures(1, 1), 1 / scale))
        measured = protocol_scores(pictures(0, 1), pictures(1, 1), scale, MATLAB)
        assert {key: value.item() for key, value in measured.items()}.items() <= scores.compute().items()


class OfDarkImages(nn.Module):
    """A score that is undefined for bright images, as NIQE is for small ones."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        brightness = sr.mean((1, 2, 3))
        return torch.where(brightness < 0.5, brightness, torch.nan)


def test_a_score_is_averaged_over_the_images_that_have_it_and_left_out_if_none_has() -> None:
    sr = torch.stack([torch.full((3, 24, 24), level) for level in (0.1, 0.3, 0.9)])
    scores = MeanScores(4, {"niqe": OfDarkImages()})
    scores.update(sr, sr, sr[..., :6, :6])
    assert scores.compute()["niqe"] == pytest.approx(0.2)
    scores.reset()
    scores.update(sr[2:], sr[2:], sr[2:, :, :6, :6])
    assert "niqe" not in scores.compute()
    assert figures(sr[2:], sr[2:], sr[2:, :, :6, :6], measures={"niqe": OfDarkImages()})["niqe"] is None


def test_two_processes_with_unequal_shares_find_the_mean_of_the_whole() -> None:
    sr, hr = pictures(0, 4), pictures(1, 4)
    here, there, whole = (MeanScores(2, BRIGHTNESS) for _ in range(3))
    lr = imresize(hr, 1 / 2)
    here.update(sr[:1], hr[:1], lr[:1])
    there.update(sr[1:], hr[1:], lr[1:])
    whole.update(sr, hr, lr)

    others = iter([getattr(there, name) for name in there.measured])

    def gather(mine: Tensor, group: object = None) -> list[Tensor]:
        return [mine, next(others)]

    here.dist_sync_fn, here.distributed_available_fn = gather, lambda: True
    assert here.compute() == pytest.approx(whole.compute(), rel=1e-6)


def test_mean_scores_forget_when_reset() -> None:
    scores, fresh = MeanScores(4, BRIGHTNESS), MeanScores(4, BRIGHTNESS)
    lr = imresize(pictures(2), 1 / 4)
    scores.update(pictures(0), pictures(1), lr)
    before = scores.compute()
    scores.reset()
    for each in (scores, fresh):
        each.update(pictures(2), pictures(3), lr)
    assert scores.compute() == fresh.compute()
    assert all(scores.compute()[name] != before[name] for name in before)


def test_mean_scores_add_nothing_to_the_checkpoint_of_their_holder() -> None:
    scores = MeanScores(4, {"dists": nn.Conv2d(3, 3, 3)})
    holder = nn.ModuleList([scores])
    assert holder.state_dict() == {}
    assert list(holder.parameters()) == list(scores.children()) == []
