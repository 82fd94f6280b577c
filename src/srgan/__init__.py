"""SRGAN: photo-realistic single image super-resolution (Ledig et al., arXiv 1609.04802)."""

import os
from typing import TYPE_CHECKING, Any

from srgan import threads

if TYPE_CHECKING:
    from srgan.inference.upscaler import load_generator as load_generator

threads.set_spin_count(os.environ)  # here, because every command imports this package before torch

__version__ = "0.1.0"
__all__ = ["__version__", "load_generator"]


def __getattr__(name: str) -> Any:  # keeps `import srgan` fast: importing torch takes seconds
    if name == "load_generator":
        from srgan.inference.upscaler import load_generator

        return load_generator
    raise AttributeError(f"module 'srgan' has no attribute {name!r}")
