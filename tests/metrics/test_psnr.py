import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from srgan.metrics.protocol import MATLAB
from srgan.metrics.psnr import psnr
from srgan.metrics.scores import protocol_scores


def planes(seed: int, count: int = 3, channels: int = 1) -> Tensor:
    return 255 * torch.rand(
        (count, channels, 13, 17), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def pictures_with_noise(levels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """8-bit pairs, one for each level of noise."""
    rng = np.random.default_rng(0)
    hr = rng.integers(0, 256, (len(levels), 3, 32, 36))
    noise = np.stack([rng.integers(-level, level + 1, hr.shape[1:]) for level in levels])
    return torch.from_numpy((hr + noise).clip(0, 255).astype(np.uint8)), torch.from_numpy(hr.astype(np.uint8))


def reference(sr: Tensor, hr: Tensor, border: int) -> float:
    """PSNR on the rounded luma of one 8-bit image, all of it by scikit-image."""
    y = [np.floor(rgb2ycbcr(x.permute(1, 2, 0).numpy())[border:-border, border:-border, 0] + 0.5) for x in (hr, sr)]
    return float(peak_signal_noise_ratio(*y, data_range=255))


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_of_each_image_is_scikit_images(channels: int) -> None:
    x, y = planes(0, channels=channels), planes(1, channels=channels)
    expected = [peak_signal_noise_ratio(b.numpy(), a.numpy(), data_range=255) for a, b in zip(x, y, strict=True)]
    values = psnr(x, y)
    assert values.dtype == torch.float64
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-12)


def test_8_bit_planes_do_not_wrap_around() -> None:
    x, y = (plane.round().to(torch.uint8) for plane in (planes(0), planes(1)))
    assert torch.equal(psnr(x, y), psnr(x.double(), y.double()))


def test_psnr_of_an_error_of_one_everywhere_is_48_dot_13() -> None:
    x = planes(0)
    np.testing.assert_allclose(psnr(x, x + 1), [20 * math.log10(255)] * 3)


def test_psnr_of_equal_images_is_infinite() -> None:
    values = psnr(planes(0), torch.cat([planes(0)[:2], planes(1)[:1]]))
    assert values.isinf().tolist() == [True, True, False]


@pytest.mark.parametrize("shape", [(3, 1, 13, 16), (1, 1, 13, 17), (3, 3, 13, 17)])
def test_images_of_different_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(planes(0), torch.zeros(shape))


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_under_the_matlab_protocol_it_is_scikit_images_on_rounded_luma(scale: int) -> None:
    sr, hr = pictures_with_noise((2, 100))
    expected = [reference(a, b, scale) for a, b in zip(sr, hr, strict=True)]
    assert expected[0] > expected[1] + 20
    assert protocol_scores(sr, hr, scale, MATLAB)["psnr"].tolist() == pytest.approx(expected, rel=1e-12)
