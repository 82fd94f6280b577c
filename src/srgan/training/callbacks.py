"""Sample pictures at each validation, and the progress bar."""

import logging
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from srgan.data.datamodule import Pair
from srgan.images import comparison_grid, middle, save_png
from srgan.metrics import names
from srgan.training.module import SRGAN

log = logging.getLogger(__name__)


class SamplePictures(Callback):
    """Writes a grid of LR, bicubic, SR and HR after each validation, as a PNG file and to W&B.

    If a picture can't be written, a warning is logged.

    Args:
        folder: where the pictures go.
        images: number of validation images to show, from the first.
        side: largest side in HR pixels, to which their centres are cut.
    """

    def __init__(self, folder: str, images: int, side: int = 256) -> None:
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
        path = self.folder / f"step_{trainer.global_step:07d}.png"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_png(comparison_grid(rows, ("LR", "bicubic", "SR", "HR")), path)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):  # which copies the file
                    logger.log_image(names.SAMPLES, [str(path)], step=trainer.global_step)
        except OSError as error:
            log.warning("%s can't be written (%s); training goes on", path, error.strerror or error)


class ProgressBar(TQDMProgressBar):
    """One bar over all steps of the run, named after the current phase."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps

    def on_train_start(self, *args: Any) -> None:
        """Start the bar where the run does: Lightning does it at the start of an epoch, which a resumed run is past."""
        super().on_train_start(*args)
        bar = self.train_progress_bar
        bar.reset(self.trainer.max_steps)
        bar.n = bar.initial = self.trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        module = cast(SRGAN, pl_module)
        self.train_progress_bar.set_description(
            module.phases[module.phase_at(trainer.global_step - 1)[0]].name, refresh=False
        )
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Plain numbers, since reading values that Lightning keeps on the device would wait for it at every step."""
        return cast(SRGAN, pl_module).shown
