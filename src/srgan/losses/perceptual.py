"""Perceptual (content) loss: mean squared error between VGG19 feature maps (§2.2.1, Eq. 5)."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG19_Weights

from srgan.errors import UserError

log = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CONVS_PER_BLOCK = (2, 2, 4, 4, 4)  # VGG19, Simonyan & Zisserman 2015, configuration E
BLOCK_CHANNELS = (64, 128, 256, 512, 512)


def vgg19_layers() -> dict[str, tuple[int, int, int]]:
    """VGG19's convolutions by name: conv2_2 → (index in torchvision's `features`, channels in, channels out)."""
    layers: dict[str, tuple[int, int, int]] = {}
    index, channels = 0, 3
    for block, (convs, out) in enumerate(zip(CONVS_PER_BLOCK, BLOCK_CHANNELS, strict=True), start=1):
        for conv in range(1, convs + 1):
            layers[f"conv{block}_{conv}"] = (index, channels, out)
            index, channels = index + 2, out  # a convolution and its ReLU
        index += 1  # max pooling
    return layers


class VGGLoss(nn.Module):
    """Mean squared error between the VGG19 features of sr and hr, (B, 3, H, W) in [0, 1]; a scalar.

    Images are normalised by ImageNet's mean and deviation inside. Features are not rescaled: the paper's 1 / 12.75
    belongs to another VGG with another input range; the weight of this loss in the mix takes its place.

    Only the layers up to the deepest one asked for are built and loaded. Their weights are buffers outside the
    state dict: no optimizer trains them and no checkpoint holds them.

    Args:
        layers: weight of each convolution's feature map, by name, such as {"conv5_4": 1.0}.
        before_relu: compare the maps before their ReLU; the paper compares them after it (φ_{i,j}, §2.2.1).
        weights: a file with torchvision's key names, full or cut short; None for torchvision's official file;
            "random" for timing only.
        normalize: scale each position's features to unit length, and sum their squared differences over the channels
            before taking the mean (Zhang et al. 2018, Eq. 1, all w = 1): contrast then counts as much in the dark and
            in the shallow layers, whose maps are of another magnitude. The paper doesn't.
    """

    def __init__(
        self,
        layers: dict[str, float],
        before_relu: bool = False,
        weights: str | None = None,
        normalize: bool = False,
        sizes: Sequence[float] = (1.0,),
        random_views: bool = False,
    ) -> None:
        super().__init__()
        table = vgg19_layers()
        if not layers or set(layers) - set(table):
            raise UserError(f"VGG19 layers {sorted(layers)}: choose from {', '.join(table)}")
        if not sizes or not all(0 < size <= 1 for size in sizes):
            raise UserError(f"VGG19 sizes {list(sizes)}: expected numbers above 0, up to 1")
        self.layer_weights = dict(layers)
        self.before_relu, self.normalize, self.sizes = before_relu, normalize, tuple(sizes)
        self.views = RandomViews() if random_views else None
        names = list(table)
        self.names = names[: max(names.index(name) for name in layers) + 1]
        state = _load(weights, {name: table[name] for name in self.names})
        for name in self.names:
            for kind in ("weight", "bias"):
                self.register_buffer(f"{name}_{kind}", state[f"features.{table[name][0]}.{kind}"], persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The feature maps asked for, by layer name, of images (B, 3, H, W) in [0, 1]."""
        maps: dict[str, Tensor] = {}
        x = (images - self.get_buffer("mean")) / self.get_buffer("std")
        for name in self.names:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            x = F.conv2d(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), padding=1)
            if self.before_relu and name in self.layer_weights:
                maps[name] = x
            x = F.relu(x)
            if not self.before_relu and name in self.layer_weights:
                maps[name] = x
        return maps

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        terms: list[Tensor] = []
        sr, hr = (sr, hr) if self.views is None else self.views(sr, hr)
        for size in self.sizes:
            sides = [round(size * side) for side in hr.shape[-2:]]
            x, y = (images if size == 1 else F.interpolate(images, sides, mode="area") for images in (sr, hr))
            with torch.no_grad():
                target = self.features(y)
            maps = self.features(x)
            for name, weight in self.layer_weights.items():
                terms.append(weight / size * self._distance(maps[name].float(), target[name].float()))
        return torch.stack(terms).sum()

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.normalize:
            return F.mse_loss(x, y)
        return (_unit(x) - _unit(y)).square().sum(1).mean()


class RandomViews(nn.Module):
    """The same random view of each of several images (B, C, H, W): cut by up to 8 pixels at the edges, mirrored, turned
    by 90° and resized by a factor of 0.71 to 1.41 (the idea of E-LPIPS, Kettunen et al. 2019).

    A generator that is trained by features soon finds patterns, fixed to the pixels of its output, that please the
    network and no one else. From view to view these please it no longer.

    The view is a function of the number of calls, which checkpoints hold: a resumed run draws what the other would.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, *images: Tensor) -> tuple[Tensor, ...]:
        chance, self.calls = random.Random(self.calls), self.calls + 1
        height, width = images[0].shape[-2:]
        spare = min(8, height // 8, width // 8)
        top, left, factor = chance.randint(0, spare), chance.randint(0, spare), 2 ** chance.uniform(-0.5, 0.5)
        down, right, turn = chance.random() < 0.5, chance.random() < 0.5, chance.random() < 0.5
        sides = [round((side - spare) * factor) for side in ((width, height) if turn else (height, width))]

        def view(x: Tensor) -> Tensor:
            x = x[..., top : top + height - spare, left : left + width - spare]
            x = x.flip([axis for axis, mirrored in ((-2, down), (-1, right)) if mirrored])
            x = x.transpose(-2, -1) if turn else x
            return F.interpolate(x, sides, mode="bilinear", antialias=True)

        return tuple(view(x) for x in images)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.calls)

    def set_extra_state(self, state: Tensor) -> None:
        self.calls = int(state)


def _unit(maps: Tensor) -> Tensor:
    return maps * (maps.square().sum(1, keepdim=True) + 1e-10).rsqrt()  # 1e-10: where all features are 0


def _load(weights: str | None, layers: dict[str, tuple[int, int, int]]) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, before, after in layers.values():
        shapes[f"features.{index}.weight"] = (after, before, 3, 3)
        shapes[f"features.{index}.bias"] = (after,)
    if weights == "random":
        log.warning("VGG19 with random weights: good for timing, not for training")
        generator = torch.Generator().manual_seed(0)
        return {
            key: torch.randn(shape, generator=generator) * (2 / (9 * shape[1])) ** 0.5
            if len(shape) == 4
            else torch.zeros(shape)
            for key, shape in shapes.items()
        }
    path = Path(weights) if weights is not None else _official_file()
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
    table = vgg19_layers()
    known = {f"features.{index}.{kind}" for index, _, _ in table.values() for kind in ("weight", "bias")}
    if foreign := sorted(key for key in state if key.startswith("features.") and key not in known):
        raise UserError(f"{path}: {foreign[0]} is no layer of VGG19; this is another network")
    for key, shape in shapes.items():
        if key not in state:
            held = [name for name, (index, _, _) in table.items() if f"features.{index}.weight" in state]
            ends = f"ends at {held[-1]}" if held else "holds none of VGG19's layers under torchvision's names"
            asked = list(layers)[-1]
            raise UserError(f"{path} {ends}, but {asked} is asked for; use the full file or a layer that it holds")
        found = tuple(getattr(state[key], "shape", ()))
        if found != shape:
            raise UserError(f"{path}: {key} is {found}, VGG19's is {shape}; this is another network")
    return {key: state[key].float() for key in shapes}


def _official_file() -> Path:
    url = VGG19_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True)
        except (OSError, URLError, RuntimeError) as error:
            raise UserError(
                f"VGG19's ImageNet weights can't be fetched ({error}). Get {url} elsewhere and put it at {path},"
                f" or name the file by vgg_weights=PATH; loss=srgan_mse needs no VGG"
            ) from error
    return path
