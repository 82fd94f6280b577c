"""The module: what is refused, what is trained and what is kept."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest
import torch
from omegaconf import DictConfig

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.train import build_module
from srgan.training.module import SRGAN


@pytest.fixture
def module(compose_config: Callable[..., DictConfig], tiny: list[str]) -> SRGAN:
    return build_module(compose_config(*tiny, "loss=srgan_vgg22", "vgg_weights=random"))


def test_an_adversarial_loss_needs_a_discriminator(module: SRGAN) -> None:
    with pytest.raises(UserError, match="needs a discriminator"):
        SRGAN(module.generator, {"gan": module.phases[1]}, 0.999, None, cuda_graph=False)


def test_vgg_is_in_no_checkpoint_and_in_no_optimizer(module: SRGAN) -> None:
    assert list(module.losses["gan"].content["vgg22"].buffers())
    assert not [key for key in module.state_dict() if key.startswith("losses")]
    networks = {id(p) for network in (module.generator, module.discriminator) for p in network.parameters()}
    optimizers, _ = module.configure_optimizers()
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    assert held == networks
    assert not any(p.requires_grad for p in module.parameters() if id(p) not in networks)


def test_large_pictures_are_validated_in_tiles(module: SRGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    lr, hr = torch.rand(1, 3, 12, 12), torch.rand(1, 3, 48, 48)
    by_tiles = Mock(return_value=hr / 2)
    monkeypatch.setattr("srgan.training.module.enlarge", by_tiles)
    assert module.validation_step(Pair(lr, hr), 0)["sr"] is by_tiles.return_value
    by_tiles.assert_called_once_with(module.ema, lr)
