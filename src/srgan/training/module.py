"""The LightningModule: one training step for SRResNet and SRGAN, validation of the averaged generator."""

import copy
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loggers import WandbLogger
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from srgan import __version__
from srgan.data.crops import Batch
from srgan.data.datamodule import ImageDataModule, Pair
from srgan.errors import UserError
from srgan.images import to_uint8
from srgan.imresize import imresize
from srgan.inference.tiles import enlarge
from srgan.machine import peak_mib, reset_peak, tf32
from srgan.metrics import names
from srgan.metrics.means import MeanScores
from srgan.metrics.measures import Measures
from srgan.models.discriminators import Discriminator
from srgan.models.generators import Generator
from srgan.runs import record
from srgan.training import graph
from srgan.training.ema import EMA
from srgan.training.graph import GraphedStep, make_portable, place_counts
from srgan.training.guard import Skipped
from srgan.training.health import Health
from srgan.training.phases import Phase, fit_to
from srgan.training.processes import average
from srgan.training.step import Step

log = logging.getLogger(__name__)

BATCHES_KEPT = 4  # of them


class TrainingDiverged(UserError):
    """Losses, gradients or weights are no longer finite numbers."""


class SRGAN(LightningModule):
    """Trains a generator through its phases and, in phases with an adversarial loss, a discriminator.

    Optimisation is manual, by `Step`. Each batch counts as one step in every counter.

    Args:
        generator: maps LR to SR.
        phases: the phases by name, in order.
        ema_decay: the decay of the averaged generator, which is validated and exported; see `EMA`.
        gradient_clip: the largest norm of each network's gradient; None for no clipping.
        accumulate, separate_batches: see `Step`.
        skipped_in_a_row: training stops after so many steps in a row that were not finite, and so not applied.
        cuda_graph: replay each step as one CUDA graph; on a CPU steps run as they are, which the log says.
        discriminator: needed if the loss of a phase is adversarial.
        measures: what validation measures beside PSNR, SSIM, the grid and the colour drift.
    """

    def __init__(
        self,
        generator: Generator,
        phases: Mapping[str, Phase],
        ema_decay: float,
        gradient_clip: float | None,
        accumulate: int,
        separate_batches: bool,
        skipped_in_a_row: int,
        cuda_graph: bool,
        discriminator: Discriminator | None = None,
        measures: Measures | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.phases = [replace(phase, name=name) for name, phase in phases.items()]
        if not self.phases:
            raise UserError("nothing to train: no phase has both a loss and steps")
        if discriminator is None and any(phase.adversarial for phase in self.phases):
            raise UserError("an adversarial loss needs a discriminator; try discriminator=srgan")
        if gradient_clip is not None and not gradient_clip > 0:
            raise UserError(f"training.gradient_clip={gradient_clip}: expected a norm above 0, or null for no clipping")
        if skipped_in_a_row < 1:
            raise UserError(f"training.skipped_in_a_row={skipped_in_a_row}: expected 1 or more")
        if not 0 <= ema_decay < 1:
            raise UserError(f"training.ema_decay={ema_decay:g}: expected at least 0 and less than 1")
        for phase in self.phases:
            if phase.adversarial and phase.loss.penalises_gradients and _normalises_batches(discriminator):
                log.warning(
                    "A penalty on the discriminator's gradient at each image does not suit batch normalisation, which"
                    " mixes images; discriminator=patch, unet or projected has none"
                )
        self.scale = generator.scale
        self.generator = generator.to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.discriminator = None if discriminator is None else discriminator.to(memory_format=torch.channels_last)
        self.losses = nn.ModuleDict({phase.name: phase.loss for phase in self.phases})
        self.ema_decay = ema_decay
        self.gradient_clip = gradient_clip
        self.accumulate, self.separate_batches = accumulate, separate_batches
        self.skipped_in_a_row = skipped_in_a_row
        self.cuda_graph = cuda_graph
        self._scores, self._bicubic_scores = (MeanScores(self.scale, measures) for _ in range(2))
        self.measured = self._scores.measured
        self._bicubic: dict[str, float] = {}
        self._steps: list[Step | GraphedStep] = []  # one for each phase, made when training starts
        self._timer = _Timer()
        self.validated: dict[str, float] = {}  # the last validation's scores; NIQE may be undefined
        self.shown: dict[str, float] = {}  # shown beside the progress bar: the last losses and scores
        self.health = Health()
        self.config: dict[str, Any] = {}  # the resolved configuration, written into each checkpoint
        # What the configuration leaves open, by name: precision, number of processes and of images.
        self.circumstances: dict[str, str | int] = {}
        self.within_step = False  # True while a step changes the networks

    # --- phases -----------------------------------------------------------------------------------------------------

    @property
    def total_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def fit_to(self, max_steps: float) -> None:
        """Stretch or shorten the phases in proportion, to `max_steps` together; −1 keeps them."""
        self.phases = fit_to(self.phases, max_steps)

    def phase_at(self, step: int) -> tuple[int, int]:
        """After `step` finished steps: the index of the next batch's phase, and the steps finished in that phase."""
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
        # The configured options, by optimizer and parameter group; a checkpoint holds those of the earlier run.
        self._configured: list[list[dict[str, Any]]] = []
        self._optimizer_indices: list[tuple[int, int]] = []  # by phase: the generator's, the discriminator's
        for phase in self.phases:
            self._optimizer_indices.append((len(optimizers), len(optimizers) + 1))
            added = [phase.optimizer(self.generator.parameters())]
            if phase.adversarial:
                assert self.discriminator is not None
                added.append(phase.make_discriminator_optimizer(self.discriminator.parameters()))
            optimizers += added
            self._configured += [
                [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
                for optimizer in added
            ]
            schedulers += [phase.scheduler(optimizer, phase.steps) for optimizer in added]
        return optimizers, schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        checkpoint["srgan"] = __version__
        checkpoint["circumstances"] = self.circumstances
        checkpoint["health"] = self.health.state()
        _between_steps(checkpoint["loops"]["fit_loop"])
        for state in checkpoint.get("optimizer_states", []):
            make_portable(state["param_groups"])
        checkpoint["phases"] = {phase.name: phase.steps for phase in self.phases}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.get("callbacks", {}).pop("Timer", None)  # trainer.max_time applies to each run, not to all together
        self.health.load(checkpoint.get("health", {}))

    def on_train_start(self) -> None:
        """A resumed run takes learning rates and options from its own configuration, not from the checkpoint."""
        reset_peak(self.device)
        schedulers = cast(list[LRScheduler], _as_list(self.lr_schedulers()))
        for scheduler, configured in zip(schedulers, self._configured, strict=True):
            scheduler.base_lrs = [options["lr"] for options in configured]
            for index, (group, options) in enumerate(zip(scheduler.optimizer.param_groups, configured, strict=True)):
                group.update({name: value for name, value in options.items() if name != "lr"})
                group["initial_lr"] = options["lr"]
                if isinstance(scheduler, LambdaLR):
                    group["lr"] = options["lr"] * scheduler.lr_lambdas[index](scheduler.last_epoch)
            place_counts(scheduler.optimizer)
        # Lightning asks at each step whether one of several processes got SIGTERM, which waits for the device. Here
        # `Signals` handles it.
        loop: Any = cast(Any, self.trainer).fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None
        self._steps = self._build_steps()

    def _build_steps(self) -> list[Step | GraphedStep]:
        """One step per phase, replayed as a CUDA graph if that is configured and possible."""
        # The bare optimizers: Lightning counts the steps of its wrappers, and a batch is one step.
        optimizers = [wrapper.optimizer for wrapper in cast(list[LightningOptimizer], _as_list(self.optimizers()))]
        graphed = self.cuda_graph and graph.usable(self.device, self.losses, optimizers)
        pair = cast(ImageDataModule, cast(Any, self.trainer).datamodule).pairs_in_graph() if graphed else None
        steps: list[Step | GraphedStep] = []
        for phase, (generator_index, discriminator_index) in zip(self.phases, self._optimizer_indices, strict=True):
            step = Step(
                generator=self.generator,
                loss=phase.loss,
                optimizer=optimizers[generator_index],
                discriminator=self.discriminator,
                discriminator_optimizer=optimizers[discriminator_index] if phase.adversarial else None,
                gradient_clip=self.gradient_clip,
                accumulate=self.accumulate,
                separate_batches=self.separate_batches,
                ema=EMA(self.ema, self.generator, self.ema_decay),
            )
            if not graphed:
                step.backward = self.manual_backward
            if self.trainer.world_size > 1:
                step.average = average
            bf16 = self.trainer.precision == "bf16-mixed"
            steps.append(GraphedStep(step, bf16, pair or Pair) if graphed else step)
        return steps

    # --- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: Pair | Batch, batch_idx: int) -> None:
        done = self.trainer.global_step
        index, done_in_phase = self.phase_at(done)
        generator_index, discriminator_index = self._optimizer_indices[index]
        schedulers = cast(list[LRScheduler], _as_list(self.lr_schedulers()))
        logged = self._is_logged(done + 1, index, done_in_phase)
        # Read before the schedule changes it, and only for logging, since it may be on the device.
        learning_rate = float(schedulers[generator_index].optimizer.param_groups[0]["lr"]) if logged else 0.0
        self.within_step = True
        # A Batch, of which the graph makes the pair, comes only where the step is a graph.
        values = self._steps[index](cast(Pair, batch), done_in_phase, logged)
        progress = cast(Any, self.trainer.fit_loop).epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
        schedulers[generator_index].step()
        if self.phases[index].adversarial:
            schedulers[discriminator_index].step()
        self.within_step = False
        if logged:
            self._report(values, done + 1, learning_rate, len(batch.hr))

    def _is_logged(self, step: int, index: int, done_in_phase: int) -> bool:
        """True at every n-th step, and where the generator learns for the first time since.

        Beside a Wasserstein critic it learns at every fifth step alone, which may never be an n-th one.
        """
        every = cast(Any, self.trainer).log_every_n_steps
        adversarial = self.phases[index].loss.adversarial
        period = 1 if adversarial is None else adversarial.critic_steps
        learns = (done_in_phase + 1) % period == 0
        return step % every == 0 or (learns and step // every > (step - period) // every)

    def _report(self, values: dict[str, Tensor], step: int, learning_rate: float, batch_size: int) -> None:
        """Log what a step measured. Between logged steps training waits for the device only to validate or to save."""
        stacked = torch.stack([value.detach().float() for value in values.values()])
        numbers: dict[str, float] = dict(zip(values, stacked.tolist(), strict=True))
        numbers = {name: number for name, number in numbers.items() if math.isfinite(number)}
        numbers[names.LEARNING_RATE] = learning_rate
        if (rate := self._timer.rate(step)) is not None:
            numbers[names.IMAGES_PER_S] = rate * batch_size * self.trainer.world_size
        if (peak := peak_mib(self.device)) is not None:
            numbers[names.PEAK_MIB] = peak
        titles = {"loss": names.TOTAL_LOSS, "D": names.DISCRIMINATOR_LOSS, "images/s": names.IMAGES_PER_S}
        shown = {title: numbers[name] for title, name in titles.items() if name in numbers}
        self._log(numbers, step)
        self._check_health(numbers, step)
        self.shown |= shown
        self._report_skipped(step)

    def _report_skipped(self, step: int) -> None:
        """Say which steps were not applied since the last report; too many in a row end the run."""
        starts = accumulate((phase.steps for phase in self.phases), initial=0)
        for start, part in zip(starts, self._steps, strict=False):
            if (skipped := part.guard.report()) is None:
                continue
            first = start + skipped.step + 1
            text = f"step {first:,} was not applied: {skipped.cause or 'a loss of another process'} was not finite"
            if skipped.count > 1:
                text += f"; nor were {skipped.count - 1} more by step {step:,}"
            if self.trainer.is_global_zero:
                text += self._keep_batch(skipped, first)
            if skipped.in_a_row >= self.skipped_in_a_row:
                raise TrainingDiverged(
                    f"training diverged: {text}. That makes {skipped.in_a_row} in a row (training.skipped_in_a_row="
                    f"{self.skipped_in_a_row}); go on from the last checkpoint with a lower learning rate or"
                    " training.gradient_clip=1"
                )
            if self.trainer.is_global_zero:
                log.warning("%s", text)

    def _keep_batch(self, skipped: Skipped, step: int) -> str:
        """Write LR, HR and SR of a step that was not applied, for the first few of a run. Returns how to say so."""
        folder = Path(self.trainer.default_root_dir) / record.NOT_FINITE
        path = folder / f"step_{step:07d}.safetensors"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if len(list(folder.iterdir())) >= BATCHES_KEPT:
                return ""
            save_file({name: picture.cpu().contiguous() for name, picture in skipped.pictures.items()}, path)
        except (OSError, SafetensorError) as error:
            return f"; its images can't be written ({error})"
        return f"; its images are in {path}"

    def _check_health(self, numbers: dict[str, float], step: int) -> None:
        """Warn, in the log and on W&B, about problems that the values show."""
        for text in self.health.check(numbers, step):
            if self.trainer.is_global_zero:
                log.warning("%s", text)
            for logger in self.loggers:
                if isinstance(logger, WandbLogger):
                    logger.experiment.alert(title="Training health", text=text)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        """Pass values to the loggers directly: `self.log` would repeat another phase's values and count from 0."""
        for logger in self.loggers:
            logger.log_metrics(numbers, step)

    def on_train_batch_end(self, outputs: object, batch: Pair | Batch, batch_idx: int) -> None:
        """Let Lightning validate at the end of each phase as well as at every interval."""
        trainer, step = cast(Any, self.trainer), self.trainer.global_step
        trainer.val_check_batch = step if self._ends_phase(step) else trainer.val_check_interval
        if self._ends_phase(step):
            self._release(self._steps[: self.phase_at(step - 1)[0] + 1])

    def on_train_end(self) -> None:
        self._report_skipped(self.trainer.global_step)

    def teardown(self, stage: str) -> None:
        """Drop the steps' graphs: a group of GPUs can't be left while a graph holds its operations."""
        self._release(self._steps)

    @staticmethod
    def _release(steps: Sequence[Step | GraphedStep]) -> None:
        for step in steps:
            if isinstance(step, GraphedStep):
                step.release()

    def _ends_phase(self, step: int) -> bool:
        return step in accumulate(phase.steps for phase in self.phases)

    def validates_at(self, step: int) -> bool:
        """True if a validation follows this step, counted from 1."""
        trainer = cast(Any, self.trainer)
        return trainer.limit_val_batches != 0 and (self._ends_phase(step) or step % trainer.val_check_interval == 0)

    # --- validation -------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        self._timer.pause()

    def validation_step(self, batch: Pair, batch_idx: int) -> dict[str, Tensor]:
        """Score one batch in exact fp32, whatever the training's precision. Returns lr, bicubic, sr and hr by name."""
        with torch.autocast(self.device.type, enabled=False), tf32(False):
            sr = enlarge(self.ema, batch.lr)
            self._scores.update(sr, batch.hr, batch.lr)
            bicubic = imresize(to_uint8(batch.lr), self.scale)
            if not self._bicubic:
                self._bicubic_scores.update(bicubic, batch.hr, batch.lr)
        return {"lr": batch.lr, "bicubic": bicubic, "sr": sr, "hr": batch.hr}

    def on_validation_epoch_end(self) -> None:
        if not self._bicubic:
            self._bicubic = self._bicubic_scores.compute()  # once: it doesn't change
        scores = self._scores.compute()
        self._scores.reset()
        measured = {names.validation(score): value for score, value in scores.items()}
        self.shown |= measured
        bicubic = {names.validation_bicubic(score): value for score, value in self._bicubic.items()}
        gain = {
            names.validation_gain(score): value - self._bicubic[score]
            for score, value in scores.items()
            if score in self._bicubic  # NIQE may be undefined
        }
        self.validated = {**measured, **gain}
        self.log_dict(self.validated, logger=False)  # for callbacks of Lightning's
        self._log({**measured, **bicubic, **gain}, self.trainer.global_step)
        adversarial = self.phases[self.phase_at(max(0, self.trainer.global_step - 1))[0]].adversarial
        psnr = names.validation(names.PSNR)  # shows a collapse in any phase; other scores settle late
        self._check_health(measured if adversarial else {psnr: measured[psnr]}, self.trainer.global_step)

    def on_validation_end(self) -> None:
        self._timer.resume()


class _Timer:
    """Measures steps per second between two reports, without the time between pause and resume."""

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


def _between_steps(loop: dict[str, Any]) -> None:
    """Edit a checkpoint's state of Lightning's training loop: the step is finished, no validation is recorded.

    Otherwise Lightning infers from it in which hook the checkpoint was written and may skip a validation.
    """
    for key in [key for key in loop if key.startswith("epoch_loop.val_loop.")]:
        del loop[key]
    for count in (loop["epoch_loop.batch_progress"][key] for key in ("total", "current")):
        count["completed"] = count["processed"]


def _normalises_batches(network: nn.Module | None) -> bool:
    return network is not None and any(isinstance(part, nn.BatchNorm2d) for part in network.modules())


def _as_list(value: object) -> list[object]:
    return list(cast(list[object], value)) if isinstance(value, list | tuple) else [value]
