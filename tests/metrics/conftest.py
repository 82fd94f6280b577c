"""Fixtures shared by the tests of the metrics."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor


def read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


@pytest.fixture(scope="session")
def set5(shared: Path) -> Callable[[int], list[tuple[Tensor, Tensor]]]:
    """set5(scale): its five published pairs of LR (1, 3, h, w) and HR (1, 3, H, W), uint8."""

    def pairs(scale: int) -> list[tuple[Tensor, Tensor]]:
        folder = shared / "data/benchmarks/Set5" / f"x{scale}"
        if not folder.is_dir():
            pytest.skip(f"needs {folder}, which is not here")
        files = sorted((folder / "LR").iterdir())
        assert len(files) == 5
        return [(read(file), read(folder / "HR" / file.name)) for file in files]

    return pairs
