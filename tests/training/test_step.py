"""The training step: which gradient reaches what, and what is measured."""

import copy

import pytest
import torch
from torch import nn

from srgan.data.datamodule import Pair
from srgan.losses.adversarial import NonSaturating
from srgan.losses.mix import LossMix
from srgan.losses.pixel import MSELoss
from srgan.models.discriminators import SRGANDiscriminator
from srgan.models.generators import SRResNet
from srgan.training.ema import EMA
from srgan.training.step import Step, _discriminator_figures


@pytest.fixture
def batch() -> Pair:
    generator = torch.Generator().manual_seed(1)
    return Pair(torch.rand(2, 3, 8, 8, generator=generator), torch.rand(2, 3, 16, 16, generator=generator))


@pytest.fixture
def step() -> Step:
    """A GAN phase's step, 4 · MSE + ½ adversarial, that moves nothing (learning rate 0)."""
    torch.manual_seed(0)
    generator, discriminator = (
        SRResNet(scale=2, channels=4, blocks=1),
        SRGANDiscriminator(crop=16, channels=2, hidden=4),
    )
    return Step(
        generator=generator,
        ema=EMA(copy.deepcopy(generator).requires_grad_(False), generator, 0.999),
        loss=LossMix({"mse": MSELoss()}, {"mse": 4.0, "adversarial": 0.5}, NonSaturating(r1=0.0, real_label=1.0)),
        optimizer=torch.optim.SGD(generator.parameters(), lr=0.0),
        discriminator=discriminator,
        discriminator_optimizer=torch.optim.SGD(discriminator.parameters(), lr=0.0),
    )


def test_the_generators_gradient_is_that_of_the_weighted_sum(step: Step, batch: Pair) -> None:
    assert step.discriminator is not None
    reference, judge = copy.deepcopy(step.generator), copy.deepcopy(step.discriminator)
    sr = reference(batch.lr)
    expected = 4 * (sr - batch.hr).square().mean() + 0.5 * nn.functional.softplus(-judge(sr)).mean()
    expected.backward()
    values = step(batch, 0, logging=True)
    torch.testing.assert_close(values["train/loss"], expected.detach())
    for mine, theirs in zip(step.generator.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_the_discriminators_gradient_is_that_of_its_loss_alone_after_both_updates(step: Step, batch: Pair) -> None:
    assert step.discriminator is not None
    judge, fake = copy.deepcopy(step.discriminator), step.generator(batch.lr).detach()
    (nn.functional.softplus(-judge(batch.hr)).mean() + nn.functional.softplus(judge(fake)).mean()).backward()
    step(batch, 0, logging=False)
    for mine, theirs in zip(step.discriminator.parameters(), judge.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_a_step_moves_both_networks_and_passes_the_generator_once(step: Step, batch: Pair) -> None:
    passes: list[object] = []
    step.generator.register_forward_hook(lambda *_: passes.append(1))
    assert step.discriminator is not None and step.discriminator_optimizer is not None
    for optimizer in (step.optimizer, step.discriminator_optimizer):
        optimizer.param_groups[0]["lr"] = 0.1
    before = [copy.deepcopy(network.state_dict()) for network in (step.generator, step.discriminator)]
    assert step(batch, 0, logging=False) == {}
    assert len(passes) == 1
    for state, network in zip(before, (step.generator, step.discriminator), strict=True):
        assert not [name for name, p in network.named_parameters() if torch.equal(p, state[name])]


def test_a_logging_step_measures_and_moves_the_same(step: Step, batch: Pair) -> None:
    step.optimizer.param_groups[0]["lr"] = 0.1
    twin = copy.deepcopy(step)
    twin.optimizer = torch.optim.SGD(twin.generator.parameters(), lr=0.1)
    values = step(batch, 3, logging=True)
    assert {"train/loss", "loss/mse", "train/d_accuracy", "grad_norm/generator", "grad_at_sr/adversarial"} <= set(
        values
    )
    twin(batch, 3, logging=False)
    for mine, theirs in zip(step.ema.average.parameters(), twin.ema.average.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_discriminators_accuracy_is_the_share_of_logits_on_the_right_side(step: Step, batch: Pair) -> None:
    heads = torch.tensor([[1.0], [-2.0]]), torch.tensor([[-1.0], [-3.0]])  # of HR, then of SR
    figures = _discriminator_figures(*heads)
    assert float(figures["train/d_accuracy"]) == 0.75
    assert [float(figures[f"train/d_{name}"]) for name in ("real", "fake", "gap")] == [-0.5, -2.0, 1.5]
    several = _discriminator_figures((heads[0], heads[0]), (heads[1], heads[0]))  # the mean over the heads
    assert float(several["train/d_accuracy"]) == 0.625 and float(several["train/d_fake"]) == -1.25


def test_each_losss_gradient_norm_is_taken_at_the_sr_image(step: Step, batch: Pair) -> None:
    sr = step.generator(batch.lr).detach()
    values = step(batch, 0, logging=True)
    expected = 4 * 2 * (sr - batch.hr).norm() / sr.numel()  # of 4 · MSE
    torch.testing.assert_close(values["grad_at_sr/mse"], expected)
    ratio = values["grad_at_sr/mse"] / values["grad_at_sr/adversarial"]
    torch.testing.assert_close(values["train/content_to_adversarial"], ratio)


def test_clipping_bounds_the_gradients_norm(step: Step, batch: Pair) -> None:
    step.gradient_clip = 1e-3
    norm = step(batch, 0, logging=True)["grad_norm/generator"]
    assert norm > 1e-3  # what was found
    clipped = torch.stack([p.grad.norm() for p in step.generator.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(clipped, torch.tensor(1e-3), rtol=1e-3, atol=0)
