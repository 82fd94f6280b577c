"""LPIPS (Zhang et al. 2018) through torchmetrics, only where the network's ImageNet weights lie on disk."""

import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

from srgan.images import to_float, to_uint8

LPIPSNet = Literal["squeeze", "alex", "vgg"]
_WEIGHTS = {"squeeze": SqueezeNet1_1_Weights, "alex": AlexNet_Weights, "vgg": VGG16_Weights}


def weights_file(net: LPIPSNet) -> Path:
    """Where torch hub keeps the ImageNet weights of the network; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS[net].IMAGENET1K_V1.url.rsplit("/", 1)[-1]


class LPIPS(nn.Module):
    """Distance between sr and hr, (B, 3, H, W) in [0, 1]: (B,). Scores 8-bit values of the whole image, no shaving.

    Raises FileNotFoundError where `weights_file(net)` is absent: nothing is downloaded.
    """

    def __init__(self, net: LPIPSNet = "squeeze") -> None:
        super().__init__()
        if not weights_file(net).is_file():
            raise FileNotFoundError(f"LPIPS needs {weights_file(net)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics calls torchvision by a deprecated keyword
            self.metric = LearnedPerceptualImagePatchSimilarity(net_type=net, reduction="mean", normalize=True)
        self.requires_grad_(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        sr, hr = (to_float(to_uint8(images)) for images in (sr, hr))
        values = [self.metric(x[None], y[None]) for x, y in zip(sr, hr, strict=True)]
        self.metric.reset()
        return torch.stack(values)
