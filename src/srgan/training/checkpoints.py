"""Checkpoints: when and how they are written, and what Ctrl-C does. `models/checkpoints.py` reads them."""

import logging
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.metrics import names
from srgan.training.module import SRGAN, TrainingDiverged

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """Raised after Ctrl-C, once the checkpoint is written."""


class Checkpoints(Checkpoint):
    """Writes `last.ckpt`, `best.ckpt` and, at the end of each phase before the last, `<phase>.ckpt`.

    `last.ckpt` is written at each validation (or where one would be, if validation is off), at the end of the run and
    on Ctrl-C, which waits for the step or validation under way; a second Ctrl-C stops at once. `best.ckpt` holds the
    best validation of the phase under way: the comparison starts anew with each phase, since a GAN phase gives up PSNR
    for perceived quality. Weights that are not finite are never written: TrainingDiverged is raised instead.

    Args:
        folder: where the checkpoints go.
        monitor: the logged figure that decides which is best, such as `val/psnr`.
        mode: max if more of it is better, min if less is; None means what `names.BEST` says.
    """

    def __init__(self, folder: str, monitor: str, mode: Literal["max", "min"] | None) -> None:
        if mode not in ("max", "min", None):
            raise UserError(f"callbacks.checkpoints.mode={mode}: expected max, min or null")
        self.folder = Path(folder)
        self.monitor = monitor
        self.mode = mode or names.BEST.get(_score(monitor), "max")
        self.best: float | None = None
        self.best_step = 0
        self._phase = 0
        self._interrupted = False
        self._previous_handler: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_step = state_dict["best"], state_dict["best_step"]
        self._phase = state_dict["phase"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = cast(SRGAN, pl_module).measured
        if self.monitor.startswith(names.VALIDATION_PREFIX) and _score(self.monitor) not in measured:
            choice = ", ".join(names.validation(score) for score in measured)
            raise UserError(f"callbacks.checkpoints.monitor={self.monitor} is not measured here; choose from {choice}")
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._on_sigint)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        log.info("\nStopping after this step, with a checkpoint. Ctrl-C again stops at once.")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        module = cast(SRGAN, pl_module)
        step = trainer.global_step
        phase, done_in_phase = module.phase_at(step)
        if phase and not done_in_phase:
            self._save(trainer, module.phases[phase - 1].name)
        unvalidated = cast(Any, trainer).limit_val_batches == 0 and step % cast(Any, trainer).val_check_interval == 0
        if step == module.total_steps or trainer.should_stop or unvalidated or self._interrupted:
            self._save(trainer, "last")
        if self._interrupted:
            raise Interrupted

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or not trainer.fit_loop.epoch_loop.batch_progress.total.ready:
            return
        if self.monitor not in trainer.callback_metrics:
            measured = ", ".join(
                sorted(name for name in trainer.callback_metrics if name.startswith(names.VALIDATION_PREFIX))
            )
            raise UserError(f"callbacks.checkpoints.monitor={self.monitor} is not measured; choose from {measured}")
        value = float(trainer.callback_metrics[self.monitor])
        phase = cast(SRGAN, pl_module).phase_at(trainer.global_step - 1)[0]
        better = self.best is None or (value > self.best if self.mode == "max" else value < self.best)
        if better or phase != self._phase:
            self.best, self.best_step, self._phase = value, trainer.global_step, phase
            better = True
        last = self._save(trainer, "last")
        if better and trainer.is_global_zero:
            shutil.copyfile(last, self.folder / "best.ckpt.part")
            (self.folder / "best.ckpt.part").replace(self.folder / "best.ckpt")
        if self._interrupted:
            raise Interrupted

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep the work if training fails, for example on an image that can't be read."""
        failed = isinstance(exception, Exception) and not isinstance(exception, TrainingDiverged | Interrupted)
        if trainer.global_step and failed:
            try:
                self._save(trainer, "last")
            except Exception as error:  # if the device failed, saving fails as well; the first error is what counts
                log.warning("last.ckpt could not be written (%s)", error)

    def _save(self, trainer: Trainer, name: str) -> Path:
        weights = cast(SRGAN, trainer.lightning_module).generator.parameters()
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise TrainingDiverged(
                f"training diverged by step {trainer.global_step}: weights are not finite; earlier ones are kept."
                " Try a lower learning rate or training.gradient_clip=1"
            )
        path = self.folder / f"{name}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        return path


def _score(monitor: str) -> str:
    """The score that a logged figure is of: `lpips_alex` for `val/lpips_alex` and `val/lpips_alex_gain`."""
    name = monitor.removeprefix(names.VALIDATION_PREFIX)
    return name.removesuffix(names.GAIN_SUFFIX).removesuffix(names.BICUBIC_SUFFIX)
