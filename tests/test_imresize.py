"""MATLAB's imresize: the published files, exact arithmetic in plain loops, and gradients."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from srgan.images import decode
from srgan.imresize import Border, imresize, resize_matrix

SCALES = [Fraction(1, factor) for factor in (2, 3, 4, 8)] + [Fraction(factor) for factor in (2, 3, 4, 8)]
BORDERS: tuple[Border, ...] = ("replicate", "symmetric")


def kernel(x: Fraction) -> Fraction:
    a, x = Fraction(-1, 2), abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


@cache
def taps(length: int, scale: Fraction) -> list[list[tuple[int, Fraction]]]:
    """For each pixel of a resized line the pixels, counted from 1, that it is a mean of, and their weights."""
    stretch = min(scale, Fraction(1))
    support = 4 / stretch
    found: list[list[tuple[int, Fraction]]] = []
    for x in range(1, math.ceil(scale * length) + 1):
        u = x / scale + (1 - 1 / scale) / 2
        first = math.floor(u - support / 2)
        weights = {tap: kernel(stretch * (u - tap)) for tap in range(first, first + math.ceil(support) + 2)}
        found.append([(tap, weight / sum(weights.values())) for tap, weight in weights.items() if weight])
    return found


def resize_line(line: Sequence[int], scale: Fraction, border: Border) -> list[int]:
    beyond = math.ceil(4 / min(scale, Fraction(1))) + 2
    padded = np.pad(line, beyond, mode="edge" if border == "replicate" else "symmetric").tolist()
    means = (sum(weight * padded[beyond + tap - 1] for tap, weight in pixel) for pixel in taps(len(line), scale))
    return [min(max(math.floor(mean + Fraction(1, 2)), 0), 255) for mean in means]


def imresize_by_loops(image: Tensor, scale: Fraction, border: Border) -> Tensor:
    """PROTOCOL.md's imresize of one channel (H, W), in exact fractions."""
    columns = [resize_line(column, scale, border) for column in image.T.tolist()]
    rows = [resize_line(row, scale, border) for row in zip(*columns, strict=True)]
    return torch.tensor(rows, dtype=torch.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_of_set5_has_no_differing_pixel(shared: Path, scale: int) -> None:
    folder = shared / f"data/benchmarks/Set5/x{scale}"
    files = sorted((folder / "HR").glob("*.png"))
    assert len(files) == 5
    for file in files:
        hr, lr = (decode((folder / kind / file.name).read_bytes(), file.name) for kind in ("HR", "LR"))
        assert torch.equal(imresize(hr, 1 / scale), lr)
        resized = imresize(torch.stack([hr.flip(-1), hr.flip(-2)]), 1 / scale)
        assert torch.equal(resized, torch.stack([lr.flip(-1), lr.flip(-2)]))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_8_bit_images_agree_with_exact_loops(noise: Callable[..., Tensor], scale: Fraction, border: Border) -> None:
    image = noise(29, 21) if scale < 1 else noise(5, 4)
    extremes = (image > 127).to(torch.uint8) * 255  # rings beyond 0…255, which each pass has to clamp
    for pixels in (image, extremes, noise(3, 1)):
        assert torch.equal(imresize(pixels, float(scale), border), imresize_by_loops(pixels, scale, border))


@pytest.mark.parametrize("scale", [1 / 3, 2])
def test_floats_are_multiplied_by_the_matrices_with_right_gradients(generator: torch.Generator, scale: float) -> None:
    """Neither rounded nor clamped, under autocast too, and after the same resize in inference mode."""
    edge = torch.zeros(2, 24, 20)
    edge[0, :, 13:], edge[1, 11:] = 1, 1
    rows, columns = (resize_matrix(length, scale, "replicate") for length in (24, 20))
    expected = rows @ edge.double() @ columns.T
    assert expected.min() < 0
    assert expected.max() > 1
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            resized = imresize(edge, scale)
        assert resized.dtype == torch.float32
        torch.testing.assert_close(resized, expected.float(), rtol=0, atol=1e-6)
    images = torch.rand(1, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    resize_matrix.cache_clear()
    with torch.inference_mode():
        imresize(images, scale)
    assert torch.autograd.gradcheck(lambda x: imresize(x, scale), images)


@pytest.mark.gpu
def test_cuda_resizes_to_the_same_bits(noise: Callable[..., Tensor]) -> None:
    images = noise(4, 3, 96, 72)
    for scale in (1 / 2, 1 / 3, 1 / 4, 1 / 8, 3):
        assert torch.equal(imresize(images.cuda(), scale).cpu(), imresize(images, scale))
