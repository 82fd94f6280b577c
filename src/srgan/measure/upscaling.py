"""Times upscaling: the `Upscaler` compared with the unfolded network in fp32."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from srgan.inference.upscaler import Upscaler
from srgan.measure.clock import compare, in_turn
from srgan.measure.plain import plain_network
from srgan.models.generators import Generator

SIZE = (192, 256)  # height and width of the LR picture


def measure(generator: Generator, device: torch.device, precision: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Returns {"fast", "plain", "ratio"}: from 8-bit pixels to 8-bit pixels in host memory; megapixels are SR's."""
    pixels = np.random.default_rng(1).integers(256, size=(*SIZE, 3), dtype=np.uint8)
    fast = Upscaler(generator, device, precision)
    network = plain_network(generator, device).eval()

    @torch.no_grad()
    def plain() -> NDArray[Any]:
        lr = torch.from_numpy(pixels).to(device).permute(2, 0, 1)[None] / 255
        sr = network(lr.contiguous()).clamp(0, 1).mul(255).round().to(torch.uint8)
        return sr[0].permute(1, 2, 0).cpu().numpy()

    figures = in_turn({"fast": lambda: fast.enlarge(pixels), "plain": plain}, device, rounds, seconds, 1, "pictures")
    for variant in figures.values():
        rate = variant.pop("images_per_s")
        assert rate is not None
        variant["megapixels_per_s"] = rate * pixels.size / 3 * generator.scale**2 / 1e6
    difference = np.abs(fast.enlarge(pixels).astype(int) - plain()).max()
    return compare(figures["fast"], figures["plain"], by="megapixels_per_s") | {"max_difference": int(difference)}
