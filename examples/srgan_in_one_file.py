"""SRGAN in one file: Ledig et al. 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial
Network" (arXiv 1609.04802), from photographs on disk to a picture and a table. Read it from top to bottom.

A generator G learns to undo a bicubic reduction by 4. First it minimises the squared error alone, which gives SRResNet
(the content phase); then it also learns to deceive a discriminator D, which gives SRGAN (the GAN phase). Images are RGB,
(B, 3, H, W), uint8 when read or scored and float in [0, 1] between the networks. `lr` is always the low-resolution image.

    python srgan_in_one_file.py                                   # minutes on two CPU cores
    python srgan_in_one_file.py --vgg vgg19.pth --steps 1000000 200000 --channels 64 --blocks 16 --crop 96 \\
        --batch-size 16 --learning-rates 1e-4 1e-4                # the paper's sizes (§3.2)
"""

import argparse
import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

SCALE = 4
TRAIN = ("hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg")
TEST = ("astronaut.png", "chelsea.png")  # both lie in scikit-image's wheel, like those above

# --- Data (§2.1, §3.2): random crops of photographs, and MATLAB's bicubic reduction of each --------------------------


def read_photo(name: str) -> Tensor:
    """One of scikit-image's photographs, (3, H, W) uint8."""
    package = find_spec("skimage")
    assert package is not None and package.origin is not None, "needs the photographs: pip install scikit-image"
    image = Image.open(Path(package.origin).parent / "data" / name).convert("RGB")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def training_batches(crop: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (lr, hr) in [0, 1]: square crops at random places, in one of their eight orientations."""
    photos = [read_photo(name) for name in TRAIN]
    while True:
        crops: list[Tensor] = []
        for _ in range(batch_size):
            photo = photos[int(torch.randint(len(photos), ()))]
            top, left = (int(torch.randint(side - crop + 1, ())) for side in photo.shape[1:])
            patch = photo[:, top : top + crop, left : left + crop].rot90(int(torch.randint(4, ())), (1, 2))
            crops.append(patch.flip(2) if torch.rand(()) < 0.5 else patch)
        hr = torch.stack(crops)
        yield imresize(hr, 1 / SCALE) / 255, hr / 255


def imresize(images: Tensor, scale: float) -> Tensor:
    """MATLAB's bicubic `imresize` of uint8 (…, H, W): first the rows, then the columns, 8 bits after each."""
    images = round_to_8_bits(resize_matrix(images.shape[-2], scale) @ images.double())
    return round_to_8_bits(images.double() @ resize_matrix(images.shape[-1], scale).T)


def resize_matrix(length: int, scale: float) -> Tensor:
    """(scale · length, length): each row holds the weights of one new pixel, the cubic kernel (Keys 1981, a = −0.5)."""
    stretch = min(scale, 1.0)  # a reduction widens the kernel by 1 / scale, against aliasing
    centers = (torch.arange(math.ceil(scale * length - 1e-9), dtype=torch.float64) + 0.5) / scale - 0.5
    beyond = math.ceil(2 / stretch) + 1  # pixels outside the image that the kernel may reach
    x = (stretch * (centers[:, None] - torch.arange(-beyond, length + beyond))).abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = torch.where(x <= 1, near, far * (x <= 2))
    weights /= weights.sum(1, keepdim=True)
    matrix = weights[:, beyond:-beyond].clone()
    matrix[:, 0] += weights[:, :beyond].sum(1)  # outside the edge pixel is repeated
    matrix[:, -1] += weights[:, -beyond:].sum(1)
    return matrix


def round_to_8_bits(x: Tensor) -> Tensor:
    return (x + 0.5 + 1e-9).floor().clamp(0, 255).byte()  # half up; 1e-9 is more than float64's rounding errors


# --- Networks (Fig. 4): k is the kernel's side, n the number of feature maps, s the stride ----------------------------


class ResidualBlock(nn.Module):
    """k3n64s1, BN, PReLU, k3n64s1, BN, elementwise sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv_bn(channels, channels), nn.PReLU(), *conv_bn(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def conv_bn(before: int, after: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after)


def shuffle_stage(channels: int) -> nn.Sequential:
    """k3n256s1, pixel shuffle ×2, PReLU. Starts with equal sub-pixels (ICNR, arXiv 1707.02937): no checkerboard."""
    conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)
    for parameter in conv.parameters():
        parameter.data = parameter.data[::4].repeat_interleave(4, 0)
    return nn.Sequential(conv, nn.PixelShuffle(2), nn.PReLU())


class SRResNet(nn.Module):
    """The generator: (B, 3, h, w) → (B, 3, 4h, 4w). The paper has 64 channels and 16 blocks."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())  # k9n64s1
        self.trunk = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)), *conv_bn(channels, channels))
        self.upsampling = nn.Sequential(shuffle_stage(channels), shuffle_stage(channels))
        self.tail = nn.Conv2d(channels, 3, 9, padding=4)  # k9n3s1

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr)  # (B, 64, h, w)
        x = x + self.trunk(x)
        x = self.upsampling(x)  # (B, 64, 4h, 4w)
        return (self.tail(x) + 1) / 2  # the paper's HR lies in [−1, 1] (§3.2)


class SRGANDiscriminator(nn.Module):
    """(B, 3, crop, crop) → (B, 1) logits of "this is a photograph": eight convolutions, two dense layers, no sigmoid."""

    def __init__(self, crop: int, channels: int, hidden: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 1, 2, 2, 4, 4, 8, 8)]
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.LeakyReLU(0.2)]
        for index, (before, after) in enumerate(pairwise(widths)):
            layers += [*conv_bn(before, after, stride=2 - index % 2), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        flat = widths[-1] * (crop // 16) ** 2
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(flat, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(2 * images - 1))


# --- Losses and steps (§2.2, §3.2) ------------------------------------------------------------------------------------


def mse_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Eq. 4 in the paper's range [−1, 1], where differences are twice as large as in [0, 1]."""
    return 4 * F.mse_loss(sr, hr)


class VGGLoss(nn.Module):
    """Eq. 5: the squared error between feature maps of VGG19 after the ReLU of conv2_2 (SRGAN-VGG22)."""

    def __init__(self, path: str) -> None:
        super().__init__()
        conv = [nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise((3, 64, 64, 128, 128))]
        relu = nn.ReLU()
        self.features = nn.Sequential(conv[0], relu, conv[1], relu, nn.MaxPool2d(2), conv[2], relu, conv[3], relu)
        state = torch.load(path, weights_only=True)  # torchvision's names: features.0.weight, …
        self.features.load_state_dict({name: state[f"features.{name}"] for name in self.features.state_dict()})
        self.requires_grad_(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)  # ImageNet's
        return F.mse_loss(self.features((sr - mean) / std), self.features((hr - mean) / std))


def content_step(generator: nn.Module, optimizer: Optimizer, lr: Tensor, hr: Tensor) -> Tensor:
    loss = mse_loss(generator(lr), hr)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss
