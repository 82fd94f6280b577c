"""The module: what is refused, what is trained and what is kept."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.training.build import build_module
from srgan.training.callbacks import ProgressBar
from srgan.training.guard import Skipped
from srgan.training.module import SRGAN, TrainingDiverged


@pytest.fixture(scope="module")
def module(compose_config: Callable[..., DictConfig], tiny_on: Callable[[Path], list[str]], photos: Path) -> SRGAN:
    return build_module(compose_config(*tiny_on(photos), "loss=srgan_vgg22", "vgg=random"))


def test_an_adversarial_loss_needs_a_discriminator(module: SRGAN) -> None:
    with pytest.raises(UserError, match="needs a discriminator"):
        SRGAN(module.generator, {"gan": module.phases[1]}, 0.999, None, 1, False, 10, cuda_graph=False)


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


def test_beside_a_critic_the_generator_is_logged_where_it_learned_last(
    module: SRGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_trainer", Mock(log_every_n_steps=10))
    for critic_steps, expected in ((1, [10, 20, 30]), (5, [10, 13, 20, 23, 30, 33])):
        monkeypatch.setattr(module.phases[1].loss.adversarial, "critic_steps", critic_steps)
        logged = [step for step in range(4, 37) if module._is_logged(step, 1, step - 4)]
        assert logged == expected


def test_a_gradient_penalty_with_batch_normalisation_is_warned_of(
    compose_config: Callable[..., DictConfig], tiny: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    build_module(compose_config(*tiny, "loss=srgan_mse"))
    assert "batch normalisation" not in caplog.text
    build_module(compose_config(*tiny, "loss=srgan_mse", "adversarial.r1=1"))
    assert "does not suit batch normalisation" in caplog.text and "discriminator=patch" in caplog.text


def test_steps_not_applied_are_named_and_their_images_kept_until_too_many_come_in_a_row(
    module: SRGAN, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = SimpleNamespace(world_size=1, is_global_zero=True, loggers=[], default_root_dir=str(tmp_path))
    monkeypatch.setattr(SRGAN, "trainer", trainer)
    steps = module.phases[0].steps
    pictures = {"lr": torch.full((1, 3, 2, 2), torch.nan), "hr": torch.zeros(1, 3, 8, 8), "sr": torch.ones(1, 3, 8, 8)}
    reports = [
        Skipped(1, "the generator's loss mse", 1, 9, pictures),
        Skipped(7, "the discriminator's loss", 3, 10, {}),
    ]
    none, guard = Mock(**{"guard.report.return_value": None}), Mock(**{"guard.report.side_effect": reports})
    monkeypatch.setattr(module, "_steps", [none, guard], raising=False)
    module._report({"train/loss": torch.tensor(torch.nan), "train/d_real": torch.tensor(1.0)}, steps + 3, 1e-4, 2)
    path = tmp_path / "not_finite" / f"step_{steps + 2:07d}.safetensors"
    assert caplog.messages == [
        f"step {steps + 2:,} was not applied: the generator's loss mse was not finite; its images are in {path}"
    ]
    kept = load_file(path)
    assert kept["lr"].isnan().all() and all(torch.equal(kept[name], pictures[name]) for name in ("hr", "sr"))
    with pytest.raises(TrainingDiverged, match=rf"step {steps + 8:,} was not applied: the discriminator.*10 in a row"):
        module._report({"train/d_real": torch.tensor(1.0)}, steps + 12, 1e-4, 2)
