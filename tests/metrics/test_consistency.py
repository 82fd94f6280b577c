import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from srgan.data.degradation import BicubicDegradation
from srgan.metrics.consistency import lr_psnr

BICUBIC = BicubicDegradation(4)
Noise = Callable[..., Tensor]


def grey(level: int, height: int, width: int) -> Tensor:
    return torch.full((1, 3, height, width), level, dtype=torch.uint8)


def test_hr_gives_its_own_lr_back_by_the_degradation_given(noise: Noise) -> None:
    for degradation in (BicubicDegradation(2), BicubicDegradation(3), BicubicDegradation(4, blur_sigma=1.0)):
        hr = noise(2, 3, 24, 36)
        values = lr_psnr(hr, degradation(hr), degradation)
        assert values.dtype == torch.float64
        assert values.tolist() == [math.inf, math.inf]
    assert lr_psnr(hr, degradation(hr), BICUBIC).max() < 50


def test_set5s_hr_gives_the_published_lr_back(set5: Callable[[int], list[tuple[Tensor, Tensor]]]) -> None:
    assert [lr_psnr(hr, lr, BICUBIC).item() for lr, hr in set5(4)] == [math.inf] * 5


def test_an_offset_has_the_psnr_of_its_square() -> None:
    lr = torch.cat([grey(105, 6, 5), grey(99, 6, 5)])
    values = lr_psnr(grey(100, 24, 20).expand(2, -1, -1, -1), lr, BICUBIC)
    assert values.tolist() == pytest.approx([20 * math.log10(255 / 5), 20 * math.log10(255)], rel=1e-12)


def test_a_shift_of_colour_counts_even_where_luma_hides_it() -> None:
    lr = grey(100, 6, 5)
    lr[:, 0] += 51  # red up by 51, green down by 26: luma moves by 0.01
    lr[:, 1] -= 26
    mse = (51**2 + 26**2) / 3
    assert lr_psnr(grey(100, 24, 20), lr, BICUBIC).item() == pytest.approx(10 * math.log10(255**2 / mse), rel=1e-12)


def test_the_corner_counts_like_any_other_pixel() -> None:
    lr = grey(0, 6, 5)
    lr[..., 0, 0] = 255
    assert lr_psnr(grey(0, 24, 20), lr, BICUBIC).item() == pytest.approx(10 * math.log10(6 * 5), rel=1e-12)


def test_8_bit_images_and_floats_agree(noise: Noise) -> None:
    sr, lr = noise(2, 3, 24, 20), noise(2, 3, 6, 5)
    expected = lr_psnr(sr, lr, BICUBIC)
    assert torch.equal(lr_psnr(sr / 255, lr / 255, BICUBIC), expected)
    assert torch.equal(lr_psnr(sr, lr / 255, BICUBIC), expected)


def test_floats_are_clamped_and_rounded_to_8_bits_first() -> None:
    x = 2 * torch.rand((2, 3, 24, 20), generator=torch.Generator().manual_seed(0)) - 0.5
    in_a_file = x.clamp(0, 1).mul(255).round().to(torch.uint8)
    assert lr_psnr(x, BICUBIC(in_a_file), BICUBIC).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (1, 3, 6, 5)])
def test_an_lr_of_another_size_is_refused(noise: Noise, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        lr_psnr(noise(2, 3, 24, 20), noise(*shape), BICUBIC)
