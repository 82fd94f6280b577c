"""The parts of a run, built from its configuration; what can't work is refused here, before anything is trained."""

import copy
import logging
import math
import os
import warnings
from pathlib import Path
from typing import cast

import torch
from hydra.utils import get_object, instantiate
from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import Tensor, nn

from srgan import config, config_checks, weights
from srgan.errors import UserError
from srgan.losses.adversarial import AdversarialLoss
from srgan.metrics.measures import Measures
from srgan.models import checkpoints, generators
from srgan.models.discriminators import Discriminator
from srgan.models.generators import Generator, check_scale
from srgan.runs import record
from srgan.training.callbacks import ProgressBar
from srgan.training.checkpoints import Checkpoints
from srgan.training.module import SRGAN
from srgan.training.phases import Phase
from srgan.training.processes import Processes
from srgan.training.signals import Signals

log = logging.getLogger(__name__)

STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


def silence_expected_warnings() -> None:
    """Suppress Lightning's warnings about things that are intended here."""
    for expected in (
        ".*does not have many workers",  # on a CPU one at most, on purpose
        ".*Experiment logs directory .* exists and is not empty",  # Hydra made the run's folder
        ".*module\\(s\\) in eval mode at the start of training",  # the averaged generator
        ".*recommended to use `self.log\\(.*sync_dist=True",  # scores are means over all processes already
        ".*GPU available but not used",  # trainer=cpu is a choice
        ".*`srun` command is available",  # on a login node a run without SLURM is a choice
        ".*`lr_scheduler.step\\(\\)` before `optimizer.step",  # beside a Wasserstein critic the generator learns later
        ".*isinstance\\(treespec, LeafSpec\\)",  # Lightning 2.6 with torch 2.15
    ):
        warnings.filterwarnings("ignore", expected)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # device lists and tips


def check(cfg: DictConfig) -> None:
    """Raise UserError for keys and values that can be rejected before anything is built."""
    config_checks.check(cfg)
    if cfg.trainer.max_epochs != -1:
        raise UserError(
            f"trainer.max_epochs={cfg.trainer.max_epochs}: runs are counted in steps; use trainer.max_steps"
        )
    if cfg.trainer.get("num_sanity_val_steps"):
        raise UserError(
            f"trainer.num_sanity_val_steps={cfg.trainer.num_sanity_val_steps}: scores of some of the images would stand"
            " among the others; trainer.max_steps=1 tries everything"
        )
    check_scale(cfg.scale)
    if cfg.accumulate < 1:
        raise UserError(f"accumulate={cfg.accumulate}: expected 1 or more parts of a batch")
    if cfg.batch_size < 1:
        raise UserError(f"batch_size={cfg.batch_size}: expected 1 or more")
    parts = _parts(cfg)
    if cfg.batch_size % parts:
        raise UserError(
            f"batch_size={cfg.batch_size} can't be split in {parts} equal parts; try {parts} or {2 * parts}"
        )
    for name in ("limit_train_batches", "overfit_batches"):
        if cfg.trainer.get(name):
            raise UserError(f"trainer.{name}={cfg.trainer[name]}: would repeat the same batches; use trainer.max_steps")
    for name in ("log_every_n_steps", "val_check_interval"):
        if not isinstance(cfg.trainer[name], int | float) or cfg.trainer[name] is True:
            raise UserError(f"trainer.{name}={cfg.trainer[name]}: expected a number")
    if cfg.trainer.log_every_n_steps < 1:
        raise UserError(f"trainer.log_every_n_steps={cfg.trainer.log_every_n_steps}: expected 1 or more")
    if isinstance(cfg.trainer.strategy, str) and cfg.trainer.strategy not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={cfg.trainer.strategy}: expected {', '.join(STRATEGIES)}; a device holds both networks"
        )
    discriminator_class = get_object(cfg.discriminator["_target_"])
    multiple = math.lcm(cfg.scale, getattr(discriminator_class, "multiple", 1))
    if "gan" in _planned_phases(cfg) and multiple > cfg.scale and (cfg.data.crop < 1 or cfg.data.crop % multiple):
        below = max(multiple, cfg.data.crop - cfg.data.crop % multiple)
        raise UserError(
            f"data.crop={cfg.data.crop}: scale={cfg.scale} and {discriminator_class.__name__} need a multiple of"
            f" {multiple}; try data.crop={below} or {below + multiple}"
        )


def prepare_module(cfg: DictConfig, measured: Measures, resuming: bool = False) -> SRGAN:
    """The module with its initial weights and planned steps, tried on the crops it will see.

    A run that is resumed (`resuming`) gets its weights from a checkpoint, so the file of `init_from` isn't needed.
    """
    module = build_module(cfg, measured)
    phases = [phase.name for phase in module.phases]
    config_checks.warn_of_what_has_no_effect(phases)
    if cfg.init_from is not None and not resuming:
        if phases == ["gan"]:
            log.info(
                "init_from=%s: the GAN phase begins at once; phases.gan.steps=0 trains the content phase alone",
                cfg.init_from,
            )
        module.load_generator(checkpoints.initial_state(weights.find(cfg.init_from), module.ema))
    module.fit_to(cfg.trainer.max_steps)
    module.config = config.resolved(cfg)
    check_crops(module, cfg.data.crop, cfg.batch_size // _parts(cfg))
    return module


def build_module(cfg: DictConfig, measured: Measures | None = None) -> SRGAN:
    """Build the networks and phases that the run uses, with random weights."""
    planned = _planned_phases(cfg)
    generator = instantiate(cfg.generator)
    check_generator(generator)
    discriminator = instantiate(cfg.discriminator) if "gan" in planned else None
    phases = {name: instantiate(cfg.phases[name], _convert_="all") for name in planned}
    for name, phase in phases.items():
        check_optimizers(name, phase)
        if learning := [f"{part}.{key}" for part, key in _parameters(phase)]:
            log.warning(
                "phases.%s: the loss has parameters that would learn (%s), but only generator and discriminator do;"
                " keep fixed ones as buffers, not persistent",
                name, ", ".join(learning[:3]),
            )  # fmt: skip
    make = instantiate(cfg.training, _partial_=True)  # partial, since Hydra would turn phases into configurations
    return make(generator=generator, discriminator=discriminator, phases=phases, measures=measured)


def _parameters(phase: Phase) -> list[tuple[str, str]]:
    """The content losses' parameters that require a gradient, by loss and name."""
    return [
        (part, key)
        for part, loss in phase.loss.content.items()
        for key, parameter in loss.named_parameters()
        if parameter.requires_grad
    ]


def _planned_phases(cfg: DictConfig) -> list[str]:
    """The phases that have a loss and steps. A GAN that starts from trained weights needs no content phase."""
    planned = [str(name) for name, phase in cfg.phases.items() if phase.steps and cfg.loss.get(name) is not None]
    return ["gan"] if cfg.init_from is not None and "gan" in planned else planned


def check_optimizers(name: str, phase: Phase) -> None:
    """Raise UserError if a phase's optimizers or its schedule can't be made, tried on one parameter."""
    try:
        optimizers = [phase.optimizer([nn.Parameter(torch.zeros(1))])]
        optimizers += [phase.make_discriminator_optimizer([nn.Parameter(torch.zeros(1))])] if phase.adversarial else []
        for optimizer in optimizers:
            phase.scheduler(optimizer, phase.steps)
    except UserError:
        raise
    except Exception as error:  # whatever an optimizer says to its arguments
        raise UserError(
            f"phases.{name}: its optimizer or schedule can't be made ({error}); see phases.{name}"
        ) from error


def check_crops(module: SRGAN, crop: int, batch_size: int) -> None:
    """Raise UserError, before a phase of hours, if a network or a loss can't process batches of `batch_size` crops.

    Copies are tried on torch's meta device, and again on the CPU before anything is refused.
    """
    hr = (batch_size, 3, crop, crop)
    trials: list[tuple[str, nn.Module, list[tuple[int, ...]]]] = [
        ("the generator", module.generator, [(batch_size, 3, crop // module.scale, crop // module.scale)])
    ]
    for phase in module.phases:
        trials += [(f"the loss {name}", loss, [hr, hr]) for name, loss in phase.loss.content.items()]
        if phase.loss.adversarial is not None and module.discriminator is not None:
            tried = AdversarialTrial(module.discriminator, phase.loss.adversarial)
            trials.append(("the discriminator", tried, [hr, hr]))
    for name, network, shapes in trials:
        for device in ("meta", "cpu"):
            try:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    output = copy.deepcopy(network).to(device)(*(torch.rand(shape, device=device) for shape in shapes))
                if name.startswith("the loss") and not (isinstance(output, Tensor) and output.ndim == 0):
                    raise UserError(f"{name} gave {_described(output)}, expected a tensor without dimensions")
                break
            except UserError:
                raise
            except (RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                if device == "cpu":
                    raise UserError(
                        f"{name} can't take batches of {batch_size} crops of {crop}×{crop} ({reason});"
                        " take a larger data.crop or batch_size"
                    ) from error


class AdversarialTrial(nn.Module):
    """Passes SR and HR through a discriminator and both formulas of an adversarial loss, as a step does."""

    def __init__(self, discriminator: Discriminator, loss: AdversarialLoss) -> None:
        super().__init__()
        self.discriminator, self.loss = discriminator, loss

    def forward(self, sr: Tensor, hr: Tensor) -> None:
        """Raises UserError if the discriminator isn't one of this project's base class."""
        undefined = Discriminator.with_features
        if getattr(type(self.discriminator), "with_features", undefined) is undefined:
            raise UserError(
                f"{type(self.discriminator).__name__} has no method with_features, which gives its logits and feature"
                " maps; see srgan.models.discriminators.Discriminator"
            )
        fake, real = (self.discriminator.with_features(images)[0] for images in (sr, hr))
        self.loss.discriminator_loss(real, fake)
        self.loss.generator_loss(fake, real)


def check_generator(generator: Generator) -> None:
    """Raise UserError for a generator of the user's own that can't be validated; warn if no command can load it."""
    name = type(generator).__name__
    lacking = [key for key in ("scale", "receptive_field", "multiple") if not hasattr(generator, key)]
    if lacking:
        raise UserError(f"{name} lacks {', '.join(lacking)}; see srgan.models.generators.Generator")
    if type(generator).__module__ != generators.__name__:
        log.warning(
            "%s isn't in %s, from which alone srgan.evaluate, upscale and export build the generators of checkpoints:"
            " they won't load this run's",
            name, generators.__name__,
        )  # fmt: skip


def _described(output: object) -> str:
    return f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"


def build_checkpoints(cfg: DictConfig, signals: Signals) -> Checkpoints:
    """The callback that writes checkpoints and stops the training at signals."""
    node = cfg.callbacks.get("checkpoints")
    # The folder is no setting: ckpt_path=auto and models=[RUN] look for the checkpoints there.
    saver = node and instantiate(node, folder=str(Path(cfg.run_dir) / record.CHECKPOINTS))
    if not isinstance(saver, Checkpoints):
        raise UserError("callbacks.checkpoints is needed: without it nothing would be left of the training")
    saver.signals = signals
    return saver


def build_trainer(
    cfg: DictConfig, steps: int, accelerator: str, precision: str, loggers: list[Logger], saver: Checkpoints
) -> Trainer:
    """Lightning's Trainer for a run of `steps` steps."""
    devices, cores = str(cfg.trainer.devices), os.cpu_count() or 1
    if accelerator == "cpu" and devices.isdigit() and int(devices) > max(4, cores):
        raise UserError(f"trainer.devices={devices}: on a CPU these are processes, and this machine has {cores} cores")
    return cast(
        Trainer,
        instantiate(
            cfg.trainer,
            accelerator=accelerator,
            precision=precision,
            strategy=_strategy(cfg.trainer),
            max_steps=steps,
            val_check_interval=_interval(cfg.trainer.val_check_interval, steps),
            log_every_n_steps=min(cfg.trainer.log_every_n_steps, max(1, steps // 10)),
            callbacks=[*_other_callbacks(cfg), saver],
            plugins=[saver.files, *_cluster()],
            logger=loggers,
            default_root_dir=cfg.run_dir,
        ),
    )


def _strategy(trainer: DictConfig) -> str | Processes:
    """Lightning's strategy, or `Processes` for several processes and for `ddp`."""
    several = str(trainer.devices) != "1" or trainer.get("num_nodes", 1) != 1
    return Processes() if trainer.strategy == "ddp" or (several and trainer.strategy == "auto") else trainer.strategy


def _cluster() -> list[SLURMEnvironment]:
    """Of a SLURM job, without Lightning's own saving and requeueing, since `Signals` and `requeued` do it."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _other_callbacks(cfg: DictConfig) -> list[Callback]:
    others = {name: node for name, node in cfg.callbacks.items() if name != "checkpoints"}
    callbacks = [callback for node in others.values() if (callback := instantiate(node)) is not None]
    return [c for c in callbacks if cfg.trainer.enable_progress_bar or not isinstance(c, ProgressBar)]


def _interval(value: float, steps: int) -> int:
    """Steps between validations, from a share of the run (float) or a number of steps (int); at most the whole run."""
    if value <= 0 or (isinstance(value, float) and value > 1):
        raise UserError(f"trainer.val_check_interval={value}: expected a share of the run up to 1.0, or whole steps")
    return max(1, round(value * steps) if isinstance(value, float) else min(value, steps))


def _parts(cfg: DictConfig) -> int:
    """The number of parts in which a batch is processed."""
    return cfg.accumulate * (2 if cfg.training.separate_batches else 1)
