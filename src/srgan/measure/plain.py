"""A plain implementation of SRGAN training, like most public code, as the baseline of `srgan.speed`.

fp32, eager, NCHW. A GAN step runs the generator twice, and the generator's backward pass also computes discriminator
gradients that the next step discards. Losses are read from the device at each step. PIL opens, crops, reduces and
converts images one by one.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

from srgan.data.datamodule import ImageDataModule
from srgan.data.degradation import BicubicDegradation, PillowDegradation
from srgan.data.sources import FolderSource, PairSource
from srgan.losses.adversarial import NonSaturating
from srgan.losses.mix import FEATURE_MATCHING, LossMix
from srgan.models.discriminators import Logits, heads
from srgan.models.generators import SRResNet
from srgan.training.module import SRGAN
from srgan.training.phases import Phase


def loads_alike(data: ImageDataModule) -> bool:
    """True if the plain loader makes what the configured one does: crops of files of HR, reduced by bicubic."""
    files = isinstance(data.splits.train, FolderSource) and not isinstance(data.splits.train, PairSource)
    whole = data.resize is None and not data.multiscale
    sharp = not getattr(data.degradation, "blur_sigma", 0.0)
    return files and whole and sharp and isinstance(data.degradation, BicubicDegradation | PillowDegradation)


def steps_alike(module: SRGAN, phase: Phase) -> bool:
    """True if the plain step does the configured work: whole batches, cross-entropy with a weight, no penalty."""
    if module.accumulate > 1 or module.separate_batches:
        return False
    mix = phase.loss
    weighted = not mix.balance and FEATURE_MATCHING not in mix.weights and not mix.penalises_gradients
    return weighted and (mix.adversarial is None or type(mix.adversarial) is NonSaturating)


@dataclass
class PlainStep:
    """One plain training step. lr, hr: (B, 3, h, w) and (B, 3, H, W) float32 in [0, 1]."""

    generator: nn.Module
    loss: LossMix
    optimizer: torch.optim.Optimizer
    discriminator: nn.Module | None = None
    discriminator_optimizer: torch.optim.Optimizer | None = None

    def __call__(self, lr: Tensor, hr: Tensor) -> float:
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            real, fake = self.discriminator(hr), self.discriminator(self.generator(lr).detach())
            d_loss = _cross_entropy(real, 1) + _cross_entropy(fake, 0)
            self.discriminator_optimizer.zero_grad()
            d_loss.backward()  # pyright: ignore[reportUnknownMemberType]
            self.discriminator_optimizer.step()
            d_loss.item()
        sr = self.generator(lr)
        loss = torch.zeros((), device=sr.device)
        for name, content in self.loss.content.items():
            loss = loss + self.loss.weights[name] * content(sr, hr)
        if self.discriminator is not None:
            loss = loss + self.loss.weights["adversarial"] * _cross_entropy(self.discriminator(sr), 1)
        self.optimizer.zero_grad()
        loss.backward()  # pyright: ignore[reportUnknownMemberType]
        self.optimizer.step()
        return loss.item()


def _cross_entropy(logits: Logits, target: float) -> Tensor:
    """Binary cross-entropy with one target, averaged over a discriminator's heads."""
    losses = [F.binary_cross_entropy_with_logits(head, torch.full_like(head, target)) for head in heads(logits)]
    return torch.stack(losses).mean()


class PlainSRResNet(nn.Module):
    """The paper's generator with its last convolution after the last pixel shuffle."""

    def __init__(self, generator: SRResNet) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, lr: Tensor) -> Tensor:
        x = self.generator.head(lr)
        x = x + self.generator.trunk(x)
        return (self.generator.tail(self.generator.upsampling(x)) + 1) / 2


def plain_network(network: nn.Module, device: torch.device) -> nn.Module:
    """A plain copy of the network, in NCHW layout."""
    network = copy.deepcopy(network).to(device).to(memory_format=torch.contiguous_format)
    return PlainSRResNet(network) if isinstance(network, SRResNet) else network


class PlainDataset(Dataset[tuple[Tensor, Tensor]]):
    """Random crops by PIL: (LR, HR) floats in [0, 1]."""

    def __init__(self, paths: list[Path], crop: int, scale: int) -> None:
        self.paths = paths
        self.crop = crop
        self.scale = scale

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        if (factor := self.crop / min(image.size)) > 1:
            image = image.resize((math.ceil(image.width * factor), math.ceil(image.height * factor)))
        left = int(torch.randint(image.width - self.crop + 1, ()))
        top = int(torch.randint(image.height - self.crop + 1, ()))
        hr = image.crop((left, top, left + self.crop, top + self.crop))
        if torch.rand(()) < 0.5:
            hr = hr.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        side = self.crop // self.scale
        lr = hr.resize((side, side), Image.Resampling.BICUBIC)
        return _to_tensor(lr), _to_tensor(hr)


def plain_batches(
    source: FolderSource, crop: int, scale: int, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of LR and HR."""
    dataset = PlainDataset([Path(source.name(index)) for index in range(len(source))], crop, scale)
    sampler = RandomSampler(dataset, replacement=True, num_samples=10**9)
    return iter(DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers))


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
