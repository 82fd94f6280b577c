"""The training step: which gradient reaches what, what is measured, and how the averaged generator follows."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from srgan.data.datamodule import Pair
from srgan.losses.adversarial import NonSaturating, Wasserstein
from srgan.losses.mix import LossMix
from srgan.losses.perceptual import VGGLoss
from srgan.losses.pixel import MSELoss
from srgan.models.discriminators import SRGANDiscriminator
from srgan.models.generators import SRResNet
from srgan.models.vgg import shared_vgg19
from srgan.training.ema import EMA, interpolate, interpolate_at_once
from srgan.training.step import Step, _logit_figures

SGD = partial(torch.optim.SGD, lr=0.1)


def make_step(
    device: str = "cpu",
    gradient_clip: float | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = SGD,
) -> Step:
    """A GAN phase's step, 4 · MSE + ½ adversarial, with the same weights at each call."""
    torch.manual_seed(0)
    generator = SRResNet(scale=2, channels=4, blocks=1).to(device)
    discriminator = SRGANDiscriminator(crop=16, channels=2, hidden=4).to(device)
    return Step(
        generator=generator,
        ema=EMA(copy.deepcopy(generator).requires_grad_(False), generator, 0.999),
        loss=LossMix({"mse": MSELoss()}, {"mse": 4.0, "adversarial": 0.5}, NonSaturating(r1=0.0, real_label=1.0)),
        optimizer=optimizer(generator.parameters()),
        discriminator=discriminator,
        discriminator_optimizer=optimizer(discriminator.parameters()),
        gradient_clip=gradient_clip,
    )


def make_batches(device: str, count: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(1)

    def images(side: int) -> torch.Tensor:
        return torch.rand(2, 3, side, side, generator=generator).to(device)

    return [Pair(images(8), images(16)) for _ in range(count)]


def state(step: Step) -> dict[str, torch.Tensor]:
    """The weights and buffers of all three networks."""
    networks = nn.ModuleDict({"g": step.generator, "ema": step.ema.average, "d": step.discriminator})
    return copy.deepcopy(networks.state_dict())


@pytest.fixture
def step() -> Step:
    return make_step()


@pytest.fixture
def batch() -> Pair:
    return make_batches("cpu", 1)[0]


def assert_same_gradients(network: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_each_gradient_is_that_of_its_own_loss_and_goes_nowhere_else(batch: Pair) -> None:
    step = make_step(optimizer=partial(torch.optim.SGD, lr=0.0))
    reference, judge = copy.deepcopy(step.generator), copy.deepcopy(step.discriminator)
    sr = reference(batch.lr)
    terms = {"mse": 4 * (sr - batch.hr).square().mean(), "adversarial": 0.5 * softplus(-judge(sr)).mean()}
    norms = {name: torch.autograd.grad(term, sr, retain_graph=True)[0].norm() for name, term in terms.items()}
    sum(terms.values()).backward()
    judge.zero_grad()
    (softplus(-judge(batch.hr)).mean() + softplus(judge(sr.detach())).mean()).backward()
    values = step(batch, 0, logging=True)
    torch.testing.assert_close(values["train/loss"], sum(terms.values()).detach())
    for name, norm in norms.items():
        torch.testing.assert_close(values[f"grad_at_sr/{name}"], norm)
    torch.testing.assert_close(values["train/content_to_adversarial"], norms["mse"] / norms["adversarial"])
    assert_same_gradients(step.generator, reference)
    assert_same_gradients(step.discriminator, judge)


def test_the_generator_learns_through_the_discriminator_as_it_is_after_its_update(batch: Pair) -> None:
    step = make_step(optimizer=partial(torch.optim.SGD, lr=0.5))
    reference, before = copy.deepcopy(step.generator), copy.deepcopy(step.discriminator)
    step(batch, 0, logging=False)
    expected: dict[str, list[torch.Tensor]] = {}
    for name, judge in ("before", before), ("after", copy.deepcopy(step.discriminator)):
        network = copy.deepcopy(reference)
        sr = network(batch.lr)
        (4 * (sr - batch.hr).square().mean() + 0.5 * softplus(-judge(sr)).mean()).backward()
        expected[name] = [parameter.grad for parameter in network.parameters()]
    found = [parameter.grad for parameter in step.generator.parameters()]
    for mine, after in zip(found, expected["after"], strict=True):
        torch.testing.assert_close(mine, after, rtol=1e-3, atol=1e-6)
    assert any(not torch.allclose(x, y, rtol=1e-2) for x, y in zip(found, expected["before"], strict=True))


@pytest.mark.parametrize("critic", [False, True])
def test_a_penalty_on_the_discriminators_gradient_takes_part_in_its_update(batch: Pair, critic: bool) -> None:
    step = make_step(optimizer=partial(torch.optim.SGD, lr=0.0))
    step.discriminator.eval()  # so that no image sees the others of its batch
    step.loss = LossMix(
        {"mse": MSELoss()}, {"mse": 4.0, "adversarial": 0.5},
        Wasserstein(7.0, 1, 0.0) if critic else NonSaturating(r1=5.0, real_label=1.0),
    )  # fmt: skip
    sr, judge = step.generator.eval()(batch.lr).detach(), copy.deepcopy(step.discriminator)
    if critic:
        places = torch.tensor([0.0, 0.7548776662466927]).view(-1, 1, 1, 1)
        at = (sr * places + batch.hr * (1 - places)).requires_grad_()
        value = judge(sr).mean() - judge(batch.hr).mean()
    else:
        at = batch.hr.clone().requires_grad_()
        value = softplus(-judge(batch.hr)).mean() + softplus(judge(sr)).mean()
    (slope,) = torch.autograd.grad(judge(at).sum(), at, create_graph=True)
    squares = slope.square().sum((1, 2, 3))
    penalty = 7 * (squares.sqrt() - 1).square().mean() if critic else 5 / 2 * squares.mean()
    judge.zero_grad()
    (value + penalty).backward()
    values = step(batch, 0, logging=True)
    torch.testing.assert_close(values["train/d_penalty"], penalty.detach(), rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(step.discriminator.parameters(), judge.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("option", ["balance", "ramp"])
def test_weights_that_are_found_in_the_step_reach_the_generator(batch: Pair, option: str) -> None:
    step = make_step(optimizer=partial(torch.optim.SGD, lr=0.0))
    options = {"balance": {"adversarial": 0.25}} if option == "balance" else {"ramp": 10}
    step.loss = LossMix(
        {"mse": MSELoss()}, {"mse": 4.0, "adversarial": 0.5}, NonSaturating(r1=0.0, real_label=1.0), **options
    )
    reference, judge = copy.deepcopy(step.generator), copy.deepcopy(step.discriminator)
    sr = reference(batch.lr)
    judge(batch.hr)  # moves BN's statistics as the step does
    content, adversarial = 4 * (sr - batch.hr).square().mean(), softplus(-judge(sr)).mean()
    norms = [torch.autograd.grad(term, sr, retain_graph=True)[0].norm() for term in (content, adversarial)]
    weight = 0.25 * norms[0] / norms[1] if option == "balance" else 0.5 * 3 / 10  # in the third step of ten
    (content + weight * adversarial).backward()
    step(batch, 2, logging=False)
    assert_same_gradients(step.generator, reference)


def test_a_step_moves_all_networks_by_one_pass_and_the_same_where_it_measures(step: Step, batch: Pair) -> None:
    passes: list[object] = []
    step.generator.register_forward_hook(lambda *_: passes.append(1))
    before, twin = state(step), make_step()
    assert step(batch, 3, logging=False) == {}
    assert len(passes) == 1
    assert not [name for name, value in state(step).items() if torch.equal(value, before[name])]
    values = twin(batch, 3, logging=True)
    assert {"loss/mse", "train/d_accuracy", "grad_norm/generator", "grad_at_sr/adversarial"} <= set(values)
    for name, value in state(step).items():
        assert torch.equal(value, state(twin)[name]), name


def test_the_discriminators_logits_are_means_over_its_heads() -> None:
    heads = torch.tensor([[1.0], [-2.0]]), torch.tensor([[-1.0], [-3.0]])  # of HR, then of SR
    figures = _logit_figures(*heads)
    assert [float(figures[f"train/d_{name}"]) for name in ("real", "fake", "gap")] == [-0.5, -2.0, 1.5]
    assert float(_logit_figures((heads[0], heads[0]), (heads[1], heads[0]))["train/d_fake"]) == -1.25


def test_parts_of_a_batch_are_freed_one_by_one() -> None:
    """What VGG19 keeps of a part, its graph included, is gone before the next, so that `accumulate` saves memory."""
    step = make_step()
    network = shared_vgg19("random", ["conv1_2"], before_relu=False)
    step.loss.content["vgg"] = VGGLoss({"conv1_2": 1.0}, "random")
    step.loss.weights["vgg"] = 1.0
    step.accumulate, kept = 2, list[int]()
    network.register_forward_pre_hook(lambda *_: kept.append(len(network._passes)))
    step(Pair(*map(torch.cat, zip(*make_batches("cpu", 2), strict=True))), 0, logging=False)
    assert kept == [0, 1] * 2


def test_clipping_bounds_the_gradients_norm(batch: Pair) -> None:
    step = make_step(gradient_clip=1e-3)
    assert step(batch, 0, logging=True)["grad_norm/generator"] > 1e-3  # what was found
    clipped = torch.stack([p.grad.norm() for p in step.generator.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(clipped, torch.tensor(1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("configured", [0.999, 0.0])
def test_the_average_copies_first_then_warms_up_with_all_of_batch_norm(step: Step, configured: float) -> None:
    step.ema.decay = configured
    averaged, current = step.ema.average.state_dict(), step.generator.state_dict()
    assert sum(not value.is_floating_point() for value in current.values()) == 3  # BN's counters
    for done, warm_up in ((0, 0.0), (8, (1 + 8) / (10 + 8)), (10**9, 1.0), (0, 0.0)):
        before = copy.deepcopy(averaged)
        for value in current.values():
            value += 2
        step.ema.begin(done)
        step.ema.update(torch.ones(()))
        decay = min(configured, warm_up)
        for name, value in current.items():
            expected = decay * before[name] + (1 - decay) * value if value.is_floating_point() else value
            torch.testing.assert_close(averaged[name], expected)
    before = copy.deepcopy(averaged)
    step.ema.begin(0)
    step.ema.update(torch.zeros(()))
    assert all(torch.equal(averaged[name], value) for name, value in before.items()), "a step that is not applied"


@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.3, 0.9, 1.0])
def test_on_a_gpu_the_average_moves_as_on_a_cpu_in_fewer_kernels(weight: float) -> None:
    means, values = ([torch.randn(3, 5), torch.randn(7)] for _ in range(2))
    moved = [mean.clone() for mean in means]
    interpolate(means, values, torch.tensor(weight))
    interpolate_at_once(moved, values, torch.tensor(weight))
    exact = weight in (0.0, 1.0)
    torch.testing.assert_close(moved, means, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)
