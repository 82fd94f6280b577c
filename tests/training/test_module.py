"""The module: its phases, what is trained and what is kept."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.inference.tiles import enlarge
from srgan.losses.adversarial import NonSaturating
from srgan.losses.mix import LossMix
from srgan.losses.perceptual import VGGLoss
from srgan.losses.pixel import MSELoss
from srgan.models.discriminators import SRGANDiscriminator
from srgan.models.generators import SRResNet
from srgan.training.module import SRGAN
from srgan.training.phases import Phase, constant


def content_phase(steps: int = 3) -> Phase:
    sgd = partial(torch.optim.SGD, lr=0.1)
    return Phase(steps=steps, loss=LossMix({"mse": MSELoss()}, {"mse": 4.0}), optimizer=sgd, scheduler=constant)


def gan_phase(steps: int = 2) -> Phase:
    mix = LossMix({"mse": MSELoss()}, {"mse": 4.0, "adversarial": 0.5}, NonSaturating(r1=0.0, real_label=1.0))
    return Phase(steps=steps, loss=mix, optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=constant)


def make_module(**phases: Phase) -> SRGAN:
    torch.manual_seed(0)
    generator = SRResNet(scale=2, channels=4, blocks=1)
    discriminator = SRGANDiscriminator(crop=16, channels=2, hidden=4)
    return SRGAN(generator, phases, 0.999, None, 1, False, cuda_graph=False, discriminator=discriminator)


@pytest.fixture
def module() -> SRGAN:
    return make_module(content=content_phase(), gan=gan_phase())


def test_phases_follow_each_other_by_steps(module: SRGAN) -> None:
    assert [module.phase_at(step) for step in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert module.total_steps == 5


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to train"):
        make_module()
    with pytest.raises(UserError, match="needs a discriminator"):
        SRGAN(SRResNet(2, 4, 1), {"gan": gan_phase()}, 0.999, None, 1, False, cuda_graph=False)


def test_a_gradient_penalty_with_batch_normalisation_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for adversarial in (NonSaturating(r1=0.0, real_label=1.0), NonSaturating(r1=1.0, real_label=1.0)):
        assert "discriminator=patch" not in caplog.text
        mix = LossMix({}, {"adversarial": 1.0}, adversarial)
        make_module(gan=Phase(steps=1, loss=mix, optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=constant))
    assert "does not suit batch normalisation" in caplog.text


def test_vgg_is_in_no_checkpoint_and_in_no_optimizer() -> None:
    vgg = VGGLoss({"conv1_2": 1.0}, weights="random")
    mix = LossMix({"vgg": vgg}, {"vgg": 1.0, "adversarial": 1.0}, NonSaturating(r1=0.0, real_label=1.0))
    phase = Phase(steps=1, loss=mix, optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=constant)
    module = make_module(gan=phase)
    assert not [key for key in module.state_dict() if key.startswith("losses")]
    assert vgg.network.get_buffer("conv1_1_weight") is module.losses["gan"].content["vgg"].network.get_buffer(
        "conv1_1_weight"
    )
    assert module.discriminator is not None
    networks = {id(p) for network in (module.generator, module.discriminator) for p in network.parameters()}
    optimizers, _ = module.configure_optimizers()
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert set(held) == networks
    assert not any(p.requires_grad for p in module.parameters() if id(p) not in networks)


def test_a_loss_that_is_not_finite_stops_training(module: SRGAN) -> None:
    faults = {"mse": torch.tensor(torch.inf), "adversarial": torch.tensor(0.0), "discriminator": torch.tensor(2.0)}
    module._steps = [SimpleNamespace(faults=faults)] * 2
    with pytest.raises(UserError, match=r"diverged by step 5 \(train/loss nan\); the first was adversarial, at step 4"):
        module._report({"train/loss": torch.tensor(torch.nan)}, 5, 1e-4, 2)


def test_large_pictures_are_validated_in_tiles(module: SRGAN, monkeypatch: pytest.MonkeyPatch) -> None:
    overlap = module.ema.receptive_field
    lr = torch.rand(1, 3, 3 * overlap + 5, 3 * overlap + 9)
    batch = Pair(lr, torch.rand(1, 3, 2 * lr.shape[-2], 2 * lr.shape[-1]))
    seen: list[int] = []
    monkeypatch.setattr("srgan.training.module.enlarge", partial(enlarge, tile=1))
    module.ema.register_forward_hook(lambda network, args, sr: seen.append(args[0].shape[-1]))
    with torch.no_grad():
        tiled = module.validation_step(batch, 0)["sr"]
        assert len(seen) > 1 and max(seen) <= 3 * overlap
        torch.testing.assert_close(tiled, module.ema(lr), atol=1e-5, rtol=0)
