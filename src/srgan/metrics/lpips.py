"""LPIPS (Zhang et al. 2018) through torchmetrics, only where the network's ImageNet weights lie on disk."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from srgan.errors import UserError
from srgan.images import to_float, to_uint8
from srgan.machine import torch_hub_file

log = logging.getLogger(__name__)

# The names of torchvision's files, written out: importing torchvision takes seconds, and LPIPS is not always measured.
WEIGHTS = {"squeeze": "squeezenet1_1-b8a52dc0.pth", "alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


def weights_file(net: str) -> Path:
    """Path at which torch hub keeps the ImageNet weights of `squeeze`, `alex` or `vgg`; TORCH_HOME moves it."""
    return torch_hub_file(WEIGHTS[net])


def load(net: str | None) -> "LPIPS | None":
    """Load the network that measures LPIPS. None if none is asked for or its weights are absent; the log says which.

    Raises UserError for a network that LPIPS doesn't have.
    """
    if net is None:
        return None
    if net not in WEIGHTS:
        raise UserError(f"lpips={net}: expected squeeze, alex, vgg or null")
    if not weights_file(net).is_file():
        log.info("LPIPS is not measured: its network is not at %s (TORCH_HOME moves it)", weights_file(net))
        return None
    log.info("LPIPS is measured by the network %s", net)
    return LPIPS(net)


class LPIPS(nn.Module):
    """The learned perceptual distance between sr and hr, (B, 3, H, W) in [0, 1] or uint8, per image: (B,) float32.

    Whole images are compared, by their 8-bit values; no border is cut off. Nothing is downloaded.

    Args:
        net: the network that sees both images: `squeeze`, `alex` or `vgg`.

    Raises FileNotFoundError if `weights_file(net)` is absent.
    """

    def __init__(self, net: str = "squeeze") -> None:
        super().__init__()
        if not weights_file(net).is_file():
            raise FileNotFoundError(f"LPIPS needs {weights_file(net)}")
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics calls torchvision by a deprecated keyword
            metric: Any = LearnedPerceptualImagePatchSimilarity
            self.metric = metric(net_type=net, reduction="mean", normalize=True)
        self.requires_grad_(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        sr, hr = (to_float(to_uint8(images)) for images in (sr, hr))
        values = [self.metric(x[None], y[None]) for x, y in zip(sr, hr, strict=True)]
        self.metric.reset()
        return torch.stack(values)
