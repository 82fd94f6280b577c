"""The module: what is refused, what is trained and what is kept."""

from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from omegaconf import DictConfig

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.train import build_module
from srgan.training.callbacks import ProgressBar
from srgan.training.module import SRGAN


@pytest.fixture
def module(compose_config: Callable[..., DictConfig], tiny: list[str]) -> SRGAN:
    return build_module(compose_config(*tiny, "loss=srgan_vgg22", "vgg=random"))


def test_an_adversarial_loss_needs_a_discriminator(module: SRGAN) -> None:
    with pytest.raises(UserError, match="needs a discriminator"):
        SRGAN(module.generator, {"gan": module.phases[1]}, 0.999, None, 1, False, cuda_graph=False)


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


def test_what_the_progress_bar_shows_lies_on_no_device(module: SRGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would wait at every step for a figure that it keeps as a tensor."""
    trainer = SimpleNamespace(progress_bar_metrics={}, world_size=1, is_global_zero=True, loggers=[])
    monkeypatch.setattr(SRGAN, "trainer", trainer)
    monkeypatch.setattr(SRGAN, "log_dict", Mock(side_effect=AssertionError("kept as tensors")))
    module._report({"train/loss": torch.tensor(0.25), "loss/mse": torch.tensor(1.0)}, 3, 1e-4, 2)
    assert ProgressBar().get_metrics(trainer, module) == {"loss": 0.25}


def test_a_gradient_penalty_with_batch_normalisation_is_warned_of(
    compose_config: Callable[..., DictConfig], tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    build_module(compose_config(*tiny, "loss=srgan_mse"))
    assert "batch normalisation" not in caplog.text
    build_module(compose_config(*tiny, "loss=srgan_mse", "adversarial.r1=1"))
    assert "does not suit batch normalisation" in caplog.text and "discriminator=patch" in caplog.text


def test_a_loss_that_is_not_finite_stops_training_and_the_first_one_is_named(module: SRGAN) -> None:
    steps = module.phases[0].steps
    faults = {"mse": torch.tensor(torch.inf), "adversarial": torch.tensor(0.0), "discriminator": torch.tensor(2.0)}
    module._steps = [SimpleNamespace(faults=faults)] * 2
    expected = rf"diverged by step {steps + 3} \(train/loss nan\); the first was adversarial, at step {steps + 1};"
    with pytest.raises(UserError, match=expected):
        module._report({"train/loss": torch.tensor(torch.nan)}, steps + 3, 1e-4, 2)
