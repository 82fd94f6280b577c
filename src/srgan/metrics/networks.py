"""The frozen networks whose features LPIPS and DISTS compare, and the files that hold their ImageNet weights.

Metrics apply them to 8-bit images, losses (`losses/learned.py`) to the generator's unrounded output.
"""

import logging
import pickle
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from srgan.errors import UserError
from srgan.images import to_float, to_uint8
from srgan.machine import torch_hub_file

log = logging.getLogger(__name__)

URL = "https://download.pytorch.org/models/"
# Torchvision's files and their sizes in MB, copied here because importing torchvision takes seconds.
FILES = {
    "alex": ("alexnet-owt-7be5be79.pth", 233),
    "squeeze": ("squeezenet1_1-b8a52dc0.pth", 5),
    "vgg": ("vgg16-397923af.pth", 528),
}


SMALLEST = {"alex": 31, "squeeze": 17, "vgg": 16}  # sides, in pixels, that leave something for the last layers


def weights_file(net: str) -> Path:
    """Path of the ImageNet weights of `alex`, `squeeze` or `vgg` in torch hub's folder, which TORCH_HOME changes."""
    return torch_hub_file(FILES[net][0])


def check_name(net: str) -> None:
    """Raise UserError unless LPIPS has a network of that name."""
    if net not in FILES:
        raise UserError(f"lpips={net}: expected alex, squeeze or vgg")


def fetch(net: str) -> None:
    """Download a network's ImageNet weights to `weights_file(net)`, with a progress bar, if they aren't there yet.

    Raises UserError if the download fails or LPIPS has no network of that name.
    """
    check_name(net)
    path, (name, size) = weights_file(net), FILES[net]
    if path.is_file():
        return
    log.info("Fetching %s (%d MB) to %s, once", URL + name, size, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checksum = path.stem.rpartition("-")[2]  # torchvision puts it in the file's name
        torch.hub.download_url_to_file(URL + name, str(path), hash_prefix=checksum, progress=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the checksum is wrong
        raise UserError(f"{URL}{name} can't be fetched ({error}); put it at {path}") from error


def lpips_network(net: str) -> nn.Module:
    """LPIPS (Zhang et al. 2018, version 0.1) with `alex`, `squeeze` or `vgg`; call it with (sr, hr), both in [0, 1].

    (B, 3, H, W) → (B, 1, 1, 1), differentiable. Raises UserError for another name or if the weights are absent.
    """
    check_name(net)
    _require(net, f"LPIPS ({net})")
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric: Any = LearnedPerceptualImagePatchSimilarity
    with warnings.catch_warnings(), _naming(net):
        warnings.simplefilter("ignore")  # torchmetrics passes torchvision a deprecated keyword
        network = metric(net_type=net).net
    return _Frozen(network, {"normalize": True})


def dists_network() -> nn.Module:
    """DISTS (Ding et al. 2020); call it with (sr, hr), both in [0, 1]. (B, 3, H, W) → (B,), or () if B is 1.

    Differentiable while gradients are enabled. Raises UserError if VGG16's weights are absent.
    """
    _require("vgg", "DISTS")
    from torchmetrics.functional.image.dists import DISTSNetwork

    with _naming("vgg"):
        network = DISTSNetwork()
    return _Frozen(network, {"require_grad": True})


def by_image(network: nn.Module, sr: Tensor, hr: Tensor) -> Tensor:
    """The distance between the 8-bit sr and hr, computed one image at a time without gradients: (B,)."""
    sr, hr = (to_float(to_uint8(images)) for images in (sr, hr))
    with torch.no_grad():
        return torch.stack([network(x[None], y[None]).flatten()[0] for x, y in zip(sr, hr, strict=True)])


def _require(net: str, user: str) -> None:
    if not weights_file(net).is_file():
        raise UserError(f"{user} needs {weights_file(net)}; fetch it from {URL}{FILES[net][0]}")


@contextmanager
def _naming(net: str) -> Generator[None]:
    """Name the file of weights if it can't be read, as one that was cut off."""
    try:
        yield
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(
            f"{weights_file(net)} can't be read ({reason}); remove it and fetch it again, by download=true"
        ) from error


class _Frozen(nn.Module):
    """A network in evaluation mode whose weights are buffers outside the state dict.

    So no optimizer trains them and no checkpoint holds them.
    """

    def __init__(self, network: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        for module in network.modules():
            for name, parameter in [*module.named_parameters(recurse=False)]:
                delattr(module, name)
                module.register_buffer(name, parameter.detach(), persistent=False)
            for name, buffer in [*module.named_buffers(recurse=False)]:
                module.register_buffer(name, buffer, persistent=False)
        self.network = network.eval()
        self.options = options

    def train(self, mode: bool = True) -> "_Frozen":
        return super().train(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        dtype = next(self.network.buffers()).dtype
        with torch.autocast(sr.device.type, enabled=False):  # bf16 is too coarse for differences of features
            return cast(Tensor, self.network(sr.to(dtype), hr.to(dtype), **self.options))
