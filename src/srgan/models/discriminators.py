"""Discriminators: images (B, 3, H, W) in [0, 1] → logits, one per image or a map, positive for "real"; no sigmoid.

Images are mapped to [−1, 1] inside.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from srgan.errors import UserError
from srgan.models.vgg import shared_vgg19

Logits = Tensor | Sequence[Tensor]  # a tensor of logits (B, …), or one per head


def heads(logits: Logits) -> Sequence[Tensor]:
    """The logits as a sequence of tensors, one per head."""
    return [logits] if isinstance(logits, Tensor) else logits


class Discriminator(nn.Module):
    """Base class of all discriminators.

    Attributes:
        multiple: an image's sides must be multiples of it.
    """

    multiple: int = 1

    def forward(self, images: Tensor) -> Logits:
        return self.with_features(images)[0]

    def with_features(self, images: Tensor) -> tuple[Logits, list[Tensor]]:
        """The logits (float32) and, for feature matching, the feature map after each activation."""
        raise NotImplementedError


class SRGANDiscriminator(Discriminator):
    """The paper's discriminator (Fig. 4): eight 3×3 convolutions, LeakyReLU 0.2, two dense layers. Logits: (B, 1).

    23.6 M parameters at crop 96.

    Args:
        crop: side of the square input in pixels, a multiple of 16 (four strides of 2).
        channels: feature maps of the first convolution, 64 in the paper; the last has eight times as many.
        hidden: width of the first dense layer, 1024 in the paper.
    """

    multiple = 16

    def __init__(self, crop: int, channels: int, hidden: int) -> None:
        super().__init__()
        if crop < 16 or crop % self.multiple:
            below = max(16, crop - crop % 16)
            raise UserError(
                f"crop {crop} does not suit the discriminator, which needs a multiple of 16;"
                f" try data.crop={below} or {below + 16}"
            )
        self.crop = crop
        widths = _eight_widths(channels)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), _leaky_relu()]
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            convolution = nn.Conv2d(before, after, 3, 1 + index % 2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), _leaky_relu()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * (crop // 16) ** 2, hidden), _leaky_relu(), nn.Linear(hidden, 1)
        )

    def with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        if images.shape[-2:] != (self.crop, self.crop):
            raise ValueError(f"this discriminator takes {self.crop}×{self.crop} images, got {tuple(images.shape)}")
        x, maps = _with_maps(self.features, images * 2 - 1)  # (B, 512, crop / 16, crop / 16)
        return self.classifier(x).float(), maps


class KerasDiscriminator(Discriminator):
    """The Keras CelebA recipe's patch discriminator. Logits: (B, 1, H / 16, W / 16).

    The paper's convolutions, then its dense layers applied at each position. LeakyReLU comes before BN, whose momentum
    is Keras' 0.8 (0.2 in torch's convention); every convolution has a bias.

    Args:
        channels: feature maps of the first convolution, 64 in the recipe; the last has eight times as many.
        hidden: width of the dense layer at each position, 1024 in the recipe.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        widths = _eight_widths(channels)
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), _leaky_relu()]
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            convolution = nn.Conv2d(before, after, 3, 1 + index % 2, padding=1)
            layers += [convolution, _leaky_relu(), nn.BatchNorm2d(after, eps=1e-3, momentum=0.2)]
        layers += [nn.Conv2d(widths[-1], hidden, 1), _leaky_relu()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv2d(hidden, 1, 1)

    def with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, maps = _with_maps(self.layers, images * 2 - 1)
        return self.last(x).float(), maps


class PatchDiscriminator(Discriminator):
    """One logit per patch (Isola et al. 2017, §3.2), spectral norm (Miyato et al. 2018) on the inner convolutions.

    (B, 3, H, W) → (B, 1, ⌊H / 8⌋, ⌊W / 8⌋), sides at least 8 pixels; a logit's receptive field is 52×52 pixels.
    Spectral norm, few parameters (0.44 M) and no batch normalisation keep it from overpowering the generator for long.

    Args:
        channels: feature maps of the first convolution; the last has four times as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 1, 2, 2, 4, 4)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), _leaky_relu()]
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            down = index % 2
            convolution = nn.Conv2d(before, after, 4 if down else 3, 1 + down, padding=1)
            layers += [spectral_norm(convolution), _leaky_relu()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, maps = _with_maps(self.layers, images * 2 - 1)
        return x.float(), maps


class UNetDiscriminator(Discriminator):
    """One logit per pixel, (B, 1, H, W), from a U-Net (Schönfeld et al. 2020) with spectral norm.

    As in Real-ESRGAN (Wang et al. 2021, §3.4): three convolutions of stride 2, three bilinear enlargements, additive
    skip connections. Sides at least 8 pixels.

    Args:
        channels: feature maps at full resolution, 64 in Real-ESRGAN; eight times as many at the lowest.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 2, 4, 8)]
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, 2, padding=1, bias=False)) for before, after in pairwise(widths)
        )
        self.up = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 3, padding=1, bias=False))
            for before, after in pairwise(reversed(widths))
        )
        self.tail = nn.ModuleList(
            spectral_norm(nn.Conv2d(channels, channels, 3, padding=1, bias=False)) for _ in range(2)
        )
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = [F.leaky_relu(self.head(images * 2 - 1), 0.2)]
        for down in self.down:
            maps.append(F.leaky_relu(down(maps[-1]), 0.2))
        x, skips = maps[-1], maps[-2::-1]
        for up, skip in zip(self.up, skips, strict=True):
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear")
            x = F.leaky_relu(up(x), 0.2) + skip
            maps.append(x)
        for convolution in self.tail:
            x = F.leaky_relu(convolution(x), 0.2)
            maps.append(x)
        return self.last(x).float(), maps


class ProjectedDiscriminator(Discriminator):
    """Small heads on frozen VGG19 features, one per layer; each gives a map of logits.

    The idea of Projected GAN (Sauer et al. 2021): on pretrained features a discriminator learns in a fraction of the
    steps that one trained from scratch needs. A content loss on the same VGG19 shares its passes.

    Args:
        layers: VGG19 layers and the channels of the head on each. A head sees the map before ReLU.
        weights: which VGG19; see `VGG19`.
    """

    def __init__(self, layers: Mapping[str, int], weights: str) -> None:
        super().__init__()
        if any(channels < 1 for channels in layers.values()):
            raise UserError(f"discriminator.layers={dict(layers)}: expected 1 channel or more for each")
        self.network = shared_vgg19(weights, layers, before_relu=True)
        self.heads = nn.ModuleDict(
            {name: _Head(self.network.channels(name), channels) for name, channels in layers.items()}
        )

    def with_features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        seen = self.network(images)
        judged = [head(seen(name, True)) for name, head in self.heads.items()]
        return [logits for logits, _ in judged], [maps for _, maps in judged]


class _Head(nn.Module):
    """Scales maps to unit RMS, then conv 1×1 to `channels`, two conv 3×3, logits; spectral norm on all but the last."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(spectral_norm(nn.Conv2d(inputs, channels, 1)), _leaky_relu()),
            *(spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)), _leaky_relu()),
            *(spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)), _leaky_relu()),
        )
        self.last = nn.Conv2d(channels, 1, 1)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        scale = maps.float().square().mean((1, 2, 3), keepdim=True).add(1e-8).rsqrt()
        x = self.layers(maps * scale)
        return self.last(x).float(), x


def _eight_widths(channels: int) -> list[int]:
    """Channels of the paper's eight convolutions."""
    return [channels * factor for factor in (1, 1, 2, 2, 4, 4, 8, 8)]


def _leaky_relu() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.2, inplace=True)


def _with_maps(layers: nn.Sequential, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output of `layers` and of each LeakyReLU in it."""
    maps: list[Tensor] = []
    for layer in layers:
        x = layer(x)
        if isinstance(layer, nn.LeakyReLU):
            maps.append(x)
    return x, maps
