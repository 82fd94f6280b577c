from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from srgan.data.degradation import BicubicDegradation
from srgan.metrics.lpips import LPIPS
from srgan.metrics.means import PSNR, SSIM, ImageMean, LRConsistency, MeanLPIPS, Scores
from srgan.metrics.protocol import MATLAB, PAPER, PROTOCOLS, RGB, Protocol
from srgan.metrics.scores import Figures, image_figures, mean


class Brightness(nn.Module):
    """In LPIPS' place: a distance of each image that is known."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (sr - hr).mean((1, 2, 3))


BRIGHTNESS = cast(LPIPS, Brightness())
BICUBIC = BicubicDegradation(4)


def pictures(seed: int, count: int = 3) -> Tensor:
    return torch.rand((count, 3, 24, 24), generator=torch.Generator().manual_seed(seed))


def with_distance(scale: int) -> Scores:
    return Scores(scale, BRIGHTNESS)


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


def figures(
    sr: Tensor,
    hr: Tensor,
    lr: Tensor,
    protocols: tuple[Protocol, ...] = tuple(PROTOCOLS.values()),
    lpips: LPIPS | None = None,
) -> Figures:
    return image_figures(sr, hr, lr, 4, protocols, BICUBIC, lpips)


def test_the_figures_of_an_image_are_those_of_the_metrics_under_each_protocol() -> None:
    sr, hr, lr = pictures(0, 1), pictures(1, 1), pictures(2, 1)[..., :6, :6]
    found = figures(sr, hr, lr, lpips=BRIGHTNESS)
    assert list(found) == ["paper", "matlab", "rgb", "lpips", "lr_psnr"]
    for name, protocol in PROTOCOLS.items():
        psnr, ssim = PSNR(4, protocol), SSIM(4, protocol)
        for metric in (psnr, ssim):
            metric.update(sr, hr)
        assert found[name] == {"psnr": psnr.compute().item(), "ssim": ssim.compute().item()}
    assert len({found[name]["psnr"] for name in PROTOCOLS}) == len({found[name]["ssim"] for name in PROTOCOLS}) == 3
    assert found["lpips"] == pytest.approx(float((sr - hr).mean()))
    consistency = LRConsistency(BICUBIC)
    consistency.update(sr, lr)
    assert found["lr_psnr"] == consistency.compute().item()
    assert type(found["lpips"]) is type(found["lr_psnr"]) is float


def test_only_the_protocols_asked_for_are_measured_and_lpips_is_none_without_a_network() -> None:
    found = figures(pictures(0, 1), pictures(1, 1), pictures(2, 1)[..., :6, :6], (RGB, PAPER))
    assert list(found) == ["rgb", "paper", "lpips", "lr_psnr"]
    assert found["lpips"] is None


def test_an_exact_image_has_100_db_and_an_ssim_of_one() -> None:
    hr = pictures(0, 1).mul(255).round().to(torch.uint8)
    found = figures(hr, hr, BICUBIC(hr))
    assert found["lr_psnr"] == 100
    for name in PROTOCOLS:
        assert found[name] == {"psnr": 100, "ssim": pytest.approx(1, abs=1e-9)}


def test_the_mean_is_taken_of_each_figure_by_itself() -> None:
    rows: list[Figures] = [
        {"paper": {"psnr": 20.0, "ssim": 0.5}, "rgb": {"psnr": 18.0, "ssim": 0.25}, "lpips": None, "lr_psnr": 40.0},
        {"paper": {"psnr": 26.0, "ssim": 0.75}, "rgb": {"psnr": 20.0, "ssim": 0.5}, "lpips": None, "lr_psnr": 100.0},
        {"paper": {"psnr": 29.0, "ssim": 1.0}, "rgb": {"psnr": 22.0, "ssim": 0.0}, "lpips": None, "lr_psnr": 100.0},
    ]
    assert mean(iter(rows)) == {
        "paper": {"psnr": 25.0, "ssim": 0.75},
        "rgb": {"psnr": 20.0, "ssim": 0.25},
        "lpips": None,
        "lr_psnr": 80.0,
    }
    assert mean({**row, "lpips": lpips} for row, lpips in zip(rows, (0.25, 0.0, 0.5), strict=True))["lpips"] == 0.25
    assert mean(rows[:1]) == rows[0]


def test_the_mean_of_the_figures_is_what_the_metrics_say_of_the_whole() -> None:
    sr, hr = pictures(0), pictures(1)
    lr = pictures(2)[..., :6, :6]
    rows = [figures(sr[i : i + 1], hr[i : i + 1], lr[i : i + 1], (MATLAB,), BRIGHTNESS) for i in range(3)]
    scores = with_distance(4)
    scores.update(sr, hr)
    expected = scores.compute()
    found = mean(rows)
    assert {**found["matlab"], "lpips": found["lpips"]} == pytest.approx(expected, rel=1e-6)


METRICS: dict[str, Callable[[], ImageMean]] = {
    **{f"PSNR {name}": lambda protocol=protocol: PSNR(4, protocol) for name, protocol in PROTOCOLS.items()},
    **{f"SSIM {name}": lambda protocol=protocol: SSIM(4, protocol) for name, protocol in PROTOCOLS.items()},
    "LPIPS": lambda: MeanLPIPS(BRIGHTNESS),
    "LR consistency": lambda: LRConsistency(BICUBIC),
}


@pytest.mark.parametrize("kind", METRICS.values(), ids=METRICS)
def test_every_metric_is_a_mean_over_images_whatever_the_batches(kind: Callable[[], ImageMean]) -> None:
    sr, hr = pictures(0, 5), pictures(1, 5)
    hr[0] = sr[0] + 0.01  # one nearly equal pair, so that weights matter
    references = BICUBIC(hr.mul(255).to(torch.uint8)) if kind is METRICS["LR consistency"] else hr

    def value(*sizes: int) -> float:
        metric = kind()
        for batch in zip(sr.split(sizes), references.split(sizes), strict=True):
            metric.update(*batch)
        return float(metric.compute())

    singly = [value_of_one(kind(), sr[i : i + 1], references[i : i + 1]) for i in range(5)]
    assert abs(singly[0] - singly[1]) > 1e-3
    for sizes in ([5], [1, 4], [2, 3], [1] * 5):
        assert value(*sizes) == pytest.approx(sum(singly) / 5, rel=1e-5)


def value_of_one(metric: ImageMean, sr: Tensor, reference: Tensor) -> float:
    metric.update(sr, reference)
    return float(metric.compute())
