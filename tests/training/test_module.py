"""The training step: which gradient reaches what, how steps are counted, what is averaged."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from srgan.data.datamodule import Pair
from srgan.errors import UserError
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
    mix = LossMix({"mse": MSELoss()}, {"mse": 4.0, "adversarial": 0.5}, NonSaturating())
    return Phase(steps=steps, loss=mix, optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=constant)


def make_module(**phases: Phase) -> SRGAN:
    torch.manual_seed(0)
    generator = SRResNet(scale=2, channels=4, blocks=1)
    return SRGAN(generator, phases, SRGANDiscriminator(crop=16, channels=2, hidden=4))


@pytest.fixture
def batch() -> Pair:
    generator = torch.Generator().manual_seed(1)
    return Pair(torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 3, 16, 16, generator=generator))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> SRGAN:
    module = make_module(content=content_phase(), gan=gan_phase())
    monkeypatch.setattr(module, "manual_backward", lambda loss, **options: loss.backward(**options))
    return module


def gradients(network: nn.Module) -> list[torch.Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in network.parameters()]


def test_the_generators_gradient_is_that_of_the_weighted_sum(module: SRGAN, batch: Pair) -> None:
    mix = module.phases[1].loss
    assert mix is not None and mix.adversarial is not None and module.discriminator is not None
    reference, judge = copy.deepcopy(module.generator), copy.deepcopy(module.discriminator)
    sr = reference(batch.lr)
    expected = 4 * (sr - batch.hr).square().mean() + 0.5 * nn.functional.softplus(-judge(sr)).mean()
    expected.backward()
    optimizer = torch.optim.SGD(module.generator.parameters(), lr=0.0)
    values = module._update_generator(module.generator(batch.lr), batch.hr, mix, optimizer, True)
    torch.testing.assert_close(values["train/loss"], expected.detach())
    for mine, theirs in zip(module.generator.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_generators_update_leaves_the_discriminator_without_gradient(module: SRGAN, batch: Pair) -> None:
    mix = module.phases[1].loss
    assert mix is not None and module.discriminator is not None
    optimizer = torch.optim.SGD(module.generator.parameters(), lr=0.1)
    before = copy.deepcopy(list(module.discriminator.parameters()))
    module._update_generator(module.generator(batch.lr), batch.hr, mix, optimizer, False)
    assert all(gradient is None for gradient in gradients(module.discriminator))
    assert all(torch.equal(a, b) for a, b in zip(before, module.discriminator.parameters(), strict=True))
    assert all(gradient is not None for gradient in gradients(module.generator))


def test_the_discriminators_update_leaves_the_generator_without_gradient(module: SRGAN, batch: Pair) -> None:
    mix = module.phases[1].loss
    assert mix is not None and module.discriminator is not None
    optimizer = torch.optim.SGD(module.discriminator.parameters(), lr=0.1)
    sr = module.generator(batch.lr)
    module._update_discriminator(sr.detach(), batch.hr, mix, optimizer, False)
    assert all(gradient is None for gradient in gradients(module.generator))
    assert all(gradient is not None for gradient in gradients(module.discriminator))


def test_each_losss_gradient_norm_is_taken_at_the_sr_image(module: SRGAN, batch: Pair) -> None:
    mix = module.phases[1].loss
    assert mix is not None
    optimizer = torch.optim.SGD(module.generator.parameters(), lr=0.0)
    sr = module.generator(batch.lr)
    values = module._update_generator(sr, batch.hr, mix, optimizer, True)
    expected = 4 * 2 * (sr - batch.hr).norm() / sr.numel()  # of 4 · MSE
    torch.testing.assert_close(values["grad_at_sr/mse"], expected.detach())
    assert values["grad_at_sr/adversarial"] > 0


def test_the_average_copies_first_then_warms_up(module: SRGAN) -> None:
    start = module.generator.tail.weight.detach().clone()
    module._update_ema(0)
    assert torch.equal(module.ema.tail.weight, start)
    with torch.no_grad():
        module.generator.tail.weight.add_(1.0)
    module._update_ema(8)  # decay (1 + 8) / (10 + 8) = ½
    torch.testing.assert_close(module.ema.tail.weight, start + 0.5)
    module._update_ema(10**9)  # decay 0.999
    torch.testing.assert_close(module.ema.tail.weight, start + 0.5 + 0.5 * 0.001)


def test_the_average_holds_batch_norms_statistics(module: SRGAN, batch: Pair) -> None:
    module.generator.train()(batch.lr)
    module._update_ema(8)
    name, mean = next((n, b) for n, b in module.ema.named_buffers() if n.endswith("running_mean"))
    torch.testing.assert_close(mean, module.generator.get_buffer(name) / 2)


def test_phases_follow_each_other_by_steps(module: SRGAN) -> None:
    assert [module.phase_at(step) for step in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert module.total_steps == 5


def test_a_phase_without_loss_or_steps_is_left_out() -> None:
    nothing = Phase(steps=5, loss=None, optimizer=torch.optim.SGD, scheduler=constant)
    assert [phase.name for phase in make_module(content=content_phase(), gan=nothing).phases] == ["content"]
    assert [phase.name for phase in make_module(content=content_phase(0), gan=gan_phase()).phases] == ["gan"]
    with pytest.raises(UserError, match="nothing to train"):
        make_module(gan=nothing)


def test_an_adversarial_loss_needs_a_discriminator() -> None:
    with pytest.raises(UserError, match="needs a discriminator"):
        SRGAN(SRResNet(2, 4, 1), {"gan": gan_phase()})


def test_vgg_is_in_no_checkpoint_and_in_no_optimizer() -> None:
    vgg = VGGLoss({"conv1_2": 1.0}, weights="random")
    mix = LossMix({"vgg": vgg}, {"vgg": 1.0, "adversarial": 1.0}, NonSaturating())
    phase = Phase(steps=1, loss=mix, optimizer=partial(torch.optim.SGD, lr=0.1), scheduler=constant)
    module = make_module(gan=phase)
    assert not [key for key in module.state_dict() if key.startswith("losses")]
    assert vgg.get_buffer("conv1_1_weight") is module.losses["gan"].content["vgg"].get_buffer("conv1_1_weight")
    assert module.discriminator is not None
    networks = {id(p) for network in (module.generator, module.discriminator) for p in network.parameters()}
    optimizers, _ = module.configure_optimizers()
    held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert set(held) == networks
    assert not any(p.requires_grad for p in module.parameters() if id(p) not in networks)


def test_a_loss_that_is_not_finite_stops_training(module: SRGAN) -> None:
    with pytest.raises(UserError, match="diverged by step 7"):
        module._report({"train/loss": torch.tensor(torch.nan)}, 7, 1e-4, 2)
