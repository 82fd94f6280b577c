"""The phases of a run: their lengths, and their learning rates step by step."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import Parameter
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from srgan.errors import UserError
from srgan.losses.mix import LossMix
from srgan.losses.pixel import MSELoss
from srgan.training.phases import Phase, constant, cosine, fit_to, multistep, whole_number

MSE = LossMix({"mse": MSELoss()}, {"mse": 1.0})


def fitted(steps: tuple[int, ...], max_steps: float) -> list[Phase]:
    given = [Phase(steps=n, loss=MSE, optimizer=Adam, scheduler=cosine, name=f"phase {n}") for n in steps]
    return fit_to(given, max_steps)


def learning_rates(scheduler: Callable[[Optimizer, int], LRScheduler], steps: int, start: float = 1e-4) -> list[float]:
    """The learning rate of each step of a phase, and the one after the last step."""
    optimizer = Adam([Parameter(torch.zeros(1))], lr=start)
    schedule = scheduler(optimizer, steps)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("steps", "max_steps", "expected"),
    [
        ((1_000_000, 200_000), 1_200, [1_000, 200]),
        ((1_000_000, 200_000), 2.4e6, [2_000_000, 400_000]),
        ((100,), 7, [7]),
        ((30, 10), -1, [30, 10]),
    ],
)
def test_phases_keep_their_proportion(steps: tuple[int, ...], max_steps: float, expected: list[int]) -> None:
    found = fitted(steps, max_steps)
    assert [phase.steps for phase in found] == expected
    assert [(phase.name, phase.scheduler) for phase in found] == [(f"phase {n}", cosine) for n in steps]


@pytest.mark.parametrize("steps", [(1, 1_000_000), (1_000_000, 1), (1_000_000, 1, 1), (1, 1, 1), (3, 7, 11, 13)])
@pytest.mark.parametrize("max_steps", [4, 5, 17, 1_000, 3_000_001])
def test_phases_together_take_the_steps_given_and_each_at_least_one(steps: tuple[int, ...], max_steps: int) -> None:
    found = [phase.steps for phase in fitted(steps, max_steps)]
    assert sum(found) == max_steps
    assert min(found) >= 1
    assert all(abs(n - max_steps * m / sum(steps)) <= len(steps) for n, m in zip(found, steps, strict=True))


def test_steps_are_whole_and_enough_for_each_phase() -> None:
    assert whole_number(1e5, "steps") == 100_000 and whole_number(0, "steps") == 0
    for value in (2.5, -4, -2.5):
        with pytest.raises(UserError, match=f"steps: {value:g} given, expected a whole number, 0 or more"):
            whole_number(value, "steps")
    for max_steps in (2, 0):
        with pytest.raises(UserError, match=f"max_steps={max_steps} .*3 phases"):
            fitted((10, 10, 10), max_steps)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (constant, [1.0] * 5),
        (multistep, [1.0, 0.1]),
        (multistep, [1.0] * 100 + [0.1] * 100),
        (partial(multistep, milestones=(0.5, 0.75), gamma=0.5), [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
    ],
)
def test_the_rate_falls_at_each_milestone(scheduler: Callable[..., LRScheduler], expected: list[float]) -> None:
    """By default, as in the paper, to a tenth halfway."""
    assert learning_rates(scheduler, len(expected), start=1.0)[:-1] == pytest.approx(expected)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs_annealing(final: float) -> None:
    found = learning_rates(partial(cosine, final=final), 20)
    expected = learning_rates(lambda optimizer, n: CosineAnnealingLR(optimizer, n, eta_min=final * 1e-4), 20)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-16)
    assert (found[0], found[-1]) == pytest.approx((1e-4, final * 1e-4), abs=1e-16)


def test_cosine_rises_in_a_line_over_its_warm_up_and_falls_after_it() -> None:
    rates = learning_rates(partial(cosine, warmup=0.25, final=0.1), 40, start=1.0)
    rising, falling = torch.tensor(rates[:11]), torch.tensor(rates[10:])
    assert rates[0] > 0
    assert rates[10] == max(rates) == pytest.approx(1)
    torch.testing.assert_close(rising.diff(), (rising[1] - rising[0]).expand(10))
    assert (falling.diff() < 0).all()
    assert (rates[25], rates[-1]) == pytest.approx(((1 + 0.1) / 2, 0.1))


def test_a_warm_up_shorter_than_a_step_still_starts_above_zero() -> None:
    for steps in (1, 2, 3):
        rates = learning_rates(partial(cosine, warmup=0.03), steps)
        assert 0 < rates[0] <= 1e-4
        assert rates[-1] == pytest.approx(0, abs=1e-16)
