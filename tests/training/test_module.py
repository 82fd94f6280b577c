"""The module: its phases, what is trained and what is kept."""

from functools import partial

import pytest
import torch
from torch import nn

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


def gan_phase(steps: int, loss: nn.Module) -> Phase:
    mix = LossMix({"loss": loss}, {"loss": 4.0, "adversarial": 0.5}, NonSaturating())
    return Phase(steps=steps, loss=mix, optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=constant)


def make_module(discriminator: bool = True, **phases: Phase) -> SRGAN:
    network = SRGANDiscriminator(crop=16, channels=2, hidden=4) if discriminator else None
    return SRGAN(SRResNet(2, 4, 1), phases, 0.999, None, cuda_graph=False, discriminator=network)


@pytest.fixture
def module() -> SRGAN:
    content = Phase(
        steps=3, loss=LossMix({"mse": MSELoss()}, {"mse": 4.0}), optimizer=torch.optim.SGD, scheduler=constant
    )
    return make_module(content=content, gan=gan_phase(2, MSELoss()))


def test_phases_follow_each_other_by_steps(module: SRGAN) -> None:
    assert [module.phase_at(step) for step in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert module.total_steps == 5


def test_what_cannot_be_trained_is_refused(module: SRGAN) -> None:
    with pytest.raises(UserError, match="nothing to train"):
        make_module()
    with pytest.raises(UserError, match="needs a discriminator"):
        make_module(discriminator=False, gan=gan_phase(1, MSELoss()))
    with pytest.raises(UserError, match="diverged by step 7"):
        module._report({"train/loss": torch.tensor(torch.nan)}, 7, 1e-4, 2)


def test_vgg_is_in_no_checkpoint_and_in_no_optimizer() -> None:
    vgg = VGGLoss({"conv1_2": 1.0}, weights="random")
    module = make_module(gan=gan_phase(1, vgg))
    assert not [key for key in module.state_dict() if key.startswith("losses")]
    assert module.losses["gan"].content["loss"] is vgg
    assert module.discriminator is not None
    networks = {id(p) for network in (module.generator, module.discriminator) for p in network.parameters()}
    optimizers, _ = module.configure_optimizers()
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert set(held) == networks
    assert not any(p.requires_grad for p in module.parameters() if id(p) not in networks)


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
