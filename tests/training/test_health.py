"""Each alarm is raised by what it is about, once, and by nothing milder."""

import re

import pytest

from srgan.metrics import names
from srgan.training.health import WINDOW, Health

ACCURACY, RATIO = names.DISCRIMINATOR_ACCURACY, names.CONTENT_TO_ADVERSARIAL
GRID, DRIFT, PSNR = (names.validation(score) for score in (names.GRID, names.COLOUR, names.PSNR))


@pytest.mark.parametrize(
    ("sick", "well", "advice"),
    [
        (
            [{names.DISCRIMINATOR_ACCURACY: 1.0}] * WINDOW,
            [{names.DISCRIMINATOR_ACCURACY: 0.98}] * 99,
            "adversarial.r1=10",
        ),
        ([{names.CONTENT_TO_ADVERSARIAL: 9e-3}] * WINDOW, [{names.CONTENT_TO_ADVERSARIAL: 0.02}] * 99, "balance=0.3"),
        (
            [{GRID: 1.6}, {GRID: 1.5}],
            [{GRID: 3.0}, {GRID: 1.5}, {GRID: 0.9}, {GRID: 0.9}],
            "1.5 grey levels.*content@loss.gan",
        ),
        (
            [{DRIFT: 2.5}] * 2,
            [{DRIFT: 90.0}, {DRIFT: 3.0}, {DRIFT: 1.9}, {DRIFT: 1.9}],
            "2.5 grey levels.*lr_consistency",
        ),
        (
            [{PSNR: 25.0}, {PSNR: 19.9}],
            [{PSNR: 7.0}, {PSNR: 25.0}, {PSNR: 20.1}, {PSNR: 24.0}],
            "fallen to 19.9 dB, from 25.0 dB.*lower learning rate",
        ),
    ],
)
def test_an_alarm_comes_once_with_advice(
    sick: list[dict[str, float]], well: list[dict[str, float]], advice: str
) -> None:
    health = Health()
    assert not [text for step, numbers in enumerate(well) for text in health.check(numbers, step)]
    health = Health()
    found = [health.check(numbers, step) for step, numbers in enumerate(sick)]
    assert not any(found[:-1])
    (alarm,) = found[-1]
    assert alarm.startswith(f"step {len(sick) - 1}: ")
    assert re.search(advice, alarm)
    assert not health.check(sick[-1], 1000) and list(health.alarms.values()) == [alarm]


def test_one_doubt_of_the_discriminator_starts_the_count_anew() -> None:
    health = Health()
    for step in range(3 * WINDOW):
        accuracy = 0.5 if step % WINDOW == WINDOW - 1 else 1.0
        assert not health.check({ACCURACY: accuracy}, step)
