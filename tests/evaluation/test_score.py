from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import Mock

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
    """The HR and an error that grows with `by`, in float, another one at each call."""

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


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_an_image_is_read_once_and_each_sr_made_once_and_what_is_kept_and_scored_is_its_8_bits(
    made: Make, tmp_path: Path, scale: int
) -> None:
    benchmark, mine, again = made(scale), Wrong(0.3), Wrong(0.3)
    fid = Mock(**{"compute.return_value": {"bicubic": 10.0, "mine": 11.0}})
    methods, options = {"bicubic": Bicubic(scale), "mine": mine}, {"folder": tmp_path, "saved": "all", "shown": 3}
    result = evaluate(methods, benchmark, CPU, measures={"lpips_alex": Distance()}, fid=fid, **options)
    assert (mine.seen, benchmark.read) == (["a", "b", "c"], [0, 1, 2])
    assert (result.benchmark, result.scale) == ("Made", scale)
    assert result.labels == {"bicubic": "bicubic", "mine": "wrong"}
    hr_given = [call.args[0] for call in fid.add_hr.call_args_list]
    sr_given = [call.args for call in fid.add_sr.call_args_list]
    assert (len(hr_given), [name for name, _ in sr_given]) == (3, ["bicubic", "mine"] * 3)
    for index, scored in enumerate(result.shown):
        image = benchmark[index]
        assert scored.image.name == image.name and torch.equal(scored.image.lr, image.lr)
        assert torch.equal(scored.image.hr, image.hr) and torch.equal(hr_given[index], image.hr)
        for position, (name, method) in enumerate({"bicubic": Bicubic(scale), "mine": again}.items()):
            sr = to_uint8(method(image))
            assert torch.equal(scored.sr[name], sr) and torch.equal(sr_given[2 * index + position][1], sr)
            measures: dict[str, nn.Module] = {"lpips_alex": Distance()}
            expected = image_figures(sr, image.hr, image.lr, scale, PROTOCOLS.values(), benchmark.degradation, measures)
            assert list(expected) == [*PROTOCOLS, "lpips_alex", "grid", "colour", "lr_psnr"]
            assert result.figures[name][image.name] == scored.figures[name] == expected
    mean = result.content()["models"]["mine"]["mean"]
    assert mean == result.mean("mine") and (mean["fid"], result.mean("bicubic")["fid"]) == (11.0, 10.0)
    for figure in ("psnr", "ssim"):
        images = [figures["matlab"][figure] for figures in result.figures["mine"].values()]
        assert len(set(images)) == 3 and mean["matlab"][figure] == pytest.approx(fmean(images))


def test_only_the_protocols_and_measures_asked_for_are_measured(made: Make) -> None:
    result = evaluate({"bicubic": Bicubic(2), "hr": Wrong(0)}, made(), CPU, protocols=[PAPER])
    for figures in (*result.figures["bicubic"].values(), result.mean("bicubic")):
        assert list(figures) == ["paper", "grid", "colour", "lr_psnr"]
    exact = {"psnr": 100, "ssim": pytest.approx(1)}
    assert result.mean("hr") == {"paper": exact, "grid": 0, "colour": 0, "lr_psnr": 100}


@pytest.mark.parametrize(
    ("shown", "kept", "saved", "written"),
    [
        (0, "", "none", ""),
        (2, "ac", "all", "abcde"),
        (3, "abd", "shown", "abd"),
        (9, "abcde", "all", "abcde"),
        (9, "abcde", "none", ""),
    ],
)
def test_shown_images_are_evenly_spaced_and_saved_pictures_are_what_was_scored(
    made: Make, tmp_path: Path, shown: int, kept: str, saved: Any, written: str
) -> None:
    methods = {"bicubic": Bicubic(2), "mine": Wrong(0.3, "my method")}
    result = evaluate(methods, made(count=5), CPU, protocols=[MATLAB], shown=shown, folder=tmp_path, saved=saved)
    assert [len(figures) for figures in result.figures.values()] == [5, 5]
    assert "".join(scored.image.name for scored in result.shown) == kept
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert files == {f"{label}/{name}.png" for label in ("lr", "hr", "bicubic", "my method") for name in written}
    for image, sr, _ in result.shown if written else ():
        expected = {"lr": image.lr, "hr": image.hr, "bicubic": sr["bicubic"], "my method": sr["mine"]}
        for label, pixels in expected.items():
            with Image.open(tmp_path / label / f"{image.name}.png") as file:
                assert torch.equal(torch.from_numpy(np.array(file)).permute(2, 0, 1), pixels[0])


def test_pictures_are_written_below_the_folder_whatever_the_label(made: Make, tmp_path: Path) -> None:
    methods = {"a": Wrong(0.3, f"{tmp_path}/elsewhere/net"), "b": Wrong(0.3, "../sr")}
    evaluate(methods, made(count=1), CPU, protocols=[MATLAB], folder=tmp_path / "run/pictures", saved="all")
    written = {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.png")}
    assert written == {("run", "pictures")}
    assert (tmp_path / "run/pictures/sr").is_dir()


def trained(seed: int | None, configuration: Any = "one") -> Wrong:
    return Wrong(0, f"{configuration}-{seed}", configuration, seed)


def with_means(**psnr: float) -> Evaluation:
    def figures(value: float) -> dict[str, Any]:
        return {"matlab": {"psnr": value, "ssim": value / 100}, "niqe": None, "lr_psnr": 2 * value}

    rows = {name: {"a": figures(value - 3), "b": figures(value + 3)} for name, value in psnr.items()}
    return Evaluation(benchmark="Made", scale=2, labels=dict.fromkeys(psnr, ""), figures=rows)


def test_the_deviation_over_seeds_is_of_the_means_by_hand() -> None:
    result = with_means(bicubic=20, x=27, y=28, z=32)
    result.fid = {"x": 5.0, "y": 9.0, "z": 10.0}
    methods = {"bicubic": Bicubic(2), "x": trained(5), "y": trained(7), "z": trained(6)}
    (group,) = over_seeds(result, methods)
    assert (group.label, group.models, group.seeds) == ("one-5, one-7, one-6", ["x", "y", "z"], [5, 7, 6])
    assert group.mean["matlab"]["psnr"] == pytest.approx(29)  # (27 + 28 + 32) / 3
    assert group.std["matlab"]["psnr"] == pytest.approx(7**0.5)  # √((4 + 1 + 9) / 2)
    assert group.std["matlab"]["ssim"] == pytest.approx(7**0.5 / 100)
    assert group.std["lr_psnr"] == pytest.approx(2 * 7**0.5)
    assert (group.mean["fid"], group.std["fid"]) == (pytest.approx(8), pytest.approx(7**0.5))
    assert group.mean["niqe"] is None and group.std["niqe"] is None


def test_only_what_differs_by_its_seed_alone_is_put_together() -> None:
    seeds = [1, 1, 2, 2, 1, None, None, 3, 4, 5]
    configurations = ["one", "two", "one", "two", "one", "one", "one", None, None, "three"]
    methods = {name: trained(*given) for name, *given in zip("abcdefghij", seeds, configurations, strict=True)}
    means = {name: 20.0 + 10 * index for index, name in enumerate(methods)}
    groups = over_seeds(with_means(**means), methods)
    assert [group.models for group in groups] == [["a", "c"], ["b", "d"]]
    assert [group.mean["matlab"]["psnr"] for group in groups] == [pytest.approx(30), pytest.approx(40)]
