from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from srgan.evaluation.benchmarks import Benchmark, BenchmarkImage
from srgan.evaluation.methods import Bicubic, Method
from srgan.evaluation.score import Evaluation, evaluate, over_seeds
from srgan.images import to_uint8
from srgan.metrics.protocol import MATLAB, PAPER, PROTOCOLS
from srgan.metrics.scores import image_figures

CPU = torch.device("cpu")
Make = Callable[..., Benchmark]


class Wrong(Method):
    """The HR and an error that grows with `by`, in float; counts its calls."""

    def __init__(self, by: float, label: str = "wrong", configuration: Any = None, seed: int | None = None) -> None:
        self.by, self.label, self.configuration, self.seed = by, label, configuration, seed
        self.seen: list[str] = []

    def __call__(self, image: BenchmarkImage) -> Tensor:
        self.seen.append(image.name)
        noise = torch.rand(image.hr.shape, generator=torch.Generator().manual_seed(len(self.seen)))
        return image.hr.float() / 255 + self.by * (noise - 0.5)


class Distance(nn.Module):
    """Stands for LPIPS."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        assert sr.dtype == hr.dtype == torch.uint8
        return (sr.float() - hr.float()).abs().mean((1, 2, 3)) / 255


class Features:
    """Stands for FID: keeps what it is given."""

    def __init__(self) -> None:
        self.hr: list[Tensor] = []
        self.sr: dict[str, list[Tensor]] = {}

    def add_hr(self, hr: Tensor) -> None:
        self.hr.append(hr)

    def add_sr(self, method: str, sr: Tensor) -> None:
        self.sr.setdefault(method, []).append(sr)

    def compute(self) -> dict[str, float]:
        return {name: 10.0 + index for index, name in enumerate(self.sr)}


def test_the_figures_of_each_image_are_those_of_the_metrics(made: Make) -> None:
    scale = 3
    benchmark, method = made(scale), Wrong(0.2)
    result = evaluate({"bicubic": Bicubic(scale), "mine": method}, benchmark, CPU, measures={"lpips_alex": Distance()})
    assert (result.benchmark, result.scale) == ("Made", scale)
    assert result.labels == {"bicubic": "bicubic", "mine": "wrong"}
    assert list(result.figures["mine"]) == ["a", "b", "c"]
    again = Wrong(0.2)
    for image in (benchmark[index] for index in range(3)):
        for name, made_by in (("bicubic", Bicubic(scale)), ("mine", again)):
            sr = to_uint8(made_by(image))
            measures: dict[str, nn.Module] = {"lpips_alex": Distance()}
            expected = image_figures(sr, image.hr, image.lr, scale, PROTOCOLS.values(), benchmark.degradation, measures)
            assert result.figures[name][image.name] == expected
            assert list(expected) == [*PROTOCOLS, "lpips_alex", "grid", "colour", "lr_psnr"]


def test_means_are_over_images(made: Make) -> None:
    result = evaluate({"bicubic": Bicubic(2)}, made(), CPU, measures={"lpips_alex": Distance()})
    images, mean = list(result.figures["bicubic"].values()), result.mean("bicubic")
    assert len({image["matlab"]["psnr"] for image in images}) == 3
    for protocol in PROTOCOLS:
        for figure in ("psnr", "ssim"):
            assert mean[protocol][figure] == pytest.approx(fmean(image[protocol][figure] for image in images))
    for figure in ("lpips_alex", "grid", "colour", "lr_psnr"):
        assert mean[figure] == pytest.approx(fmean(image[figure] for image in images))
    assert "fid" not in mean


def test_only_the_protocols_and_measures_asked_for_are_measured(made: Make) -> None:
    result = evaluate({"bicubic": Bicubic(2)}, made(), CPU, protocols=[PAPER])
    for figures in (*result.figures["bicubic"].values(), result.mean("bicubic")):
        assert list(figures) == ["paper", "grid", "colour", "lr_psnr"]


def test_an_exact_sr_is_a_finite_figure(made: Make) -> None:
    result = evaluate({"bicubic": Bicubic(2), "hr": Wrong(0)}, made(), CPU)
    assert result.mean("hr") == {
        **{name: {"psnr": 100, "ssim": pytest.approx(1)} for name in PROTOCOLS}, "grid": 0, "colour": 0, "lr_psnr": 100,
    }  # fmt: skip


def test_an_image_is_read_once_and_a_method_runs_once_for_it_whatever_is_measured(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, method = made(), Wrong(0.1)
    read: list[int] = []
    original = type(benchmark).__getitem__
    monkeypatch.setattr(type(benchmark), "__getitem__", lambda self, i: (read.append(i), original(self, i))[1])
    methods: dict[str, Method] = {"bicubic": Bicubic(2), "mine": method}
    fid: Any = Features()
    evaluate(methods, benchmark, CPU, measures={"lpips_alex": Distance()}, fid=fid, folder=tmp_path, saved="all")
    assert method.seen == ["a", "b", "c"]
    assert read == [0, 1, 2]


@pytest.mark.parametrize(("shown", "names"), [(0, ""), (2, "ac"), (3, "abd"), (9, "abcde")])
def test_shown_images_are_evenly_spaced(made: Make, shown: int, names: str) -> None:
    result = evaluate({"bicubic": Bicubic(2)}, made(count=5), CPU, protocols=[MATLAB], shown=shown)
    assert "".join(scored.image.name for scored in result.shown) == names
    assert len(result.figures["bicubic"]) == 5


def test_what_is_shown_is_the_sr_as_8_bits(made: Make) -> None:
    benchmark = made()
    result = evaluate({"bicubic": Bicubic(2), "mine": Wrong(0.3)}, benchmark, CPU, protocols=[MATLAB], shown=3)
    assert len(result.shown) == 3
    again = Wrong(0.3)
    for index, scored in enumerate(result.shown):
        assert torch.equal(scored.image.hr, benchmark[index].hr) and torch.equal(scored.image.lr, benchmark[index].lr)
        assert torch.equal(scored.sr["mine"], to_uint8(again(benchmark[index])))
        assert scored.figures["mine"] == result.figures["mine"][scored.image.name]


@pytest.mark.parametrize(("saved", "images"), [("all", "abcde"), ("shown", "ac"), ("none", "")])
def test_saved_pictures_are_what_was_scored(made: Make, tmp_path: Path, saved: Any, images: str) -> None:
    benchmark = made(count=5)
    methods = {"bicubic": Bicubic(2), "mine": Wrong(0.3, "my method")}
    evaluate(methods, benchmark, CPU, protocols=[MATLAB], shown=2, folder=tmp_path, saved=saved)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert files == {f"{label}/{name}.png" for label in ("lr", "hr", "bicubic", "my method") for name in images}
    again = Wrong(0.3)
    for index, name in enumerate(benchmark.names):
        image = benchmark[index]
        expected = {"lr": image.lr, "hr": image.hr, "bicubic": Bicubic(2)(image), "my method": to_uint8(again(image))}
        for label, pixels in expected.items() if name in images else ():
            with Image.open(tmp_path / label / f"{name}.png") as file:
                assert torch.equal(torch.from_numpy(np.array(file)).permute(2, 0, 1), pixels[0])


def test_fid_gets_every_8_bit_picture_and_its_values_are_the_means(made: Make) -> None:
    benchmark = made()
    features: Any = Features()
    methods = {"bicubic": Bicubic(2), "mine": Wrong(0.3)}
    result = evaluate(methods, benchmark, CPU, protocols=[MATLAB], fid=features)
    again = Wrong(0.3)
    for index in range(3):
        assert torch.equal(features.hr[index], benchmark[index].hr)
        assert torch.equal(features.sr["mine"][index], to_uint8(again(benchmark[index])))
    assert len(features.hr) == len(features.sr["bicubic"]) == 3
    assert (result.mean("bicubic")["fid"], result.mean("mine")["fid"]) == (10.0, 11.0)
    assert "fid" not in result.figures["mine"]["a"]
    assert result.content()["models"]["mine"]["mean"]["fid"] == 11.0


# --- several seeds ----------------------------------------------------------------------------------------------------


def trained(seed: int | None, configuration: Any = "one") -> Wrong:
    return Wrong(0, f"{configuration}-{seed}", configuration, seed)


def with_means(**psnr: float) -> Evaluation:
    def figures(value: float) -> dict[str, Any]:
        return {"matlab": {"psnr": value, "ssim": value / 100}, "niqe": None, "lr_psnr": 2 * value}

    rows = {name: {"a": figures(value - 3), "b": figures(value + 3)} for name, value in psnr.items()}
    return Evaluation(benchmark="Made", scale=2, labels=dict.fromkeys(psnr, ""), figures=rows)


def test_the_deviation_over_seeds_is_of_the_means_by_hand() -> None:
    result = with_means(bicubic=20, x=27, y=28, z=32)
    methods = {"bicubic": Bicubic(2), "x": trained(5), "y": trained(7), "z": trained(6)}
    (group,) = over_seeds(result, methods)
    assert (group.label, group.models, group.seeds) == ("one-5, one-7, one-6", ["x", "y", "z"], [5, 7, 6])
    assert group.mean["matlab"]["psnr"] == pytest.approx(29)  # (27 + 28 + 32) / 3
    assert group.std["matlab"]["psnr"] == pytest.approx(7**0.5)  # √((4 + 1 + 9) / 2)
    assert group.std["matlab"]["ssim"] == pytest.approx(7**0.5 / 100)
    assert group.std["lr_psnr"] == pytest.approx(2 * 7**0.5)
    assert group.mean["niqe"] is None and group.std["niqe"] is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (trained(1), trained(2, "two")),
        (trained(1), trained(1)),
        (trained(1), trained(None)),
        (trained(None), trained(None)),
        (trained(1, None), trained(2, None)),
    ],
)
def test_only_what_differs_by_its_seed_alone_is_put_together(first: Method, second: Method) -> None:
    assert over_seeds(with_means(x=27, y=28), {"x": first, "y": second}) == []


def test_several_configurations_are_kept_apart() -> None:
    methods = {"x": trained(1), "y": trained(1, "two"), "z": trained(2), "u": trained(2, "two"), "v": trained(1)}
    groups = over_seeds(with_means(x=20, y=30, z=22, u=34, v=50), methods)
    assert [group.models for group in groups] == [["x", "z"], ["y", "u"]]
    assert [group.mean["matlab"]["psnr"] for group in groups] == [pytest.approx(21), pytest.approx(32)]


def test_fid_too_has_a_deviation_over_seeds() -> None:
    result = with_means(x=20, y=22)
    result.fid = {"x": 5.0, "y": 9.0}
    (group,) = over_seeds(result, {"x": trained(1), "y": trained(2)})
    assert (group.mean["fid"], group.std["fid"]) == (7.0, pytest.approx(8**0.5))
