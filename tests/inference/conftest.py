"""Generators as after a training, shared by the tests of this folder."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from srgan.models.generators import Compact, Generator, SRResNet


@pytest.fixture(scope="session")
def trained() -> Callable[..., Generator]:
    """trained(SRResNet, scale): a small generator whose every weight and running statistic is random."""

    def make(kind: type[SRResNet | Compact], scale: int, channels: int = 8, blocks: int = 1) -> Generator:
        torch.manual_seed(scale)
        generator = kind(scale, channels, blocks)
        for module in generator.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
            if (
                isinstance(module, nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
        return generator.eval()

    return make
