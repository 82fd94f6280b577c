"""The averaged generator: when it copies, how fast it follows, and that it holds all of BN."""

import copy

import pytest
import torch

from srgan.models.generators import SRResNet
from srgan.training.ema import EMA


@pytest.fixture
def ema() -> EMA:
    torch.manual_seed(0)
    generator = SRResNet(scale=2, channels=4, blocks=1)
    return EMA(copy.deepcopy(generator).requires_grad_(False), generator, 0.999)


def test_the_average_copies_first_then_warms_up(ema: EMA) -> None:
    weight, averaged = ema.generator.get_parameter("tail.weight").detach(), ema.average.get_parameter("tail.weight")
    weight.add_(2.0)
    start = weight.clone()
    ema.update(0)
    assert torch.equal(averaged, start)
    weight.add_(1.0)
    ema.update(8)  # decay (1 + 8) / (10 + 8) = ½
    torch.testing.assert_close(averaged, start + 0.5)
    ema.update(10**9)  # decay 0.999
    torch.testing.assert_close(averaged, start + 0.5 + 0.5 * 0.001)
    ema.decay = 0.0
    ema.update(5)
    torch.testing.assert_close(averaged, weight)


def test_the_average_holds_batch_norms_statistics_and_counters(ema: EMA) -> None:
    for _ in range(3):
        ema.generator.train()(torch.rand(2, 3, 8, 8))
    ema.update(8)
    buffers, current = dict(ema.average.named_buffers()), dict(ema.generator.named_buffers())
    for name in (name for name in buffers if name.endswith("running_mean")):
        torch.testing.assert_close(buffers[name], current[name] / 2)
    counters = [int(value) for name, value in buffers.items() if name.endswith("num_batches_tracked")]
    assert counters == [3, 3, 3]  # two in the block, one behind the trunk
