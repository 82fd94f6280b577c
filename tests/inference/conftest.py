"""Generators as after a training, shared by the tests of this folder."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from srgan.models.generators import Compact, Generator, SRResNet

Network = SRResNet | Compact


@pytest.fixture(scope="session")
def trained() -> Callable[..., Generator]:
    """trained(SRResNet, 3): a small generator whose every weight and running statistic is random.

    With a gain below 1, its SR is a picture near the LR's.
    """

    def make(kind: type[Network], scale: int = 2, channels: int = 8, blocks: int = 1, gain: float = 1) -> Generator:
        torch.manual_seed(scale)
        generator = kind(scale, channels, blocks)
        for name, value in generator.state_dict().items():
            if value.ndim == 4:
                nn.init.xavier_normal_(value, gain)
            elif value.is_floating_point():
                centred = name.endswith(("bias", "running_mean"))
                nn.init.uniform_(value, *((-0.1, 0.1) if centred else (0.5, 2)))
        return generator.eval()

    return make
