"""A graphed step does what the step does; without a GPU the capture is played by calling the work again."""

import copy
import logging
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from test_objectives import CROP, SMALL, composed
from test_step import make_batches, make_step, state
from torch.optim.lr_scheduler import LambdaLR

from srgan import config
from srgan.data.datamodule import Pair
from srgan.losses.perceptual import VGGLoss
from srgan.training import graph
from srgan.training.ema import EMA
from srgan.training.graph import WARM_UP, GraphedStep, make_capturable, make_portable
from srgan.training.muon import Muon
from srgan.training.step import Step

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
adam = partial(torch.optim.Adam, lr=1e-4, eps=1e-3)  # a tame one: GAN training magnifies rounding


def trained(step: Step | GraphedStep, plain: Step, device: str) -> dict[str, torch.Tensor]:
    """Weights of all networks after 12 steps, or 50 on a GPU, and what was logged at every fourth one.

    The learning rate falls.
    """
    optimizers = (plain.optimizer, plain.discriminator_optimizer)
    for optimizer in optimizers:
        make_capturable(optimizer)
    schedules = [LambdaLR(optimizer, lambda n: 1 / (1 + n)) for optimizer in optimizers]
    logged: dict[str, torch.Tensor] = {}
    for done, batch in enumerate(make_batches(device, 12 if device == "cpu" else 50)):
        values = step(batch, done, done % 4 == 3)
        assert bool(values) == (done % 4 == 3)
        logged |= {f"{done}: {name}": value.cpu().clone() for name, value in values.items()}
        for schedule in schedules:
            schedule.step()
    return logged | {name: value.cpu() for name, value in state(plain).items()}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize(("gradient_clip", "fused"), [(None, True), (1e-3, False)])
def test_a_graphed_step_is_captured_once_and_trains_and_logs_as_the_step_does(
    device: str, gradient_clip: float | None, fused: bool
) -> None:
    calls: list[str] = []

    def again(work: Callable[[], None]) -> Callable[[], object]:
        calls.append("capture")
        return lambda: (calls.append("replay"), work())

    plain, other = (make_step(device, gradient_clip, partial(adam, fused=fused)) for _ in range(2))
    graphed = GraphedStep(other, autocast=False, capture=again if device == "cpu" else None)
    expected, found = trained(plain, plain, device), trained(graphed, other, device)
    tolerance = 0.0 if device == "cpu" else 1e-4
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert calls == (["capture", *["replay"] * (12 - WARM_UP)] if device == "cpu" else [])
    graphed.release()
    for done in (12, 13):
        graphed(make_batches(device, 1)[0], done, logging=False)
    assert calls[-2:] == (["capture", "replay"] if device == "cpu" else [])


@pytest.mark.parametrize("discriminator", config.GROUPS["discriminator"])
def test_replays_in_bf16_with_vgg19_equal_the_steps_of_every_discriminator(discriminator: str) -> None:
    options = (f"discriminator={discriminator}", *SMALL.get(discriminator, ("discriminator.channels=2",)))
    cfg = composed("generator=compact", "generator.channels=4", "generator.blocks=1", "loss=srgan_vgg22", *options)

    def made() -> Step:
        torch.manual_seed(0)
        generator, judge = instantiate(cfg.generator), instantiate(cfg.discriminator)
        return Step(
            generator=generator,
            ema=EMA(copy.deepcopy(generator).requires_grad_(False), generator, 0.999),
            loss=instantiate(cfg.loss.gan, _convert_="all"),
            optimizer=Muon(generator.parameters(), fused=True),
            discriminator=judge,
            discriminator_optimizer=adam(judge.parameters(), fused=True),
        )

    def batch(seed: int) -> Pair:
        torch.manual_seed(seed)
        return Pair(*(torch.rand(2, 3, side, side) for side in (CROP // 4, CROP)))

    plain, other = made(), made()
    for optimizer in (plain.optimizer, plain.discriminator_optimizer):
        make_capturable(optimizer)
    graphed = GraphedStep(other, autocast=True, capture=lambda work: work)
    for done in range(WARM_UP + 2):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            plain(batch(done), done, logging=False)
        graphed(batch(done), done, logging=False)
    expected, found = state(plain), state(other)
    assert not [name for name, value in expected.items() if not torch.equal(value, found[name])]


@pytest.fixture
def waits_are_errors() -> Iterator[Callable[[], None]]:
    """From its call on, whatever waits for the device raises."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_replayed_step_never_waits_for_the_device_and_takes_no_more_memory(
    waits_are_errors: Callable[[], None],
) -> None:
    step = make_step("cuda", None, partial(adam, fused=True))
    graphed, batches, used = GraphedStep(step, autocast=True), make_batches("cuda", 4), list[int]()
    schedule = LambdaLR(step.optimizer, lambda n: 1 / (1 + n))
    for done in range(1000):
        graphed(batches[done % 4], done, logging=True)
        schedule.step()
        if done == WARM_UP + 1:
            waits_are_errors()
        if done in (10, 999):
            used.append(torch.cuda.memory_allocated())
    assert used[0] == used[1]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_a_replay_that_is_not_finite_changes_nothing(device: str, fused: bool) -> None:
    step = make_step(device, None, partial(adam, fused=fused))
    step.guard.reads = False
    graphed = GraphedStep(step, autocast=False, capture=(lambda work: work) if device == "cpu" else None)
    *good, last = make_batches(device, WARM_UP + 3)
    for done, batch in enumerate(good):
        graphed(batch, done, logging=True)
    before = state(step)
    last.lr.fill_(torch.nan)
    graphed(last, len(good), logging=True)
    assert not [name for name, value in state(step).items() if not torch.equal(value, before[name])]
    skipped = graphed.guard.report()
    assert (skipped.step, skipped.count, skipped.in_a_row) == (len(good), 1, 1)
    graphed(good[0], len(good) + 1, logging=True)
    assert graphed.guard.report() is None
    assert not torch.equal(state(step)["g.tail.weight"], before["g.tail.weight"])


def test_learning_rates_lie_on_the_device_and_are_saved_as_numbers() -> None:
    step = make_step(optimizer=adam)
    GraphedStep(step, autocast=False)
    LambdaLR(step.optimizer, lambda n: 0.5)
    (group,) = step.optimizer.param_groups
    assert isinstance(group["lr"], torch.Tensor) and float(group["lr"]) == pytest.approx(5e-5)
    groups = copy.deepcopy(step.optimizer.state_dict()["param_groups"])
    groups[0]["capturable"] = True  # as on a GPU
    make_portable(groups)
    assert (type(groups[0]["lr"]), type(groups[0]["initial_lr"])) == (float, float)
    assert groups[0]["capturable"] is False


def test_where_a_step_cannot_be_graphed_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    losses, changing = (VGGLoss({"conv1_1": 1.0}, weights="random", random_views=new) for new in (False, True))
    weights = [torch.nn.Parameter(torch.zeros(2, 2))]
    sgd, fused = torch.optim.SGD(weights), torch.optim.SGD(weights, fused=True)
    fit = [torch.optim.Adam(weights), Muon(weights), fused]
    cuda = torch.device("cuda")
    with caplog.at_level(logging.INFO):
        assert not graph.usable(torch.device("cpu"), losses, fit)
        assert not graph.usable(cuda, changing, fit)
        assert not graph.usable(cuda, losses, [*fit, sgd])
    assert all(reason in caplog.text for reason in ("no CUDA device", "another view", "SGD reads its learning rate"))
    assert graph.usable(cuda, losses, fit)
