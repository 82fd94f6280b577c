"""What happens around training: checkpoints and Ctrl-C, sample pictures, the progress bar."""

import logging
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Literal, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, TQDMProgressBar
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.images import comparison_grid, middle, save_png
from srgan.training.module import SRGAN, TrainingDiverged

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """Ctrl-C, after the checkpoint was written."""


class Checkpoints(Checkpoint):
    """Writes `last.ckpt`, `best.ckpt` and, at the end of each phase before the last, `<phase>.ckpt`.

    `mode` is whether more (max) or less (min) of `monitor` is better; None knows it: less LPIPS, more of all others.
    Last is written at each validation (or where it would be, if it is off), at the end and on Ctrl-C, which is obeyed
    when the step or the validation under way is finished (a second Ctrl-C stops at once). Best is the best by `monitor`
    within the phase under way: the competition begins anew with each phase, since GAN training gives up PSNR for
    perceived quality. Weights that are no longer finite are never written: TrainingDiverged is raised instead.
    """

    def __init__(self, folder: str, monitor: str = "val/psnr", mode: Literal["max", "min"] | None = None) -> None:
        if mode not in ("max", "min", None):
            raise UserError(f"callbacks.checkpoints.mode={mode}: expected max, min or null")
        self.folder = Path(folder)
        self.monitor = monitor
        self.mode = mode or ("min" if monitor.startswith("val/lpips") else "max")
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
        if self.monitor.startswith("val/lpips") and not cast(SRGAN, pl_module).has_lpips:
            raise UserError(
                f"callbacks.checkpoints.monitor={self.monitor} needs LPIPS, which is not measured here; try val/psnr"
            )
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
            names = ", ".join(sorted(name for name in trainer.callback_metrics if name.startswith("val/")))
            raise UserError(f"callbacks.checkpoints.monitor={self.monitor} is not measured; choose from {names}")
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
        """Keep the work if training fails, on an image that can't be read for example."""
        failed = isinstance(exception, Exception) and not isinstance(exception, TrainingDiverged | Interrupted)
        if trainer.global_step and failed:
            try:
                self._save(trainer, "last")
            except Exception as error:  # after a failure of the device this one fails, too; the first is what counts
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


class SamplePictures(Callback):
    """After each validation, a grid of LR, bicubic, SR and HR: as PNG in `folder`, and to W&B.

    Args:
        folder: where the pictures go.
        images: how many of the first validation images are shown.
        side: they are cut to their middle of at most this many HR pixels.
    """

    def __init__(self, folder: str, images: int = 4, side: int = 256) -> None:
        self.folder = Path(folder)
        self.images = images
        self.side = side
        self._rows: list[list[Tensor]] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Pair,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        scale = cast(SRGAN, pl_module).scale
        if len(self._rows) < self.images:
            pictures = cast(dict[str, Tensor], outputs)
            row = middle([pictures[name][0] for name in ("lr", "bicubic", "sr", "hr")], self.side, scale)
            self._rows.append([picture.cpu() for picture in row])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, self._rows = self._rows, []
        if not rows or not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:07d}.png"
        save_png(comparison_grid(rows, ("LR", "bicubic", "SR", "HR")), path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [str(path)], step=trainer.global_step)


class ProgressBar(TQDMProgressBar):
    """One bar over all steps of the run, named after the phase under way."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        module = cast(SRGAN, pl_module)
        self.train_progress_bar.set_description(
            module.phases[module.phase_at(trainer.global_step - 1)[0]].name, refresh=False
        )
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return cast(dict[str, Any], metrics)
