"""The frozen VGG19 whose features perceptual losses compare, and the files that hold its weights."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG19_Weights

from srgan.errors import UserError
from srgan.machine import torch_hub_file

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CONVS_PER_BLOCK = (2, 2, 4, 4, 4)  # VGG19, Simonyan & Zisserman 2015, configuration E
BLOCK_CHANNELS = (64, 128, 256, 512, 512)


class Layer(NamedTuple):
    """A 3×3 convolution of VGG19: its position in torchvision's `features`, and its channels."""

    position: int
    inputs: int
    outputs: int


def vgg19_layers() -> dict[str, Layer]:
    """VGG19's convolutions in order, by the paper's names: conv1_1 … conv5_4."""
    layers: dict[str, Layer] = {}
    position, channels = 0, 3
    for block, (convs, out) in enumerate(zip(CONVS_PER_BLOCK, BLOCK_CHANNELS, strict=True), start=1):
        for conv in range(1, convs + 1):
            layers[f"conv{block}_{conv}"] = Layer(position, channels, out)
            position, channels = position + 2, out  # a convolution and its ReLU
        position += 1  # max pooling
    return layers


class VGG19(nn.Module):
    """The feature maps of VGG19, by layer name, of images (B, 3, H, W) in [0, 1].

    Images are normalised by ImageNet's mean and deviation inside. Only the layers up to the deepest one asked for are
    built and loaded. Their weights are buffers outside the state dict: no optimizer trains them and no checkpoint holds
    them.

    Args:
        layers: names of the convolutions whose maps are returned, such as conv5_4.
        before_relu: return the maps before their ReLU instead of after it.
        weights: a file with torchvision's key names, full or cut short; None for torchvision's official file;
            "random" for timing only.
    """

    def __init__(self, layers: Collection[str], before_relu: bool, weights: str | None) -> None:
        super().__init__()
        table = vgg19_layers()
        if not layers or set(layers) - set(table):
            raise UserError(f"VGG19 layers {sorted(layers)}: choose from {', '.join(table)}")
        self.returned, self.before_relu = frozenset(layers), before_relu
        names = list(table)
        self.names = names[: max(names.index(name) for name in layers) + 1]
        state = _load(weights, {name: table[name] for name in self.names})
        for name in self.names:
            for kind in ("weight", "bias"):
                values = state[f"features.{table[name].position}.{kind}"]
                self.register_buffer(f"{name}_{kind}", values, persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = {}
        x = (images - self.get_buffer("mean")) / self.get_buffer("std")
        for name in self.names:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            x = F.conv2d(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), padding=1)
            if self.before_relu and name in self.returned:
                maps[name] = x
            x = F.relu(x)
            if not self.before_relu and name in self.returned:
                maps[name] = x
        return maps


def _load(weights: str | None, layers: dict[str, Layer]) -> dict[str, Tensor]:
    """Weights and biases of `layers` under torchvision's key names, float32. `weights` is as in VGG19."""
    shapes: dict[str, tuple[int, ...]] = {}
    for position, before, after in layers.values():
        shapes[f"features.{position}.weight"] = (after, before, 3, 3)
        shapes[f"features.{position}.bias"] = (after,)
    if weights == "random":
        log.warning("VGG19 with random weights: good for timing, not for training")
        return _random_state(shapes)
    path = Path(weights) if weights is not None else _official_file()
    state = _read(path)
    for key, shape in shapes.items():
        if key not in state:
            available = [name for name, layer in vgg19_layers().items() if f"features.{layer.position}.weight" in state]
            ends = f"ends at {available[-1]}" if available else "holds none of VGG19's layers under torchvision's names"
            deepest = list(layers)[-1]
            raise UserError(f"{path} {ends}, but {deepest} is asked for; use the full file or a layer that it holds")
        actual = tuple(getattr(state[key], "shape", ()))
        if actual != shape:
            raise UserError(f"{path}: {key} is {actual}, VGG19's is {shape}; this is another network")
    return {key: state[key].float() for key in shapes}


def _random_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The same random kernels at each call, which keep the size of activations, and zero biases."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(shape, generator=generator) * (2 / (9 * shape[1])) ** 0.5
        if len(shape) == 4
        else torch.zeros(shape)
        for key, shape in shapes.items()
    }


def _read(path: Path) -> dict[str, Any]:
    """Read a state dict without running code from the file. Raises UserError if it is not of a VGG19, full or cut."""
    if not path.is_file():
        raise UserError(f"no VGG19 file at {path.absolute()}; name one by vgg_weights=PATH")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no state dict
        raise UserError(
            f"{path}: not a file of VGG19 weights ({type(error).__name__}); expected a state dict saved by torch"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a file of VGG19 weights; expected a state dict, found {type(state).__name__}")
    known = {f"features.{layer.position}.{kind}" for layer in vgg19_layers().values() for kind in ("weight", "bias")}
    if foreign := sorted(key for key in state if key.startswith("features.") and key not in known):
        raise UserError(f"{path}: {foreign[0]} is no layer of VGG19; this is another network")
    return state


def _official_file() -> Path:
    """The path of torchvision's file in torch hub's folder; downloads it if it is absent."""
    url = VGG19_Weights.IMAGENET1K_V1.url
    path = torch_hub_file(url.rsplit("/", 1)[-1])
    if not path.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True)
        except (OSError, URLError, RuntimeError) as error:
            raise UserError(
                f"VGG19's ImageNet weights can't be fetched ({error}). Get {url} elsewhere and put it at {path},"
                f" or name the file by vgg_weights=PATH; loss=srgan_mse needs no VGG"
            ) from error
    return path
