"""Checkpoints: when and how they are written. `models/checkpoints.py` reads them."""

import contextlib
import io
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.metrics import names
from srgan.models import checkpoints
from srgan.training.module import SRGAN, TrainingDiverged
from srgan.training.signals import Interrupted, Signals

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last", "last-previous", "best"


def write_whole(path: Path, write: Callable[[BinaryIO], object], previous: Path | None = None) -> None:
    """Write a file whole or not at all: to a temporary file, flushed to disk, then renamed to `path`.

    The file that was at `path` is kept as `previous`, if that is given. Raises OSError and then changes nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.is_file():
            _keep(path, previous)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # flushes the folder's entry, where the file system supports it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _keep(path: Path, previous: Path) -> None:
    """Give the file at `path` a second name, so that it exists under its own until it is replaced."""
    link = previous.with_name(f"{previous.name}.part")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
        link.replace(previous)
    except OSError:  # a file system without links
        path.replace(previous)


class CheckpointFiles(CheckpointIO):
    """Writes and reads checkpoint files with a checksum, instead of Lightning.

    An error in writing is stored as `failure` and not raised, since other processes would wait forever.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        self.failure = None
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        parts = checkpoints.sealed(content.getbuffer())
        previous = path.with_name(f"{PREVIOUS}.ckpt") if path.stem == LAST else None
        try:
            write_whole(path, lambda file: file.writelines(parts), previous)
        except OSError as error:
            self.failure = error

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return checkpoints.read(Path(path))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Writes `last.ckpt`, `best.ckpt` and, at the end of each phase before the last, `<phase>.ckpt`.

    `last.ckpt` is written at each validation (or where one would be, if validation is off), after `minutes` without
    one, at the end of the run and when a signal stops it, always between two steps; the one before it is kept as
    `last-previous.ckpt`. `best.ckpt` is the best validation of the current phase. The comparison restarts with
    each phase, since a GAN phase trades PSNR for perceived quality; a validation after a collapse (see `Health`) never
    counts. Weights that aren't finite are never written: TrainingDiverged is raised instead. If a file can't be
    written, a warning is logged and training continues.

    Args:
        folder: where the checkpoints go.
        monitor: the logged score that chooses the best, such as `val/psnr`.
        mode: max if higher is better, min if lower is; None for that of `names.BEST`.
        minutes: `last.ckpt` is also written when it is this old; None for at validations only.

    Attributes:
        files: a plugin for the Trainer, which does the writing.
        signals: says when to stop; `srgan.train` passes those of the process.
        scored: what validations score; `srgan.train` sets it. Where the resumed run scored something else, the
            comparison starts anew, and so does that of `Health`.
        unwritten: checkpoints whose last writing failed, with the reasons.
        last_step: the step of `last.ckpt` on disk; None if there is none.
    """

    def __init__(
        self, folder: str, monitor: str, mode: Literal["max", "min"] | None, minutes: float | None = None
    ) -> None:
        if mode not in ("max", "min", None):
            raise UserError(f"callbacks.checkpoints.mode={mode}: expected max, min or null")
        if minutes is not None and not minutes > 0:
            raise UserError(f"callbacks.checkpoints.minutes={minutes}: expected more than 0, or null")
        self.folder = Path(folder)
        self.monitor = monitor
        self.mode = mode or names.BEST.get(_score(monitor), "max")
        self.minutes = minutes
        self.best: float | None = None
        self.best_step = 0
        self.files = CheckpointFiles()
        self.signals = Signals()
        self.scored = ""
        self._scored_before = ""  # in the resumed run
        self.unwritten: dict[str, str] = {}
        self.last_step: int | None = None
        self._phase = 0
        self._validated: int | None = None  # the step of the last validation
        self._written_at = time.monotonic()

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.ckpt"

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_step": self.best_step,
            "by": [self.monitor, self.mode],
            "scored": self.scored,
            "phase": self._phase,
            "validated": self._validated,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("by", [self.monitor, self.mode]) == [self.monitor, self.mode]:  # else it isn't comparable
            self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self._phase = state_dict["phase"]
        self._validated = state_dict.get("validated")
        self._scored_before = state_dict.get("scored", "")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = cast(SRGAN, pl_module).measured
        possible = [*map(names.validation, measured), *map(names.validation_gain, measured)]
        if self.monitor not in possible:
            choice = ", ".join(possible)
            raise UserError(f"callbacks.checkpoints.monitor={self.monitor} is not measured here; choose from {choice}")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the validation that a resumed run still lacks, if it was stopped during or just before one.

        If the best checkpoint did not come along to the resumed run, the comparison starts anew.
        """
        self.signals.install()  # Lightning has set its own handlers
        self.signals.patient = True
        self._written_at = time.monotonic()
        if self.path(LAST).is_file():  # of the resumed run, which is not at step 0
            self.last_step = trainer.global_step
        if trainer.strategy.broadcast(self._scored_before not in ("", self.scored)):
            if trainer.is_global_zero:
                log.warning("Validation scores other images or LR than before: the search for the best starts anew")
            self.best, self.best_step = None, 0
            cast(SRGAN, pl_module).health.forget_scores()
        if not trainer.strategy.broadcast(self.path(BEST).is_file()):  # it was of a later step than the resumed one
            self.best, self.best_step = None, 0
        if self.validation_is_due(trainer, cast(SRGAN, pl_module)):
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.patient = False

    def validation_is_due(self, trainer: Trainer, module: SRGAN) -> bool:
        """True if a validation belongs to the last finished step and hasn't been done."""
        step = trainer.global_step
        return step > 0 and self._validated is not None and self._validated < step and module.validates_at(step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        module = cast(SRGAN, pl_module)
        step = trainer.global_step
        self._validated = self._validated or 0
        phase, done_in_phase = module.phase_at(step)
        if phase and not done_in_phase:
            self._save(trainer, module.phases[phase - 1].name)
        signum, overdue = self._agreed(trainer)
        unvalidated = cast(Any, trainer).limit_val_batches == 0 and step % cast(Any, trainer).val_check_interval == 0
        if step == module.total_steps or trainer.should_stop or unvalidated or signum or overdue:
            self._save(trainer, LAST)
        if signum:
            raise self._interrupted(signum)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Pair,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Let a signal stop a long validation; a resumed run repeats it."""
        if self.signals.patient and self.signals.received and trainer.world_size == 1:
            self._save(trainer, LAST)
            raise self._interrupted(self.signals.received)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.fit_loop.epoch_loop.batch_progress.total.ready:
            return
        scores = cast(SRGAN, pl_module).validated
        if self.monitor not in scores:
            raise UserError(
                f"callbacks.checkpoints.monitor={self.monitor} can't be measured on these validation images (NIQE needs"
                f" two blocks of 96×96 pixels); choose from {', '.join(sorted(scores))}"
            )
        value = scores[self.monitor]
        phase = cast(SRGAN, pl_module).phase_at(trainer.global_step - 1)[0]
        self._validated = trainer.global_step
        better = self.best is None or (value > self.best if self.mode == "max" else value < self.best)
        collapsed = cast(SRGAN, pl_module).health.collapsed
        if (better or phase != self._phase) and not collapsed:
            earlier = self.best, self.best_step, self._phase
            self.best, self.best_step, self._phase = value, trainer.global_step, phase
            # Before last.ckpt, which records it. If it can't be written, the earlier one is still the best, also for
            # processes that write nothing: otherwise they would disagree on when to save, and wait for each other.
            if not trainer.strategy.broadcast(self._save(trainer, BEST)):
                self.best, self.best_step, self._phase = earlier
        self._save(trainer, LAST)
        signum, _ = self._agreed(trainer)
        if signum:
            raise self._interrupted(signum)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state if training fails between two steps, for example on an unreadable image.

        Nothing is saved if a step fails, since its updates are incomplete, nor with several processes, since the others
        are in a step and would never join. Then the run resumes from the last checkpoint.
        """
        self.signals.patient = False
        failed = isinstance(exception, Exception) and not isinstance(exception, TrainingDiverged)
        alone = trainer.world_size == 1
        if trainer.global_step and failed and alone and not cast(SRGAN, pl_module).within_step:
            try:
                self._save(trainer, LAST)
            except Exception as error:  # if the device failed, saving fails too; the first error is reported
                log.warning("last.ckpt could not be written (%s)", error)

    def _agreed(self, trainer: Trainer) -> tuple[int, bool]:
        """The signal to stop (0 for none) and whether a checkpoint is overdue, equal in all processes.

        Several processes agree only at logged steps, because this waits for the device.
        """
        overdue = self.minutes is not None and time.monotonic() - self._written_at > 60 * self.minutes
        signum = self.signals.received or 0
        if trainer.world_size > 1:
            if trainer.training and trainer.global_step % cast(Any, trainer).log_every_n_steps:
                return 0, False
            wanted = torch.tensor([signum, int(overdue)], device=trainer.strategy.root_device)
            wanted = cast(torch.Tensor, trainer.strategy.reduce(wanted, reduce_op="max"))
            signum, overdue = int(wanted[0]), bool(wanted[1])
        return signum, overdue

    def _interrupted(self, signum: int) -> Interrupted:
        error = Interrupted(signum)
        error.lost = self.unwritten.get(LAST, "")
        return error

    def _save(self, trainer: Trainer, name: str) -> bool:
        """Write a checkpoint. Returns False, after a warning, if that is not possible."""
        if name == LAST:
            self._written_at = time.monotonic()
        state = cast(SRGAN, trainer.lightning_module).state_dict()
        if not all(bool(value.isfinite().all()) for value in state.values() if isinstance(value, torch.Tensor)):
            raise TrainingDiverged(
                f"training diverged by step {trainer.global_step}: weights are not finite; earlier ones are kept."
                " Try a lower learning rate or training.gradient_clip=1"
            )
        trainer.save_checkpoint(self.path(name), weights_only=False)
        if (error := self.files.failure) is None:
            self.unwritten.pop(name, None)
            if name == LAST:
                self.last_step = trainer.global_step
            return True
        self.unwritten[name] = reason = error.strerror or str(error)
        kept = f"the one of step {self.last_step}" if name == LAST and self.last_step is not None else "an earlier one"
        log.warning(
            "step %s: %s can't be written (%s); training goes on, %s is kept",
            f"{trainer.global_step:,}", self.path(name), reason, kept,
        )  # fmt: skip
        return False


def _score(monitor: str) -> str:
    """The score behind a logged value: `lpips_alex` for `val/lpips_alex` and `val/lpips_alex_gain`."""
    return monitor.removeprefix(names.VALIDATION_PREFIX).removesuffix(names.GAIN_SUFFIX)
