"""The end of a run: every stage of training scored on the test images, beside bicubic; a table and a picture."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from srgan.data.crops import WholeImages
from srgan.data.datamodule import Pair
from srgan.data.resize import imresize
from srgan.images import comparison_grid, middle, to_uint8
from srgan.metrics.lpips import LPIPS
from srgan.metrics.scores import Scores
from srgan.models.generators import Generator


class TestResult(NamedTuple):
    """Mean figures by method, and the picture that compares them, (3, H, W) uint8."""

    scores: dict[str, dict[str, float]]
    comparison: Tensor


@torch.no_grad()
def score_test(
    generators: Mapping[str, Generator],
    images: WholeImages,
    pair: Callable[[Tensor], Pair],
    scale: int,
    device: torch.device,
    lpips: LPIPS | None,
    shown: int = 4,
    side: int = 256,
) -> TestResult:
    """Score bicubic and each generator, in fp32, on the whole images; compare them on the first `shown`."""
    methods = {"bicubic": None, **{name: generator.to(device).eval() for name, generator in generators.items()}}
    scores = {name: Scores(scale, lpips) for name in methods}
    rows: list[list[Tensor]] = []
    for index in range(len(images)):
        lr, hr = pair(images[index][None].to(device))
        pictures = [lr]
        for name, generator in methods.items():
            sr = imresize(to_uint8(lr), scale) if generator is None else generator(lr)
            scores[name].update(sr, hr)
            pictures.append(sr)
        if index < shown:
            rows.append(middle([to_uint8(picture[0]).cpu() for picture in (*pictures, hr)], side, scale))
    comparison = comparison_grid(rows, ("LR", *methods, "HR"))
    return TestResult({name: score.compute() for name, score in scores.items()}, comparison)


def table(scores: Mapping[str, Mapping[str, float]], title: str) -> str:
    """The scores as text, each with its gain over bicubic in PSNR."""
    columns = list(scores["bicubic"])
    digits = {"psnr": 2}
    lines = [title, f"{'':12}" + "".join(f"{name.upper():>10}" for name in columns) + f"{'gain':>12}"]
    for method, values in scores.items():
        figures = "".join(f"{values[name]:10.{digits.get(name, 4)}f}" for name in columns)
        gain = values["psnr"] - scores["bicubic"]["psnr"]
        lines.append(f"{method:12}{figures}" + ("" if method == "bicubic" else f"{gain:+9.2f} dB"))
    return "\n".join(lines)
