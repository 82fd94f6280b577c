"""Pillow's bicubic resize against Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image

from srgan.pilresize import pil_resize


@pytest.mark.parametrize(
    ("height", "width", "to_height", "to_width"),
    [
        (128, 128, 16, 16),
        (16, 16, 128, 128),
        (164, 164, 128, 128),
        (178, 178, 128, 128),
        (61, 47, 128, 33),
        (7, 9, 7, 3),
    ],
)
def test_every_pixel_is_pillows(height: int, width: int, to_height: int, to_width: int) -> None:
    random = np.random.default_rng(height + width)
    noise = random.integers(256, size=(height, width, 3), dtype=np.uint8)
    edges = np.where(random.random((height, width, 3)) < 0.5, 0, 255).astype(np.uint8)  # which overshoot
    batch = torch.from_numpy(np.stack([noise, edges])).permute(0, 3, 1, 2)
    resized = pil_resize(batch, to_height, to_width)
    assert resized.shape == (2, 3, to_height, to_width) and resized.dtype == torch.uint8
    for pixels, ours in zip((noise, edges), resized, strict=True):
        expected = Image.fromarray(pixels).resize((to_width, to_height), Image.Resampling.BICUBIC)
        assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.asarray(expected))
