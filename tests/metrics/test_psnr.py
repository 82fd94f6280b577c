import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from srgan.metrics.psnr import psnr


def planes(seed: int, count: int = 3, channels: int = 1) -> Tensor:
    return 255 * torch.rand(
        (count, channels, 13, 17), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


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
