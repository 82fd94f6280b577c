"""Generators: (B, 3, h, w) LR in [0, 1] → (B, 3, scale · h, scale · w) SR, near [0, 1] but not clamped, float32."""

import re
from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.imresize import Imresize
from srgan.models.shuffling import (
    Activation,
    PixelShuffle,
    PixelShuffleStage,
    ResizeStage,
    Upsampling,
    pixel_shuffle,
)

UPSAMPLING_STAGES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
ACTIVATIONS: dict[str, Activation] = {
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.2),
}
UPSAMPLERS: dict[str, type[PixelShuffleStage | ResizeStage]] = {"shuffle": PixelShuffleStage, "resize": ResizeStage}


class Generator(nn.Module):
    """Base class of all generators.

    Attributes:
        scale: the factor of enlargement.
        receptive_field: radius in LR pixels of the neighbourhood that an SR pixel depends on.
        multiple: tiles must begin at multiples of this many LR pixels, since shifting LR by any other number changes
            the SR; `receptive_field` is a multiple of it.
    """

    scale: int
    receptive_field: int
    multiple: int = 1


class ResidualBlock(nn.Module):
    """Adds the output of a sequence of layers to its input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def deepened(state: Mapping[str, Tensor], generator: Generator) -> tuple[dict[str, Tensor], int]:
    """The weights of a generator with fewer `ResidualBlock`s, as weights of `generator` that give the same SR.

    The added blocks follow the others. The parameters of the last layer of each are zero, which makes it the identity;
    all else is as it is in `generator`, random in a new one (Net2DeeperNet, Chen et al. 2016, §2.3).

    Returns the weights and the number of added blocks, 0 where there is nothing to add.
    """
    blocks = [name for name, layer in generator.named_modules() if isinstance(layer, ResidualBlock)]
    trained = {match[0] for key in state if (match := re.match(r"trunk\.\d+(?=\.body\.)", key))}
    added = blocks[len(trained) :] if trained else []
    if not added:
        return dict(state), 0
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        behind = re.match(r"trunk\.(\d+)\.(?!body\.)", key)  # the layers that follow the blocks
        result[f"trunk.{int(behind[1]) + len(added)}.{key[behind.end() :]}" if behind else key] = value
    for name in added:
        block = generator.get_submodule(name)
        result |= {f"{name}.{key}": value.clone() for key, value in block.state_dict().items()}
        parameters = dict(block.named_parameters())
        last = [*parameters][-1].rpartition(".")[0]
        result |= {f"{name}.{key}": torch.zeros_like(x) for key, x in parameters.items() if key.startswith(f"{last}.")}
    return result, len(added)


# --- the paper's ------------------------------------------------------------------------------------------------------


class SRResNet(Generator):
    """The paper's generator (Fig. 4, §2.1.1), 1.55 M parameters at ×4.

    The last convolution works in the paper's range of HR, [−1, 1]; the output is mapped to [0, 1].

    Args:
        scale: 2, 3, 4 or 8. Powers of two are stages of ×2; ×3 is one stage.
        channels: feature maps, 64 in the paper.
        blocks: residual blocks, 16 in the paper.
        activation: prelu (the paper's), relu or leaky_relu (slope 0.2).
        upsampler: shuffle (the paper's pixel shuffles) or resize (nearest neighbour, then a convolution).

    The last two have defaults because older checkpoints don't name them.
    """

    def __init__(
        self, scale: int, channels: int, blocks: int, activation: str = "prelu", upsampler: str = "shuffle"
    ) -> None:
        super().__init__()
        check_scale(scale)
        check_options(activation, upsampler, UPSAMPLERS)
        self.scale = scale
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), ACTIVATIONS[activation]())
        self.trunk = _trunk(channels, blocks, ACTIVATIONS[activation], batch_norm=True)
        self.upsampling = Upsampling(channels, UPSAMPLING_STAGES[scale], ACTIVATIONS[activation], UPSAMPLERS[upsampler])
        self.tail = nn.Conv2d(channels, 3, 9, padding=4)
        self.receptive_field = 4 + 2 * blocks + 1 + _upsampling_field(scale, 4, UPSAMPLERS[upsampler])

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr)  # (B, channels, h, w)
        x = x + self.trunk(x)  # the residual blocks, conv, BN; then the elementwise sum
        x = self.upsampling.then(self.tail, x)  # = self.tail(self.upsampling(x)): (B, 3, scale · h, scale · w)
        return (x.float() + 1) / 2


class Compact(Generator):
    """A small generator for laptops: the same blocks without BN; the output is added to the bicubic enlargement.

    Its last convolution starts at zero, so it starts exactly as bicubic interpolation and a short training is spent on
    what bicubic misses.

    Args:
        scale: 2, 3, 4 or 8.
        channels: feature maps.
        blocks: residual blocks.
        activation: see `SRResNet`.
        upsampler: shuffle or resize, see `SRResNet`; or direct: a single convolution to 3 · scale² channels and one
            pixel shuffle (ESPCN, Shi et al. 2016, §3.2). At ×4 with 8 blocks this halves the work, nearly all of which
            is then the trunk's.
    """

    def __init__(
        self, scale: int, channels: int, blocks: int, activation: str = "prelu", upsampler: str = "shuffle"
    ) -> None:
        super().__init__()
        check_scale(scale)
        check_options(activation, upsampler, (*UPSAMPLERS, "direct"))
        self.scale = scale
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), ACTIVATIONS[activation]())
        self.trunk = _trunk(channels, blocks, ACTIVATIONS[activation], batch_norm=False)
        if upsampler == "direct":
            self.upsampling = nn.Sequential()
            self.tail = nn.Sequential(nn.Conv2d(channels, 3 * scale**2, 3, padding=1), PixelShuffle(scale))
            upsampling_field = 1
        else:
            stage = UPSAMPLERS[upsampler]
            self.upsampling = Upsampling(channels, UPSAMPLING_STAGES[scale], ACTIVATIONS[activation], stage)
            self.tail = nn.Conv2d(channels, 3, 3, padding=1)
            upsampling_field = _upsampling_field(scale, 1, stage)
        self.enlarge = Imresize(scale)
        for parameter in self.tail.parameters():
            nn.init.zeros_(parameter)
        self.receptive_field = 1 + 2 * blocks + 1 + upsampling_field

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr)  # (B, channels, h, w)
        x = x + self.trunk(x)
        x = self.upsampling(x)  # (B, channels, scale · h, scale · w); with `direct` still h and w
        return self.enlarge(lr.float()) + self.tail(x).float()


def _trunk(channels: int, blocks: int, activation: Activation, batch_norm: bool) -> nn.Sequential:
    """Blocks of conv 3×3, BN, activation, conv 3×3, BN; then conv 3×3, BN. Without BN, convolutions have biases."""

    def conv3x3() -> list[nn.Module]:
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
        return [conv, nn.BatchNorm2d(channels)] if batch_norm else [conv]

    return nn.Sequential(*(ResidualBlock(*conv3x3(), activation(), *conv3x3()) for _ in range(blocks)), *conv3x3())


# --- the Keras recipe's -----------------------------------------------------------------------------------------------


class KerasSRResNet(Generator):
    """The generator of the Keras recipes for SRGAN on faces: ReLU before BN, resize-convolutions and tanh.

    2.04 M parameters at ×4. It works in [−1, 1] inside. As in Keras, weights start from Glorot's uniform distribution,
    biases start at zero, BN's epsilon is 1e-3, and BN's running statistics take a fifth of each batch.

    Args:
        scale: 2, 3, 4 or 8.
        channels: feature maps, 64 in the recipe; the upsampling stages have four times as many.
        blocks: residual blocks, 16 in the recipe.
    """

    def __init__(self, scale: int, channels: int, blocks: int) -> None:
        super().__init__()
        check_scale(scale)
        self.scale = scale
        factors, wide = UPSAMPLING_STAGES[scale], 4 * channels
        norm = partial(nn.BatchNorm2d, channels, eps=1e-3, momentum=0.2)  # 0.8 in Keras' convention
        conv3x3 = partial(nn.Conv2d, channels, channels, 3, padding=1)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.ReLU())
        self.trunk = nn.Sequential(
            *(ResidualBlock(conv3x3(), nn.ReLU(), norm(), conv3x3(), norm()) for _ in range(blocks)), conv3x3(), norm()
        )
        self.upsampling = nn.Sequential(
            ResizeStage(wide, factors[0], nn.ReLU, inputs=channels),
            *(ResizeStage(wide, factor, nn.ReLU) for factor in factors[1:]),
        )
        self.tail = nn.Conv2d(wide, 3, 9, padding=4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.receptive_field = 4 + 2 * blocks + 1 + _upsampling_field(scale, 4, ResizeStage)

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr * 2 - 1)  # (B, channels, h, w)
        x = x + self.trunk(x)
        x = self.tail(self.upsampling(x))  # (B, 3, scale · h, scale · w)
        return (x.float().tanh() + 1) / 2


# --- BasicSR's, with its parameter names ------------------------------------------------------------------------------


class MSRResNet(Generator):
    """BasicSR's SRResNet: no BN; the output is added to the bilinear enlargement. 1.52 M parameters at ×4.

    Args:
        scale: 2, 3, 4 or 8; BasicSR has no ×8.
        channels: feature maps, 64 in BasicSR.
        blocks: residual blocks, 16 in BasicSR.
    """

    def __init__(self, scale: int, channels: int, blocks: int) -> None:
        super().__init__()
        check_scale(scale)
        self.scale = scale
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(*(MSRResNetBlock(channels) for _ in range(blocks)))
        for number, factor in enumerate(UPSAMPLING_STAGES[scale], start=1):
            self.add_module(f"upconv{number}", nn.Conv2d(channels, channels * factor**2, 3, padding=1))
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)
        _start_small(self)
        self.receptive_field = 1 + 2 * blocks + _upsampling_field(scale, 2, PixelShuffleStage)

    def forward(self, lr: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv_first(lr), 0.1)  # (B, channels, h, w)
        x = self.body(x)
        for number, factor in enumerate(UPSAMPLING_STAGES[self.scale], start=1):
            conv = self.get_submodule(f"upconv{number}")
            x = F.leaky_relu(pixel_shuffle(conv(x), factor), 0.1)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1))  # (B, 3, scale · h, scale · w)
        return x.float() + F.interpolate(lr.float(), scale_factor=self.scale, mode="bilinear")


class MSRResNetBlock(nn.Module):
    """Conv 3×3, ReLU, conv 3×3, elementwise sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class RRDBNet(Generator):
    """The generator of ESRGAN (Wang et al. 2018, §3.1) and Real-ESRGAN, as in BasicSR. 16.7 M parameters at ×4.

    It enlarges by 4 inside. For ×2 and ×1 a pixel unshuffle first reduces LR by 2 or 4; sides that aren't multiples of
    2 or 4 are padded by mirroring. ×8 has a third enlargement.

    Args:
        scale: 1, 2, 4 or 8; BasicSR has no ×8.
        channels: feature maps, 64 in ESRGAN.
        blocks: residual-in-residual dense blocks, 23 in ESRGAN.
        growth: feature maps that each convolution of a dense block adds, 32 in ESRGAN.
    """

    def __init__(self, scale: int, channels: int, blocks: int, growth: int) -> None:
        super().__init__()
        if scale not in (1, 2, 4, 8):
            raise UserError(f"RRDBNet doesn't enlarge by {scale}; choose scale=2, 4 or 8, or another generator")
        self.scale = scale
        self.multiple = max(1, 4 // scale)  # factor of the pixel unshuffle
        stages = UPSAMPLING_STAGES[scale * self.multiple]
        self.conv_first = nn.Conv2d(3 * self.multiple**2, channels, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(channels, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(channels, channels, 3, padding=1)
        for number in range(1, len(stages) + 1):
            self.add_module(f"conv_up{number}", nn.Conv2d(channels, channels, 3, padding=1))
        self.conv_hr = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_last = nn.Conv2d(channels, 3, 3, padding=1)
        radius = 1 + 15 * blocks + 1 + _upsampling_field(scale * self.multiple, 2, ResizeStage)
        self.receptive_field = self.multiple * radius

    def forward(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        if self.multiple > 1:
            lr = F.pixel_unshuffle(_mirror_to_multiple(lr, self.multiple), self.multiple)
        x = self.conv_first(lr)  # (B, channels, h, w); half or a quarter of that at ×2 and ×1
        x = x + self.conv_body(self.body(x))
        for number in range(1, len(UPSAMPLING_STAGES[self.scale * self.multiple]) + 1):
            conv = self.get_submodule(f"conv_up{number}")
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))  # (B, 3, scale · h, scale · w), or a little more
        x = x.float()
        return _cut(x, self.scale * height, self.scale * width) if self.multiple > 1 else x


class RRDB(nn.Module):
    """Residual-in-residual block: three dense blocks, whose output times 0.2 is added to the input (ESRGAN, Fig. 4)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(channels, growth)
        self.rdb2 = DenseBlock(channels, growth)
        self.rdb3 = DenseBlock(channels, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class DenseBlock(nn.Module):
    """Five convolutions, each on the input and all earlier outputs; the last output times 0.2 is added to the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(channels + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(channels + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(channels + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(channels + 4 * growth, channels, 3, padding=1)
        _start_small(self)

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = torch.cat([features, F.leaky_relu(conv(features), 0.2)], 1)
        return x + 0.2 * self.conv5(features)


def _start_small(network: nn.Module) -> None:
    """Initialise every convolution with a tenth of He's weights (ESRGAN, §3.1) and zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
            with torch.no_grad():
                module.weight.mul_(0.1)


def _mirror_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad (…, h, w) at the lower and right edge by mirroring until both sides are multiples of `multiple`."""
    for dimension in (-2, -1):
        last = x.shape[dimension] - 1
        index = torch.arange((last + multiple) // multiple * multiple, device=x.device)
        x = x.index_select(dimension, (last - (index - last).abs()).clamp(min=0))
    return x


def _cut(x: Tensor, height: int, width: int) -> Tensor:
    """The upper left height × width of an image. With slices, torch.export would refuse odd sizes."""
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


# --- shared -----------------------------------------------------------------------------------------------------------


def _upsampling_field(scale: int, tail: int, stage: type[PixelShuffleStage | ResizeStage]) -> int:
    """Radius in LR pixels seen by the upsampling stages and by last convolutions whose radius is `tail` SR pixels."""
    leftmost = -tail  # leftmost pixel that SR pixel 0 depends on, in the pixels before each stage in turn
    for factor in reversed(UPSAMPLING_STAGES[scale]):
        leftmost = (leftmost - 1) // factor if stage is ResizeStage else leftmost // factor - 1
    return -leftmost


def check_scale(scale: int) -> None:
    """Raise UserError unless generators support `scale`."""
    if scale not in UPSAMPLING_STAGES:
        raise UserError(f"no generator for scale {scale}; choose scale=2, 3, 4 or 8")


def check_options(activation: str, upsampler: str, upsamplers: Iterable[str]) -> None:
    """Raise UserError unless the activation is known and the upsampler is one of those."""
    for name, value, known in (("activation", activation, ACTIVATIONS), ("upsampler", upsampler, upsamplers)):
        if value not in known:
            raise UserError(f"no {name} {value!r}; choose {', '.join(known)}")
