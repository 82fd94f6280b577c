"""LPIPS (Zhang et al. 2018): the learned perceptual distance between two images."""

import torch
from torch import Tensor, nn

from srgan.metrics.networks import SMALLEST, by_image, lpips_network


class LPIPS(nn.Module):
    """The learned perceptual distance between sr and hr, (B, 3, H, W) in [0, 1] or uint8, per image: (B,) float32.

    NaN for images with a side that is too small for the network (31 pixels are needed by `alex`, 17 and 16 by others).
    Compares 8-bit values of whole images, without cutting a border. Downloads nothing.

    Args:
        net: the feature network: `alex`, `squeeze` or `vgg`.

    Raises UserError for another network or if its weights are absent.
    """

    def __init__(self, net: str) -> None:
        super().__init__()
        self.network = lpips_network(net)
        self.smallest = SMALLEST[net]

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        if min(hr.shape[-2:]) < self.smallest:
            return torch.full((len(hr),), torch.nan, device=hr.device)
        return by_image(self.network, sr, hr)
