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


@pytest.mark.parametrize("blur_sigma", [0.0, 1.3])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_a_batch_gives_the_lr_of_its_images_smaller_by_the_scale(
    noise: Callable[..., Tensor], scale: int, blur_sigma: float
) -> None:
    degradation, hr = BicubicDegradation(scale, blur_sigma), noise(3, 3, 6 * scale, 4 * scale)
    lr = degradation(hr)
    assert lr.shape == (3, 3, 6, 4)
    assert lr.dtype == torch.uint8
    assert torch.equal(lr, torch.stack([degradation(image) for image in hr]))


def test_without_blur_lr_is_that_of_the_published_files(shared: Path) -> None:
    for scale in (2, 3, 4):
        folder = shared / "data/benchmarks/Set5" / f"x{scale}"
        if not folder.is_dir():
            pytest.skip(f"needs {folder}, which is not here")
        hr, lr = (
            torch.from_numpy(np.array(Image.open(folder / kind / "img_003.png").convert("RGB"))).permute(2, 0, 1)
            for kind in ("HR", "LR")
        )
        assert torch.equal(BicubicDegradation(scale, blur_sigma=0.0)(hr), lr)


def test_the_border_is_that_asked_for(noise: Callable[..., Tensor]) -> None:
    hr = noise(3, 16, 16)
    lr = BicubicDegradation(4, blur_sigma=0.0, border="symmetric")(hr)
    assert torch.equal(lr, imresize(hr, 1 / 4, "symmetric"))
    assert not torch.equal(lr, imresize(hr, 1 / 4, "replicate"))


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


def test_nonsense_is_refused_by_name() -> None:
    for scale in (1, 0, -4, 2.5):
        with pytest.raises(UserError, match=f"scale {scale}: expected a whole number from 2"):
            BicubicDegradation(scale, blur_sigma=0.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"blur_sigma -0\.5"):
        BicubicDegradation(4, blur_sigma=-0.5)
