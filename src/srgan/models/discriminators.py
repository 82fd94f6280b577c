"""Discriminators: (B, 3, H, W) in [0, 1] → logits, positive for "real": one an image, or one a patch."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from srgan.errors import UserError


class SRGANDiscriminator(nn.Module):
    """The paper's discriminator (Fig. 4): eight 3×3 convolutions, LeakyReLU 0.2, two dense layers; no sigmoid.

    Images are mapped to the paper's [−1, 1] inside. 23.6 M weights at crop 96.

    Args:
        crop: side of the square input in pixels, a multiple of 16 (four strides of 2).
        channels: feature maps of the first convolution, 64 in the paper; the last has eight times as many.
        hidden: width of the first dense layer, 1024 in the paper.
    """

    def __init__(self, crop: int, channels: int, hidden: int) -> None:
        super().__init__()
        if crop < 16 or crop % 16:
            below = max(16, crop - crop % 16)
            raise UserError(
                f"crop {crop} does not suit the discriminator, which needs a multiple of 16;"
                f" try data.crop={below} or {below + 16}"
            )
        self.crop = crop
        widths = [channels * factor for factor in (1, 1, 2, 2, 4, 4, 8, 8)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 1 + index % 2
            layers += [
                nn.Conv2d(before, after, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * (crop // 16) ** 2, hidden),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(hidden, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.crop, self.crop):
            raise ValueError(f"this discriminator takes {self.crop}×{self.crop} images, got {tuple(images.shape)}")
        x = self.features(images * 2 - 1)  # (B, 512, crop / 16, crop / 16)
        return self.classifier(x).float()


class PatchDiscriminator(nn.Module):
    """One logit for each patch (Isola et al. 2017, §3.2), by spectrally normalised convolutions (Miyato et al. 2018).

    (B, 3, H, W) → (B, 1, ⌊H / 8⌋, ⌊W / 8⌋), for sides of 8 pixels and more; a logit sees 52×52 pixels. Its slopes are
    bounded, it has few weights (0.44 M) and no batch normalisation: it takes long to tell SR from HR without fail, and
    till then the generator learns from it. No sigmoid. Images are mapped to [−1, 1] inside.

    Args:
        channels: feature maps of the first convolution; the last has four times as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels * factor for factor in (1, 1, 2, 2, 4, 4)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            down = index % 2
            convolution = nn.Conv2d(before, after, 4 if down else 3, 1 + down, padding=1)
            layers += [spectral_norm(convolution), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images * 2 - 1).float()
