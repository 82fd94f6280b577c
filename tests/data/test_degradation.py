"""The degradation from HR to LR."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from srgan.data.degradation import BicubicDegradation
from srgan.errors import UserError
from srgan.imresize import imresize


def test_without_blur_it_is_imresize_with_the_border_asked_for(noise: Callable[..., Tensor]) -> None:
    hr = noise(2, 3, 48, 24)
    for scale in (2, 3, 4, 8):
        by_default, mirrored = BicubicDegradation(scale)(hr), BicubicDegradation(scale, 0.0, "symmetric")(hr)
        assert torch.equal(by_default, imresize(hr, 1 / scale, "replicate"))
        assert torch.equal(mirrored, imresize(hr, 1 / scale, "symmetric"))
        assert not torch.equal(by_default, mirrored)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_agrees_with_scipys_gaussian(noise: Callable[..., Tensor], sigma: float) -> None:
    hr = noise(2, 3, 48, 36)
    blurred = hr.numpy().astype(np.float64)
    for axis in (2, 3):
        blurred = gaussian_filter1d(blurred, sigma, axis=axis, mode="mirror", truncate=4)
    expected = imresize(torch.from_numpy(np.rint(blurred).astype(np.uint8)), 1 / 2)
    lr = BicubicDegradation(2, sigma)(hr)
    assert lr.dtype == torch.uint8
    difference = (lr.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.2


def test_nonsense_is_refused_by_name() -> None:
    for scale in (1, -4, 2.5):
        with pytest.raises(UserError, match=f"scale {scale}: expected a whole number from 2"):
            BicubicDegradation(scale)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"blur_sigma -0\.5"):
        BicubicDegradation(4, blur_sigma=-0.5)
