"""The LightningModule: one training step for SRResNet and SRGAN, validation of the averaged generator."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from srgan.data.datamodule import Pair
from srgan.errors import UserError
from srgan.images import to_uint8
from srgan.imresize import imresize
from srgan.inference.tiles import enlarge
from srgan.losses.mix import LossMix
from srgan.machine import peak_mib, reset_peak
from srgan.metrics.lpips import LPIPS
from srgan.metrics.means import Scores
from srgan.models.generators import Generator
from srgan.training import graph
from srgan.training.graph import GraphedStep, make_portable
from srgan.training.phases import Phase, fit_to
from srgan.training.step import Step


class TrainingDiverged(UserError):
    """A loss is no longer a finite number."""


class SRGAN(LightningModule):
    """Trains a generator through its phases, and a discriminator with it where the loss is adversarial.

    Optimisation is manual, by `Step`; each batch counts as one step in every counter.

    Args:
        generator: maps LR to SR.
        phases: by name, in their order; those without a loss or without steps are left out.
        discriminator: needed if the loss of a phase is adversarial.
        ema_decay: of the averaged generator, which is validated and exported. The average begins anew with each phase
            and warms up: its decay is min(ema_decay, (1 + t) / (10 + t)) at step t of the phase. 0 for no averaging.
        gradient_clip: the largest norm of each network's gradient; None for no clipping.
        lpips: measured in validation; None leaves it out.
        cuda_graph: replay each step as one CUDA graph; on a CPU or in several processes steps run as they are, which
            the log says.
    """

    def __init__(
        self,
        generator: Generator,
        phases: Mapping[str, Phase],
        discriminator: nn.Module | None = None,
        ema_decay: float = 0.999,
        gradient_clip: float | None = None,
        lpips: LPIPS | None = None,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.phases = [
            replace(phase, name=name) for name, phase in phases.items() if phase.loss is not None and phase.steps
        ]
        if not self.phases:
            raise UserError("nothing to train: no phase has both a loss and steps")
        if discriminator is None and any(_loss(phase).adversarial is not None for phase in self.phases):
            raise UserError("an adversarial loss needs a discriminator; try discriminator=srgan")
        if gradient_clip is not None and not gradient_clip > 0:
            raise UserError(f"training.gradient_clip={gradient_clip}: expected a norm above 0, or null for no clipping")
        self.scale = generator.scale
        self.generator = generator.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.discriminator = None if discriminator is None else discriminator.to(memory_format=torch.channels_last)
        self.losses = nn.ModuleDict({phase.name: _loss(phase) for phase in self.phases})
        self.ema_decay = ema_decay
        self.gradient_clip = gradient_clip
        self.cuda_graph = cuda_graph
        self.has_lpips = lpips is not None
        self._scores, self._bicubic_scores = Scores(self.scale, lpips), Scores(self.scale, lpips)
        self._bicubic: dict[str, float] = {}
        self._timer = _Timer()
        self.config: dict[str, Any] = {}  # the resolved configuration, written into each checkpoint

    # --- phases -----------------------------------------------------------------------------------------------------

    @property
    def total_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def fit_to(self, max_steps: float) -> None:
        """Stretch or shorten the phases in proportion, to `max_steps` together; −1 keeps them."""
        self.phases = fit_to(self.phases, max_steps)

    def phase_at(self, step: int) -> tuple[int, int]:
        """The phase of the batch that follows `step` finished ones, by index, and the steps finished in that phase."""
        for index, phase in enumerate(self.phases):
            if step < phase.steps or index == len(self.phases) - 1:
                return index, step
            step -= phase.steps
        raise AssertionError("a module has at least one phase")

    def load_generator(self, state: dict[str, Tensor]) -> None:
        """Start from a trained generator's weights."""
        self.generator.load_state_dict(state)
        self.ema.load_state_dict(state)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        optimizers: list[Optimizer] = []
        schedulers: list[LRScheduler] = []
        self._learning_rates: list[list[float]] = []  # as configured, by optimizer and parameter group
        self._places: list[tuple[int, int]] = []  # of the generator's and the discriminator's optimizer, by phase
        for phase in self.phases:
            self._places.append((len(optimizers), len(optimizers) + 1))
            of_phase = [phase.optimizer(self.generator.parameters())]
            if _loss(phase).adversarial is not None:
                assert self.discriminator is not None
                of_phase.append((phase.discriminator_optimizer or phase.optimizer)(self.discriminator.parameters()))
            optimizers += of_phase
            self._learning_rates += [[group["lr"] for group in optimizer.param_groups] for optimizer in of_phase]
            schedulers += [phase.scheduler(optimizer, phase.steps) for optimizer in of_phase]
        return optimizers, schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        for state in checkpoint.get("optimizer_states", []):
            make_portable(state["param_groups"])
        checkpoint["phases"] = {phase.name: phase.steps for phase in self.phases}

    def on_train_start(self) -> None:
        """A resumed run takes its learning rates from its own configuration, not from the checkpoint."""
        reset_peak(self.device)
        schedulers = cast(list[LRScheduler], _as_list(self.lr_schedulers()))
        for scheduler, configured in zip(schedulers, self._learning_rates, strict=True):
            scheduler.base_lrs = list(configured)
            for index, (group, base) in enumerate(zip(scheduler.optimizer.param_groups, configured, strict=True)):
                group["initial_lr"] = base
                if isinstance(scheduler, LambdaLR):
                    group["lr"] = base * scheduler.lr_lambdas[index](scheduler.last_epoch)
        self._steps = self._build_steps()

    def _build_steps(self) -> list[Step | GraphedStep]:
        """One for each phase."""
        graphed = self.cuda_graph and graph.usable(self.device, self.trainer.world_size, self.losses)
        optimizers = cast(list[LightningOptimizer], _as_list(self.optimizers()))
        steps: list[Step | GraphedStep] = []
        for phase, (of_generator, of_discriminator) in zip(self.phases, self._places, strict=True):
            loss, optimizer = _loss(phase), optimizers[of_generator]
            step = Step(
                generator=self.generator,
                ema=self.ema,
                loss=loss,
                optimizer=optimizer.optimizer if graphed else cast(Optimizer, optimizer),
                discriminator=self.discriminator,
                # The bare optimizer: Lightning counts the steps of its wrappers, and a batch is one step.
                discriminator_optimizer=None if loss.adversarial is None else optimizers[of_discriminator].optimizer,
                ema_decay=self.ema_decay,
                gradient_clip=self.gradient_clip,
                **({} if graphed else {"backward": self.manual_backward}),
            )
            bf16 = self.trainer.precision == "bf16-mixed"
            steps.append(GraphedStep(step, bf16) if graphed else step)
        return steps

    # --- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        done = self.trainer.global_step
        index, done_in_phase = self.phase_at(done)
        of_generator, of_discriminator = self._places[index]
        schedulers = cast(list[LRScheduler], _as_list(self.lr_schedulers()))
        logging = (done + 1) % cast(Any, self.trainer).log_every_n_steps == 0
        # Read before the schedule moves on, and only where it is logged: it may lie on the device.
        learning_rate = float(schedulers[of_generator].optimizer.param_groups[0]["lr"]) if logging else 0.0
        step = self._steps[index]
        values = step(batch, done_in_phase, logging)
        if isinstance(step, GraphedStep):  # Lightning counts what its wrappers of optimizers see
            progress = cast(Any, self.trainer.fit_loop).epoch_loop.manual_optimization.optim_step_progress
            progress.increment_ready()
            progress.increment_completed()
        adversarial = _loss(self.phases[index]).adversarial is not None
        for place in (of_generator, of_discriminator)[: 1 + adversarial]:
            schedulers[place].step()
        if logging:
            self._report(values, done + 1, learning_rate, len(batch.hr))

    def _report(self, values: dict[str, Tensor], step: int, learning_rate: float, batch_size: int) -> None:
        """Log what a logging step measured: the only place where training waits for the device."""
        numbers = dict(zip(values, torch.stack([v.detach().float() for v in values.values()]).tolist(), strict=True))
        if not all(math.isfinite(number) for number in numbers.values()):
            found = ", ".join(f"{name} {number:g}" for name, number in numbers.items() if name.startswith("train/"))
            raise TrainingDiverged(
                f"training diverged by step {step} ({found}); go on from the last checkpoint with a lower learning rate"
                " or training.gradient_clip=1"
            )
        numbers["train/learning_rate"] = learning_rate
        if (rate := self._timer.rate(step)) is not None:
            numbers["train/images_per_s"] = rate * batch_size * self.trainer.world_size
        if (peak := peak_mib(self.device)) is not None:
            numbers["train/peak_mib"] = peak
        titles = {"loss": "train/loss", "D": "train/discriminator", "images/s": "train/images_per_s"}
        shown = {title: numbers[name] for title, name in titles.items() if name in numbers}
        self._log(numbers, step)
        self.log_dict(shown, prog_bar=True, logger=False)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        """To the loggers directly: `self.log` would repeat old values of another phase, and count steps from 0."""
        for logger in self.loggers:
            logger.log_metrics(numbers, step)

    def on_train_batch_end(self, outputs: object, batch: Pair, batch_idx: int) -> None:
        """Lightning validates at every interval; here the end of each phase is validated, too."""
        trainer, step = cast(Any, self.trainer), self.trainer.global_step
        ends = accumulate(phase.steps for phase in self.phases)
        trainer.val_check_batch = step if step in ends else trainer.val_check_interval

    # --- validation -------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        self._timer.pause()

    def validation_step(self, batch: Pair, batch_idx: int) -> dict[str, Tensor]:
        """Scores one batch in fp32, whatever the training's precision. Returns its pictures: lr, bicubic, sr and hr."""
        with torch.autocast(self.device.type, enabled=False):
            sr = enlarge(self.ema, batch.lr)
        self._scores.update(sr, batch.hr)
        bicubic = imresize(to_uint8(batch.lr), self.scale)
        if not self._bicubic:
            self._bicubic_scores.update(bicubic, batch.hr)
        return {"lr": batch.lr, "bicubic": bicubic, "sr": sr, "hr": batch.hr}

    def on_validation_epoch_end(self) -> None:
        if not self._bicubic:
            self._bicubic = self._bicubic_scores.compute()  # once: it doesn't change
        scores = self._scores.compute()
        self._scores.reset()
        measured = {f"val/{name}": value for name, value in scores.items()}
        self.log_dict(measured, prog_bar=True, logger=False)  # the bar, and what checkpoints compare
        bicubic = {f"val/{name}_bicubic": value for name, value in self._bicubic.items()}
        gain = {f"val/{name}_gain": value - self._bicubic[name] for name, value in scores.items()}
        self._log({**measured, **bicubic, **gain}, self.trainer.global_step)

    def on_validation_end(self) -> None:
        self._timer.resume()


class _Timer:
    """Steps a second between two reports, without the time between pause and resume."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._paused_at = 0.0

    def rate(self, step: int) -> float | None:
        now, last = time.perf_counter(), self._last
        self._last = (step, now)
        return None if last is None or step <= last[0] else (step - last[0]) / (now - last[1])

    def pause(self) -> None:
        self._paused_at = time.perf_counter()

    def resume(self) -> None:
        if self._last is not None:
            self._last = (self._last[0], self._last[1] + time.perf_counter() - self._paused_at)


def _loss(phase: Phase) -> LossMix:
    assert phase.loss is not None
    return phase.loss


def _as_list(value: object) -> list[object]:
    return list(cast(list[object], value)) if isinstance(value, list | tuple) else [value]
