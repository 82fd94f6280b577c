"""Detects problems of a training from its logged values and says what to do about them."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from srgan.metrics import names

WINDOW = 20  # consecutive logged steps before an alarm
SURE = 0.99  # above this accuracy a discriminator teaches the generator little
OVERWHELMING = 100.0  # ratio of adversarial to content gradient
GRID_LEVELS = 1.0  # grey levels of a grid pattern; visible on even surfaces
DRIFT_LEVELS = 2.0  # grey levels
FALLING = 0.9  # a score below this fraction of its last value is falling
COLLAPSE_DB = 5.0  # drop from the run's best PSNR, more than any gain in perceived quality costs


class Health:
    """Checks the values that a run logs and raises each kind of alarm once.

    `alarms`: the text of each alarm so far, by kind. `collapsed`: true if the last validation was so much worse than
    the best that its weights must not count as a result.
    """

    def __init__(self) -> None:
        self.alarms: dict[str, str] = {}
        self.collapsed = False  # at the last validation
        self._before: dict[str, float] = {}  # scores of the previous validation
        self._best_psnr = float("-inf")
        self._accuracies: deque[float] = deque(maxlen=WINDOW)
        self._ratios: deque[float] = deque(maxlen=WINDOW)

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint, so that a resumed run raises the same alarms as an uninterrupted one."""
        kept = {"accuracies": self._accuracies, "ratios": self._ratios}
        scores = {"before": dict(self._before), "best_psnr": self._best_psnr, "collapsed": self.collapsed}
        return {"alarms": dict(self.alarms), **scores} | {name: list(values) for name, values in kept.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; checkpoints of earlier versions may lack it."""
        self.alarms, self._before = dict(state.get("alarms", {})), dict(state.get("before", {}))
        self._best_psnr = state.get("best_psnr", float("-inf"))
        self.collapsed = state.get("collapsed", False)
        self._accuracies.extend(state.get("accuracies", []))
        self._ratios.extend(state.get("ratios", []))

    def forget_scores(self) -> None:
        """Compare the next validation with none before it, since they scored other images."""
        self._before, self._best_psnr, self.collapsed = {}, float("-inf"), False

    def check(self, numbers: Mapping[str, float], step: int) -> list[str]:
        """Check the values logged at a step. Returns the texts of new alarms."""
        if names.DISCRIMINATOR_ACCURACY in numbers:
            self._accuracies.append(numbers[names.DISCRIMINATOR_ACCURACY])
        if names.CONTENT_TO_ADVERSARIAL in numbers:
            self._ratios.append(numbers[names.CONTENT_TO_ADVERSARIAL])
        found = {
            "discriminator": len(self._accuracies) == WINDOW
            and min(self._accuracies) > SURE
            and f"the discriminator's accuracy was above {SURE:.0%} at {WINDOW} logged steps in a row: the generator"
            " learns little from it; try a lower learning rate for it (phases.gan.discriminator_optimizer, as in"
            " conf/experiment/photos_gan_x4.yaml), another discriminator, or, if it has no batch normalisation,"
            " adversarial.r1=10",
            "balance": len(self._ratios) == WINDOW
            and max(self._ratios) < 1 / OVERWHELMING
            and f"the adversarial gradient at SR has been more than {OVERWHELMING:g} times the content gradient at"
            f" {WINDOW} logged steps; lower adversarial_weight, or hold it at a share by balance=0.3",
            "grid": self._stays_above(names.GRID, GRID_LEVELS, numbers)
            and f"SR has a pattern of {numbers[names.validation(names.GRID)]:.1f} grey levels that repeats with the LR"
            " pixels; lower adversarial_weight or balance, or add the term content@loss.gan=[…,grid]",
            "colour": self._stays_above(names.COLOUR, DRIFT_LEVELS, numbers)
            and f"SR's colours are {numbers[names.validation(names.COLOUR)]:.1f} grey levels off those of LR; add"
            " the term content@loss.gan=[…,lr_consistency] or a pixel loss",
            "collapse": self._collapses(numbers)
            and f"PSNR has fallen to {numbers[names.validation(names.PSNR)]:.1f} dB, from {self._best_psnr:.1f} dB:"
            " training diverges, although all values are finite. best.ckpt and the phases' checkpoints are older and"
            " are kept; go on from one with a lower learning rate or training.gradient_clip=1",
        }
        self._remember(numbers)
        new = {kind: f"step {step:,}: {text}" for kind, text in found.items() if text and kind not in self.alarms}
        self.alarms |= new
        return list(new.values())

    def _collapses(self, numbers: Mapping[str, float]) -> bool:
        """True if a validation's PSNR is far below the best of the run."""
        return numbers.get(names.validation(names.PSNR), float("inf")) < self._best_psnr - COLLAPSE_DB

    def _stays_above(self, score: str, limit: float, numbers: Mapping[str, float]) -> bool:
        """True if a validation score is above the limit and not falling: a GAN's first artefacts disappear again."""
        value = numbers.get(names.validation(score), float("-inf"))
        return value > limit and value > FALLING * self._before.get(score, float("inf"))

    def _remember(self, numbers: Mapping[str, float]) -> None:
        """Keep a validation's scores for the next one."""
        if (psnr := numbers.get(names.validation(names.PSNR))) is not None:
            self.collapsed = self._collapses(numbers)
            self._best_psnr = max(self._best_psnr, psnr)
        for score in (names.GRID, names.COLOUR):
            if (value := numbers.get(names.validation(score))) is not None:
                self._before[score] = value
