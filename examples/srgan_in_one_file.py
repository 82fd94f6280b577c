"""SRGAN in one file, after Ledig et al. 2017 (arXiv 1609.04802): from photographs to a trained network and a picture.

A generator learns to undo a bicubic reduction by 4. First it minimises the squared error alone, which gives SRResNet
(content phase); then it also learns to deceive a discriminator, which gives SRGAN (GAN phase). Images are RGB,
(B, 3, H, W), uint8 when read or scored and float in [0, 1] between. `lr` is always the low-resolution image.

    python srgan_in_one_file.py    # minutes on two CPU cores; --help for the paper's sizes and VGG19
"""

import argparse
import math
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN = ("hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg")
TEST = ("astronaut.png", "chelsea.png")  # both lie in scikit-image's wheel, like those above


# --- Data (§2.1, §3.2): random crops of photographs, and MATLAB's bicubic reduction of each ---------------------------
def read_photo(name: str) -> Tensor:  # (3, H, W) uint8
    image = Image.open(Path(find_spec("skimage").origin).parent / "data" / name).convert("RGB")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def batches(photos: list[Tensor], crop: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless pairs (lr, hr) of square crops at random places, turned at random, in changing colours."""
    while True:
        crops: list[Tensor] = []
        for index in torch.randint(len(photos), (size,)).tolist():
            top, left = (int(torch.randint(side - crop + 1, ())) for side in photos[index].shape[1:])
            patch = photos[index][:, top : top + crop, left : left + crop].rot90(int(torch.randint(4, ())), (1, 2))
            crops.append(patch[torch.randperm(3)])  # six photographs hold few colours: let channels change places
        hr = torch.stack(crops)
        yield imresize(hr, 1 / 4) / 255, hr / 255


def imresize(images: Tensor, scale: float) -> Tensor:
    """MATLAB's bicubic `imresize` of uint8 (…, H, W): rows, then columns, rounded half up to 8 bits after each."""
    for axis in (-2, -1):
        product = resize_matrix(images.shape[axis], scale) @ images.double().transpose(axis, -2)
        images = (product + 0.5 + 1e-9).floor().clamp(0, 255).byte().transpose(axis, -2)
    return images


def resize_matrix(length: int, scale: float) -> Tensor:
    """(scale · length, length): in each row the weights of one new pixel, the cubic kernel (Keys 1981, a = −0.5)."""
    stretch = min(scale, 1.0)  # a reduction widens the kernel by 1 / scale, against aliasing
    centers = (torch.arange(math.ceil(scale * length - 1e-9), dtype=torch.float64) + 0.5) / scale - 0.5
    beyond = math.ceil(2 / stretch) + 1  # pixels outside the image that the kernel may reach
    x = (stretch * (centers[:, None] - torch.arange(-beyond, length + beyond))).abs()
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = torch.where(x <= 1, near, far * (x <= 2))
    weights /= weights.sum(1, keepdim=True)
    weights[:, beyond] += weights[:, :beyond].sum(1)  # outside, the edge pixel is repeated
    weights[:, -beyond - 1] += weights[:, -beyond:].sum(1)
    return weights[:, beyond:-beyond]


# --- Networks (Fig. 4): k is the kernel's side, n the number of feature maps, s the stride ----------------------------
def conv_bn(before: int, after: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after)


class ResidualBlock(nn.Module):  # k3n64s1, BN, PReLU, k3n64s1, BN, elementwise sum
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv_bn(channels, channels), nn.PReLU(), *conv_bn(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SRResNet(nn.Module):  # the generator; 64 channels and 16 blocks in the paper
    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, channels, 9, padding=4), nn.PReLU())  # k9n64s1
        self.trunk = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)), *conv_bn(channels, channels))
        convs = [nn.Conv2d(channels, 4 * channels, 3, padding=1) for _ in range(2)]  # k3n256s1, pixel shuffle, PReLU
        self.upsampling = nn.Sequential(*(nn.Sequential(conv, nn.PixelShuffle(2), nn.PReLU()) for conv in convs))
        for parameter in (parameter for conv in convs for parameter in conv.parameters()):
            parameter.data = parameter.data[::4].repeat_interleave(4, 0)  # ICNR: no checkerboard (arXiv 1707.02937)
        self.tail = nn.Conv2d(channels, 3, 9, padding=4)  # k9n3s1

    def forward(self, lr: Tensor) -> Tensor:
        x = self.head(lr)  # (B, 64, h, w)
        x = x + self.trunk(x)
        x = self.upsampling(x)  # (B, 64, 4h, 4w)
        return (self.tail(x) + 1) / 2  # the paper's HR lies in [−1, 1] (§3.2)


class SRGANDiscriminator(nn.Module):  # (B, 3, crop, crop) → (B, 1): a logit, positive for "this is a photograph"
    def __init__(self, crop: int, channels: int, hidden: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 1, 2, 2, 4, 4, 8, 8)]
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1), nn.LeakyReLU(0.2)]
        for index, (before, after) in enumerate(pairwise(widths)):
            layers += [*conv_bn(before, after, stride=2 - index % 2), nn.LeakyReLU(0.2)]
        self.features, flat = nn.Sequential(*layers), widths[-1] * math.ceil(crop / 16) ** 2
        dense = (nn.Linear(flat, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))
        self.classifier = nn.Sequential(nn.Flatten(), *dense)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(2 * images - 1))


# --- Losses, the step and the measure (§2.2, §3.2) --------------------------------------------------------------------
class VGGLoss(nn.Module):  # Eq. 5: squared error of VGG19's features after the ReLU of conv2_2 (SRGAN-VGG22)
    def __init__(self, path: str) -> None:
        super().__init__()
        conv, relu = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise((3, 64, 64, 128, 128))], nn.ReLU()
        self.features = nn.Sequential(conv[0], relu, conv[1], relu, nn.MaxPool2d(2), conv[2], relu, conv[3], relu)
        state = torch.load(path, weights_only=True)  # torchvision's names: features.0.weight, …
        self.features.load_state_dict({name: state[f"features.{name}"] for name in self.features.state_dict()})
        self.requires_grad_(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=sr.dtype).view(2, 3, 1, 1)
        return F.mse_loss(self.features((sr - mean) / std), self.features((hr - mean) / std))


def minimise(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train_step(lr: Tensor, hr: Tensor, g, g_adam, vgg=None, d=None, d_adam=None) -> float:
    """One batch: D learns to tell HR from SR (Eq. 2), then G minimises content + 10⁻³ adversarial loss (Eq. 3, 6)."""
    sr = g(lr)
    if d is not None:  # softplus(−x) is −log sigmoid(x)
        minimise(F.softplus(-d(hr)).mean() + F.softplus(d(sr.detach())).mean(), d_adam)
    content = 4 * F.mse_loss(sr, hr) if vgg is None else vgg(sr, hr)  # Eq. 4 in the paper's range [−1, 1]; Eq. 5
    return minimise(content if d is None else content + 1e-3 * F.softplus(-d(sr)).mean(), g_adam)


def psnr(sr: Tensor, hr: Tensor) -> float:
    """PSNR in dB as most papers report it: of the luma Y of 8-bit images, rounded, without a border of 4 pixels."""
    luma = [torch.einsum("c,chw->hw", torch.tensor([65.481, 128.553, 24.966]).double(), x.double()) for x in (sr, hr)]
    x, y = ((16 + plane / 255 + 0.5).floor()[4:-4, 4:-4] for plane in luma)
    return float(10 * torch.log10(255**2 / (x - y).square().mean()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--vgg", help="VGG19 in torchvision's format: the GAN phase's content loss, else it is the MSE")
    parser.add_argument("--steps", nargs=2, type=int, default=(3500, 200), help="by phase; the paper: 10⁶ and 2·10⁵")
    parser.add_argument("--learning-rates", nargs=2, type=float, default=(2e-3, 1e-4), help="the paper: 1e-4 1e-4")
    for name, default, paper in (("channels", 16, 64), ("blocks", 4, 16), ("crop", 64, 96), ("batch-size", 8, 16)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"the paper: {paper}")
    parser.add_argument("--output", default="srgan_in_one_file.png", help="LR, bicubic, SRResNet, SRGAN and HR")
    options = parser.parse_args()
    torch.manual_seed(1)
    g, d = SRResNet(options.channels, options.blocks), SRGANDiscriminator(options.crop, options.channels, 256)
    data = batches([read_photo(name) for name in TRAIN], options.crop, options.batch_size)
    hrs = [photo[:, : photo.shape[1] // 4 * 4, : photo.shape[2] // 4 * 4] for photo in map(read_photo, TEST)]
    lrs = [imresize(hr, 1 / 4) for hr in hrs]
    pictures = {"LR": [F.interpolate(lr[None], scale_factor=4)[0] for lr in lrs]}
    pictures["bicubic"] = [imresize(lr, 4) for lr in lrs]
    vgg = None if options.vgg is None else VGGLoss(options.vgg)
    for name, steps, rate in zip(("SRResNet", "SRGAN"), options.steps, options.learning_rates, strict=True):
        g_adam, d_adam = (torch.optim.Adam(network.parameters(), rate) for network in (g, d))
        for step in range(steps):
            g_adam.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            train_step(*next(data), g.train(), g_adam, *((vgg, d, d_adam) if name == "SRGAN" else ()))
        with torch.no_grad():
            pictures[name] = [g.eval()(lr[None] / 255)[0].clamp(0, 1).mul(255).round().byte() for lr in lrs]
    pictures["HR"] = hrs
    for name in ("bicubic", "SRResNet", "SRGAN"):
        print(f"{name:8} {sum(map(psnr, pictures[name], hrs)) / len(hrs):.2f} dB")
    rows = [torch.cat([images[index][:, :256, 100:356] for images in pictures.values()], 2) for index in range(2)]
    Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).contiguous().numpy()).save(options.output)
