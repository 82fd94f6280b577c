"""A step that is not finite leaves nothing behind: neither in networks nor in the average nor in optimizers.

Fused Adam skips its update instead of having it taken back. The discriminator's comes first, so it stands if only what
follows is not finite.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_step import make_batches, make_step, state
from torch import Tensor, nn

from srgan.data.datamodule import Pair
from srgan.training.graph import GraphedStep
from srgan.training.step import Step

OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "fused": partial(torch.optim.Adam, lr=1e-3, fused=True),
    "momentum": partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
    "nadam": partial(torch.optim.NAdam, lr=1e-3),  # one of its states begins at 1
}


def nan(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *images: loss(*images) * torch.nan


def steep(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss that is finite, whose gradient isn't."""
    return lambda *images: loss(*images) + (images[0] - images[0].detach()).abs().sqrt().sum()


# By what is named as the cause: what is done to a step and its batch.
FAULTS: dict[str, Callable[[Step, Pair, pytest.MonkeyPatch], object]] = {
    "the generator's loss mse": lambda step, batch, patch: batch.hr[0, 0, 0, 0].fill_(torch.nan),
    "the discriminator's loss": lambda step, batch, patch: patch.setattr(
        step.loss.adversarial, "discriminator_loss", nan(step.loss.adversarial.discriminator_loss)
    ),
    "the discriminator's gradient": lambda step, batch, patch: patch.setattr(
        step.loss.adversarial, "discriminator_loss", steep(step.loss.adversarial.discriminator_loss)
    ),
    "the generator's loss adversarial": lambda step, batch, patch: patch.setattr(
        step.loss.adversarial, "generator_loss", nan(step.loss.adversarial.generator_loss)
    ),
    "the generator's gradient": lambda step, batch, patch: patch.setattr(
        step.loss.content["mse"], "forward", steep(step.loss.content["mse"].forward)
    ),
}


def everything(step: Step) -> dict[str, Any]:
    """All tensors that a step changes, by name."""
    found: dict[str, Any] = dict(state(step))
    for name, optimizer in (("g", step.optimizer), ("d", step.discriminator_optimizer)):
        for index, values in copy.deepcopy(optimizer.state_dict()["state"]).items():
            found |= {f"{name}.{index}.{key}": value for key, value in values.items()}
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name, value in one.items() if not torch.equal(value, other[name])]


AFTER_THE_DISCRIMINATOR = {"the generator's loss adversarial", "the generator's gradient"}
CASES = [(optimizer, at, cause) for optimizer, at in (("adam", 0), ("momentum", 0)) for cause in FAULTS]
CASES += [("nadam", 0, "the generator's gradient")]
CASES += [("fused", at, cause) for at in (0, 2) for cause in FAULTS if cause not in AFTER_THE_DISCRIMINATOR]


@pytest.mark.parametrize(("optimizer", "at", "cause"), CASES)
def test_a_step_that_is_not_finite_changes_nothing_to_the_bit_and_its_cause_is_named(
    optimizer: str, at: int, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = make_batches("cpu", 3)
    undisturbed, step = (make_step(optimizer=OPTIMIZERS[optimizer]) for _ in range(2))
    for done, batch in enumerate(batches):
        if done == at:
            faulty = Pair(*(image.clone() for image in batch))
            with monkeypatch.context() as patch:
                FAULTS[cause](step, faulty, patch)
                step(faulty, done, logging=False)
            skipped = step.guard.report()
            assert skipped is not None and (skipped.step, skipped.cause) == (done, cause)
            assert (skipped.count, skipped.in_a_row) == (1, 1)
            for name, image in zip(("lr", "hr"), faulty, strict=True):
                torch.testing.assert_close(skipped.pictures[name], image, rtol=0, atol=0, equal_nan=True)
            assert skipped.pictures["sr"].shape == faulty.hr.shape
        for each in (undisturbed, step):
            each(batch, done, logging=False)
    same(everything(undisturbed), everything(step))
    assert step.guard.report() is None


def test_a_network_may_hold_a_mask() -> None:
    step, (batch,) = make_step(), make_batches("cpu", 1)
    mask = torch.tensor([True, False])
    for network in (step.generator, step.ema.average):
        network.register_buffer("band", mask.clone())
    step(batch, 0, logging=False)
    assert torch.equal(step.generator.get_buffer("band"), mask) and step.guard.report() is None


@pytest.mark.parametrize("cause", sorted(AFTER_THE_DISCRIMINATOR))
@pytest.mark.parametrize("reads", [True, False])
def test_a_fused_update_of_the_discriminator_stands_if_only_what_follows_is_not_finite(
    cause: str, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = make_batches("cpu", 3)
    undisturbed, step = (make_step(optimizer=OPTIMIZERS["fused"]) for _ in range(2))
    step.guard.reads = reads
    for each in (undisturbed, step):
        each(first, 0, logging=False)
    before = everything(step)
    with monkeypatch.context() as patch:
        FAULTS[cause](step, second, patch)
        step(second, 1, logging=False)
    assert step.guard.report().cause == cause
    undisturbed(second, 1, logging=False)
    after, usual, weights = everything(step), everything(undisturbed), dict(step.discriminator.named_parameters())
    for name, value in after.items():
        learned = name.removeprefix("d.") in weights or (name[:2] == "d." and name[2].isdigit())
        assert torch.equal(value, (usual if learned else before)[name]), name
    assert step.guard._bits[torch.int32] and not {p.data_ptr() for p in step.generator.parameters()} & {
        bits.data_ptr() for bits in step.guard._bits[torch.int32]
    }, "a fused update needs no copy of the weights"
    step(third, 2, logging=False)
    assert step.guard.report() is None
    assert not torch.equal(everything(step)["g.head.0.weight"], after["g.head.0.weight"])


def test_the_first_since_the_last_report_is_kept_and_rows_are_counted_over_reports() -> None:
    step = make_step()
    good, *bad = make_batches("cpu", 5)
    for batch in bad:
        batch.hr.fill_(torch.nan)
    before = everything(step)
    graphed = GraphedStep(step, autocast=False, capture=lambda work: work)
    for done, batch in enumerate(bad):  # the last one is a replay
        graphed(batch, done, logging=False)
    same(before, everything(step))
    skipped = graphed.guard.report()
    assert (skipped.step, skipped.count, skipped.in_a_row) == (0, 4, 4)
    assert torch.equal(skipped.pictures["lr"], bad[0].lr)
    graphed(bad[1], 4, logging=True)
    assert (graphed.guard.report().step, step.guard._longest) == (4, 5)
    graphed(good, 5, logging=False)
    graphed(bad[2], 6, logging=False)
    skipped = step.guard.report()
    assert (skipped.step, skipped.count, skipped.in_a_row, float(step.guard._row)) == (6, 1, 5, 1)


def test_all_processes_take_a_step_back_if_one_of_them_must() -> None:
    """The others are played: one of two says that something was not finite, whose gradients were."""
    step = make_step(optimizer=OPTIMIZERS["adam"])

    def average(network: nn.Module, finite: Tensor) -> None:
        finite.mul_(0.5)

    step.average = average
    before = state(step)
    step(make_batches("cpu", 1)[0], 0, logging=False)
    skipped = step.guard.report()
    assert skipped is not None and skipped.cause is None
    same(before, state(step))


@pytest.mark.parametrize("optimizer", ["adam", "fused"])
def test_a_finite_step_is_the_same_to_the_bit_whether_the_guard_reads_the_outcome_or_works_it_out(
    optimizer: str,
) -> None:
    reading, working = (make_step(optimizer=OPTIMIZERS[optimizer]) for _ in range(2))
    working.guard.reads = False
    for done, batch in enumerate(make_batches("cpu", 3)):
        for step in (reading, working):
            step(batch, done, logging=False)
    same(everything(reading), everything(working))
