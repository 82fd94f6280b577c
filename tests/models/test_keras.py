"""The Keras recipe's generator against a second implementation, and its number of weights."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.models.generators import KerasSRResNet

REPEATS = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


def plain_sr(generator: KerasSRResNet, lr: Tensor, blocks: int) -> Tensor:
    """The recipe layer by layer, on the tensors of the state dict by their names; BN by each batch's statistics."""
    state = dict(generator.named_parameters())

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean((0, 2, 3), keepdim=True)
        x = x / (x.square().mean((0, 2, 3), keepdim=True) + 1e-3).sqrt()
        return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    head = x = conv(2 * lr - 1, "head.0").clamp(min=0)
    for block in range(blocks):
        y = norm(conv(x, f"trunk.{block}.body.0").clamp(min=0), f"trunk.{block}.body.2")
        x = x + norm(conv(y, f"trunk.{block}.body.3"), f"trunk.{block}.body.4")
    x = head + norm(conv(x, f"trunk.{blocks}"), f"trunk.{blocks + 1}")
    for stage, factor in enumerate(REPEATS[generator.scale]):
        x = x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
        x = conv(x, f"upsampling.{stage}.1").clamp(min=0)
    x = conv(x, "tail")
    return torch.sigmoid(2 * x)  # (tanh(x) + 1) / 2


@pytest.mark.parametrize("scale", REPEATS)
def test_sr_and_all_gradients_are_those_of_a_second_implementation(scale: int) -> None:
    torch.manual_seed(scale)
    generator, lr = KerasSRResNet(scale, channels=4, blocks=2).double(), torch.rand(2, 3, 6, 5).double()
    for name, value in generator.named_parameters():
        if value.ndim == 1:
            nn.init.uniform_(value, 0.5, 1.5) if name.endswith("weight") else nn.init.uniform_(value, -0.2, 0.2)
    weights = list(generator.parameters())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", lambda self: self)  # all in float64
        results = [generator(lr), plain_sr(generator, lr, 2)]
    gradients = [torch.autograd.grad(sr.square().sum(), weights) for sr in results]
    torch.testing.assert_close(*results)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-6)


def test_it_has_the_recipes_weights() -> None:
    head, tail = 9 * 9 * 3 * 64 + 64, 9 * 9 * 256 * 3 + 3
    conv, norm = 3 * 3 * 64 * 64 + 64, 2 * 64
    stages = (3 * 3 * 64 * 256 + 256) + (3 * 3 * 256 * 256 + 256)
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in KerasSRResNet(4, 64, 16).parameters())
    assert weights == head + 16 * 2 * (conv + norm) + conv + norm + stages + tail == 2_038_467


def test_running_statistics_move_as_keras_moves_them() -> None:
    """Momentum 0.8: a fifth of each batch."""
    generator = KerasSRResNet(2, 4, 1)
    seen: list[Tensor] = []
    norm = generator.trunk[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generator(torch.rand(2, 3, 8, 8))
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, 0.2 * seen[0].mean((0, 2, 3)))
