"""A graphed step does what the step does; without a GPU the capture is played by calling the work again."""

import copy
import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from srgan.data.datamodule import Pair
from srgan.losses.adversarial import NonSaturating
from srgan.losses.mix import LossMix
from srgan.losses.perceptual import VGGLoss
from srgan.losses.pixel import MSELoss
from srgan.models.discriminators import SRGANDiscriminator
from srgan.models.generators import SRResNet
from srgan.training import graph
from srgan.training.ema import EMA
from srgan.training.graph import WARM_UP, GraphedStep, make_capturable, make_portable
from srgan.training.step import Step

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


adam = partial(torch.optim.Adam, lr=1e-4, eps=1e-3)  # a tame one: GAN training magnifies rounding


def make_step(device: str, gradient_clip: float | None = None) -> Step:
    torch.manual_seed(0)
    generator = SRResNet(scale=2, channels=4, blocks=1).to(device)
    discriminator = SRGANDiscriminator(crop=16, channels=2, hidden=4).to(device)
    return Step(
        generator=generator,
        ema=EMA(copy.deepcopy(generator).requires_grad_(False), generator, 0.999),
        loss=LossMix({"mse": MSELoss()}, {"mse": 4.0, "adversarial": 0.5}, NonSaturating(r1=0.0, real_label=1.0)),
        optimizer=adam(generator.parameters()),
        discriminator=discriminator,
        discriminator_optimizer=adam(discriminator.parameters()),
        gradient_clip=gradient_clip,
    )


def batches(device: str, count: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(1)

    def image(side: int) -> torch.Tensor:
        return torch.rand(2, 3, side, side, generator=generator).to(device)

    return [Pair(image(8), image(16)) for _ in range(count)]


def trained(step: Step | GraphedStep, plain: Step, device: str, count: int = 12) -> dict[str, torch.Tensor]:
    """Weights of all networks after `count` steps, every fourth one logging, the learning rate falling."""
    assert plain.discriminator_optimizer is not None
    make_capturable(plain.optimizer)
    make_capturable(plain.discriminator_optimizer)
    schedules = [
        LambdaLR(optimizer, lambda n: 1 / (1 + n)) for optimizer in (plain.optimizer, plain.discriminator_optimizer)
    ]
    for done, batch in enumerate(batches(device, count)):
        values = step(batch, done, done % 4 == 3)
        assert bool(values) == (done % 4 == 3)
        for schedule in schedules:
            schedule.step()
    assert plain.discriminator is not None and plain.ema is not None
    networks = {"generator": plain.generator, "ema": plain.ema.average, "discriminator": plain.discriminator}
    return {f"{name}.{key}": value.cpu() for name, net in networks.items() for key, value in net.state_dict().items()}


def again(work: Callable[[], None]) -> Callable[[], None]:
    return work


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("gradient_clip", [None, 1e-3])
def test_a_graphed_step_trains_as_the_step_does(device: str, gradient_clip: float | None) -> None:
    plain, other = make_step(device, gradient_clip), make_step(device, gradient_clip)
    graphed = GraphedStep(other, autocast=False, capture=again if device == "cpu" else None)
    expected, found = trained(plain, plain, device), trained(graphed, other, device)
    for name, value in expected.items():
        tolerance = 0.0 if device == "cpu" else 1e-4
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance)


def test_the_graph_is_captured_once_after_the_warm_up_and_replayed_where_nothing_is_logged() -> None:
    captures: list[int] = []
    replays: list[int] = []

    def counting(work: Callable[[], None]) -> Callable[[], None]:
        captures.append(1)

        def replay() -> None:
            replays.append(1)
            work()

        return replay

    step = make_step("cpu")
    trained(GraphedStep(step, autocast=False, capture=counting), step, "cpu", count=12)
    logging_after_the_warm_up = 3  # of the steps 3, 7 and 11
    assert len(captures) == 1
    assert len(replays) == 12 - WARM_UP - logging_after_the_warm_up


def test_learning_rates_lie_on_the_device_and_are_saved_as_numbers() -> None:
    step = make_step("cpu")
    GraphedStep(step, autocast=False, capture=again)
    LambdaLR(step.optimizer, lambda n: 0.5)
    (group,) = step.optimizer.param_groups
    assert isinstance(group["lr"], torch.Tensor) and float(group["lr"]) == pytest.approx(5e-5)
    groups = copy.deepcopy(step.optimizer.state_dict()["param_groups"])
    groups[0]["capturable"] = True  # as on a GPU
    make_portable(groups)
    assert type(groups[0]["lr"]) is float
    assert groups[0]["capturable"] is False


def test_where_a_step_cannot_be_graphed_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    losses, changing = (
        nn.ModuleDict({"vgg": VGGLoss({"conv1_1": 1.0}, weights="random", random_views=new)}) for new in (False, True)
    )
    with caplog.at_level(logging.INFO):
        assert not graph.usable(torch.device("cpu"), 1, losses)
        assert not graph.usable(torch.device("cuda"), 2, losses)
        assert not graph.usable(torch.device("cuda"), 1, changing)
    assert all(reason in caplog.text for reason in ("no CUDA device", "several processes", "another view"))
    assert graph.usable(torch.device("cuda"), 1, losses)
