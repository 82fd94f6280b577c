"""SRGAN: photo-realistic single image super-resolution (Ledig et al., arXiv 1609.04802)."""

import os
from typing import TYPE_CHECKING, Any

from srgan import threads

if TYPE_CHECKING:
    from srgan.inference.upscaler import load_generator as load_generator

threads.set_spin_count(os.environ)  # here, since every command imports this first, and torch later

__version__ = "0.1.0"
__all__ = ["__version__", "load_generator"]


def __getattr__(name: str) -> Any:  # `import srgan` alone should not take torch's seconds
    if name == "load_generator":
        from srgan.inference.upscaler import load_generator

        return load_generator
    raise AttributeError(f"module 'srgan' has no attribute {name!r}")
