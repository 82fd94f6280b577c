"""The module: what is refused, what is trained and what is kept."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from omegaconf import DictConfig

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.inference.tiles import enlarge
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
    overlap = module.ema.receptive_field
    lr = torch.rand(1, 3, 3 * overlap + 5, 3 * overlap + 9)
    batch = Pair(lr, torch.rand(1, 3, 4 * lr.shape[-2], 4 * lr.shape[-1]))
    seen: list[int] = []
    monkeypatch.setattr("srgan.training.module.enlarge", partial(enlarge, tile=1))
    module.ema.register_forward_hook(lambda network, args, sr: seen.append(args[0].shape[-1]))
    with torch.no_grad():
        tiled = module.validation_step(batch, 0)["sr"]
        assert len(seen) > 1 and max(seen) <= 3 * overlap
        torch.testing.assert_close(tiled, module.ema(lr), atol=1e-5, rtol=0)
