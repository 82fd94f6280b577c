"""Fixtures shared by the tests of the evaluation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from srgan.data.crops import SSIM_WINDOW
from srgan.data.degradation import BicubicDegradation
from srgan.evaluation.benchmarks import Benchmark, BenchmarkImage


@pytest.fixture(scope="session")
def picture() -> Callable[..., Tensor]:
    """picture(seed, height, width): (1, 3, height, width) uint8, smooth with some texture."""

    def make(seed: int, height: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
        texture = 0.1 * torch.rand(1, 3, height, width, generator=generator)
        return (smooth * 0.9 + texture).mul(255).round().byte()

    return make


@pytest.fixture(scope="session")
def write() -> Callable[[Path, Tensor], Path]:
    """write(path, image): a file of (1, 3, H, W) uint8, by Pillow."""

    def do(path: Path, image: Tensor) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(path)
        return path

    return do


class Made(Benchmark):
    """Pictures without files, LR by the degradation; lists what was read."""

    name = "Made"

    def __init__(self, images: dict[str, Tensor], scale: int) -> None:
        self.names = list(images)
        self.degradation = BicubicDegradation(scale)
        self._images = images
        self.read: list[int] = []

    def __getitem__(self, index: int) -> BenchmarkImage:
        self.read.append(index)
        hr = self._images[self.names[index]]
        return BenchmarkImage(self.names[index], self.degradation(hr), hr)


@pytest.fixture
def made(picture: Callable[..., Tensor]) -> Callable[..., Benchmark]:
    """made(scale, count): a benchmark of `count` pictures a, b, c, … as low or narrow as any that are scored."""

    def make(scale: int = 2, count: int = 3) -> Benchmark:
        least = (SSIM_WINDOW + 3 * scale) // scale
        sides = [(scale * (least + index), scale * (least + 4 - index)) for index in range(count)]
        return Made({"abcde"[i]: picture(i, *side) for i, side in enumerate(sides)}, scale)

    return make
