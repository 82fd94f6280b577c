"""Fixtures shared by all tests."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The read-only material beside the repository; tests that need it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which is not here")
    return SHARED


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture
def noise(generator: torch.Generator) -> Callable[..., Tensor]:
    """noise(…, 3, H, W): random uint8 pixels of that shape."""
    return lambda *shape: torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """encoded(pixels, "PNG", …): the bytes of an image file, out of an array or a PIL image."""

    def encode(pixels: NDArray[np.generic] | Image.Image, file_format: str, **options: object) -> bytes:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        file = io.BytesIO()
        image.save(file, file_format, **options)
        return file.getvalue()

    return encode
