import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from srgan.metrics.ssim import ssim


def smooth_planes(seed: int, count: int = 3, channels: int = 1) -> Tensor:
    """Random waves in 0…255: unlike noise, they have structure at the window's size."""
    rng = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.arange(31), np.arange(44), indexing="ij")
    fy, fx, phase = (rng.uniform(0.1, 1, (count, channels, 1, 1)) for _ in range(3))
    return torch.from_numpy(127.5 + 127.5 * np.sin(fy * rows + fx * columns + 6 * phase))


def noisy(x: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return (x + deviation * noise).clamp(0, 255)


def reference(x: Tensor, y: Tensor) -> float:
    """SSIM of two planes (H, W) by scikit-image, over the windows wholly inside the image."""
    _, full = structural_similarity(
        x.numpy(),
        y.numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        win_size=11,
        data_range=255,
        full=True,
    )
    return float(full[5:-5, 5:-5].mean())


@pytest.mark.parametrize(("channels", "deviation"), [(1, 1.0), (3, 20.0), (1, 100.0)])
def test_ssim_of_each_image_is_scikit_images(channels: int, deviation: float) -> None:
    x = smooth_planes(0, channels=channels)
    y = noisy(x, deviation)
    expected = [np.mean([reference(a, b) for a, b in zip(p, q, strict=True)]) for p, q in zip(x, y, strict=True)]
    values = ssim(x, y)
    assert values.dtype == torch.float64
    np.testing.assert_allclose(values.numpy(), expected, rtol=0, atol=1e-9)


def test_8_bit_planes_are_scored_as_the_numbers_they_hold() -> None:
    x, y = (plane.round().to(torch.uint8) for plane in (smooth_planes(0), smooth_planes(1)))
    torch.testing.assert_close(ssim(x, y), ssim(x.double(), y.double()), rtol=0, atol=0)


def test_ssim_of_equal_images_is_one_even_if_they_are_flat() -> None:
    x = torch.cat([smooth_planes(0), torch.full((1, 1, 31, 44), 100.0)])
    torch.testing.assert_close(ssim(x, x), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-9)


def test_an_image_without_room_for_one_window_is_refused() -> None:
    smallest = smooth_planes(0)[..., :11, :11]
    assert ssim(smallest, smallest).shape == (3,)
    for small in (smallest[..., :10], smallest[..., :10, :]):
        with pytest.raises(ValueError, match="11×11"):
            ssim(small, small)


def test_images_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        ssim(smooth_planes(0), smooth_planes(0)[:1])
