"""SRGAN: photo-realistic single image super-resolution (Ledig et al., arXiv 1609.04802)."""

__version__ = "0.1.0"
