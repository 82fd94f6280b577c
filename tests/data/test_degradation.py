"""The degradation from HR to LR."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from srgan.data.degradation import BicubicDegradation
from srgan.errors import UserError
from srgan.imresize import imresize

SCALES = (2, 3, 4, 8)


def roughness(images: Tensor) -> float:
    """Mean step between neighbours, in levels."""
    return float(images.float().diff(dim=-1).abs().mean() + images.float().diff(dim=-2).abs().mean())


@pytest.mark.parametrize("blur_sigma", [0.0, 1.0])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("leading", [(3,), (5, 3)])
def test_lr_is_8_bit_and_smaller_by_the_scale(
    noise: Callable[..., Tensor], leading: tuple[int, ...], scale: int, blur_sigma: float
) -> None:
    lr = BicubicDegradation(scale, blur_sigma)(noise(*leading, 6 * scale, 4 * scale))
    assert lr.shape == (*leading, 6, 4)
    assert lr.dtype == torch.uint8


@pytest.mark.parametrize("blur_sigma", [0.0, 1.3])
@pytest.mark.parametrize("scale", SCALES)
def test_a_batch_equals_its_images_one_by_one(noise: Callable[..., Tensor], scale: int, blur_sigma: float) -> None:
    degradation, hr = BicubicDegradation(scale, blur_sigma), noise(4, 3, 48, 24)
    assert torch.equal(degradation(hr), torch.stack([degradation(image) for image in hr]))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_by_default_lr_is_that_of_the_published_files(shared: Path, scale: int) -> None:
    folder = shared / "data/benchmarks/Set5" / f"x{scale}"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which is not here")
    hr, lr = (
        torch.from_numpy(np.asarray(Image.open(folder / kind / "img_003.png").convert("RGB")).copy()).permute(2, 0, 1)
        for kind in ("HR", "LR")
    )
    assert torch.equal(BicubicDegradation(scale)(hr), lr)


@pytest.mark.parametrize("scale", SCALES)
def test_the_wider_the_blur_the_smoother_the_lr(noise: Callable[..., Tensor], scale: int) -> None:
    hr = noise(1, 3, 96, 96)
    steps = [roughness(BicubicDegradation(scale, sigma)(hr)) for sigma in (0.0, 0.5 * scale, scale)]
    assert steps[0] > 1.1 * steps[1] > 1.1**2 * steps[2]


@pytest.mark.parametrize("value", [0, 93, 255])
@pytest.mark.parametrize("scale", SCALES)
def test_blur_keeps_a_constant_image(scale: int, value: int) -> None:
    hr = torch.full((1, 3, 48, 48), value, dtype=torch.uint8)
    assert BicubicDegradation(scale, 1.5)(hr).unique().tolist() == [value]


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_agrees_with_scipys_gaussian(noise: Callable[..., Tensor], sigma: float) -> None:
    hr = noise(3, 48, 36)
    blurred = hr.numpy().astype(np.float64)
    for axis in (1, 2):
        blurred = gaussian_filter1d(blurred, sigma, axis=axis, mode="mirror", truncate=4)
    expected = imresize(torch.from_numpy(np.rint(blurred).astype(np.uint8)), 1 / 2)
    difference = BicubicDegradation(2, sigma)(hr).int() - expected.int()
    assert difference.abs().max() <= 1
    assert difference.abs().float().mean() < 0.2


@pytest.mark.parametrize("scale", [1, 0, -4])
def test_a_scale_below_two_is_refused_by_name(scale: int) -> None:
    with pytest.raises(UserError, match=f"scale {scale}"):
        BicubicDegradation(scale)


def test_a_negative_blur_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"blur_sigma -0\.5"):
        BicubicDegradation(4, blur_sigma=-0.5)
