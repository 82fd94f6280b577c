"""Harm done within a training step of one of several processes: a callback, to be named on a command line."""

import os
import signal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

RANK, STEP = 1, 3


class Harm(Callback):
    """In the third step of the second process: `raise` raises an exception, `kill` sends it SIGKILL."""

    def __init__(self, action: str) -> None:
        self.action = action
        self._passes = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_rank == RANK:
            pl_module.generator.register_forward_pre_hook(self._strike)

    def _strike(self, *_: object) -> None:
        self._passes += 1
        if self._passes == STEP:
            if self.action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("no memory left, for example")
