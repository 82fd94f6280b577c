"""Peak signal-to-noise ratio, per image; a protocol (`protocol.py`) chooses the planes and cuts off the border."""

import torch
from torch import Tensor

EXACT = 100.0  # dB; replaces infinity in means and files


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """PSNR 10 log10(255² / MSE) in dB of (B, C, H, W) planes in 0…255, per image: (B,) float64; infinite if equal.

    Raises ValueError if the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"shapes differ: {tuple(x.shape)} and {tuple(y.shape)}")
    error = (x.double() - y.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)
