"""`python -m srgan.train`: compose the configuration, build the parts, train, score the test images."""

import copy
import json
import logging
import platform
import shutil
import subprocess
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import torch
import wandb
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from srgan import checkpoints, config
from srgan.data.datamodule import ImageDataModule
from srgan.errors import UserError
from srgan.images import save_png
from srgan.metrics.lpips import LPIPS, weights_file
from srgan.models.generators import Generator
from srgan.training.callbacks import Checkpoints, Interrupted, ProgressBar
from srgan.training.module import SRGAN
from srgan.training.summary import score_test, table

log = logging.getLogger(__name__)

PACKAGES = ("srgan", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "wandb", "numpy")


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured, then score the test images. Returns what metrics.json holds.

    Raises UserError for what can't work, before training where that can be known, and Interrupted after Ctrl-C.
    """
    _hush()
    config.check(cfg)
    run_dir = Path(cfg.run_dir)
    accelerator, precision = machine(cfg.trainer)
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = cast(ImageDataModule, instantiate(cfg.data, _convert_="all"))
    lpips = _lpips(cfg)
    module = _module(cfg, lpips)
    record = _record(run_dir, module.config, accelerator, precision)

    loggers = cast(list[Logger], list(instantiate(cfg.logger).values()))
    try:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(module.config)
        trainer = cast(
            Trainer,
            instantiate(
                cfg.trainer,
                accelerator=accelerator,
                precision=precision,
                strategy=_strategy(cfg.trainer),
                max_steps=module.total_steps,
                val_check_interval=_interval(cfg.trainer.val_check_interval, module.total_steps),
                log_every_n_steps=min(cfg.trainer.log_every_n_steps, max(1, module.total_steps // 10)),
                callbacks=_callbacks(cfg),
                logger=loggers,
                default_root_dir=str(run_dir),
            ),
        )
        plan = _plan({phase.name: phase.steps for phase in module.phases})
        log.info("Training on %s (%s): %s. Folder: %s", accelerator, precision, plan, run_dir)
        trainer.fit(module, data, ckpt_path=cfg.ckpt_path)
        metrics = _finish(run_dir, trainer, module, data, lpips)
        record["status"] = "finished" if trainer.global_step == module.total_steps else "stopped"
        return metrics
    except Interrupted:
        record["status"] = "interrupted"
        raise
    except BaseException:
        record["status"] = "failed"
        raise
    finally:
        (run_dir / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            wandb.finish(exit_code=int(record["status"] in ("failed", "interrupted")))


def _hush() -> None:
    """Leave out what Lightning says of things that are as they should be here."""
    for expected in (
        ".*does not have many workers",  # on a CPU the loader has none on purpose
        ".*Experiment logs directory .* exists and is not empty",  # Hydra made the run's folder
        ".*module\\(s\\) in eval mode at the start of training",  # the averaged generator
        ".*isinstance\\(treespec, LeafSpec\\)",  # Lightning 2.6 with torch 2.15
    ):
        warnings.filterwarnings("ignore", expected)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)  # device lists and tips


def machine(trainer: DictConfig) -> tuple[str, str]:
    """Accelerator and precision, with `auto` decided: CUDA if there; bf16 where the device computes in it."""
    if trainer.max_epochs != -1:
        raise UserError(f"trainer.max_epochs={trainer.max_epochs}: runs are counted in steps; use trainer.max_steps")
    accelerator, precision = str(trainer.accelerator), str(trainer.precision)
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator not in ("cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator={accelerator}: expected auto, cpu, gpu or cuda")
    if accelerator != "cpu" and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator={accelerator}, but torch {torch.__version__} finds no CUDA device; use trainer=cpu"
        )
    if accelerator == "cpu":
        has_bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore[reportPrivateUsage]
    else:
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        precision = "bf16-mixed" if has_bf16 else "32-true"
    if precision not in ("bf16-mixed", "32-true"):
        raise UserError(f"trainer.precision={precision}: expected auto, bf16-mixed or 32-true")
    if precision.startswith("bf16") and not has_bf16:
        log.warning(
            "This %s has no bf16 arithmetic: %s is emulated and slow; trainer.precision=auto avoids it",
            accelerator,
            precision,
        )
    return accelerator, precision


def _strategy(trainer: DictConfig) -> str:
    """Several processes need DDP told that a backward pass reaches one of the two networks only."""
    several = str(trainer.devices) != "1" or trainer.get("num_nodes", 1) != 1
    return "ddp_find_unused_parameters_true" if several and trainer.strategy in ("auto", "ddp") else trainer.strategy


def _lpips(cfg: DictConfig) -> LPIPS | None:
    if cfg.lpips is None:
        return None
    if cfg.lpips not in ("squeeze", "alex", "vgg"):
        raise UserError(f"lpips={cfg.lpips}: expected squeeze, alex, vgg or null")
    if not weights_file(cfg.lpips).is_file():
        log.info("LPIPS is not measured: its network is not at %s (TORCH_HOME moves it)", weights_file(cfg.lpips))
        return None
    return LPIPS(cfg.lpips)


def _module(cfg: DictConfig, lpips: LPIPS | None) -> SRGAN:
    cfg = copy.deepcopy(cfg)
    if cfg.loss.gan is None or not cfg.phases.gan.steps:
        cfg.discriminator = cfg.phases.gan.loss = None
    elif cfg.init_from is not None:
        cfg.phases.content.steps = 0  # the GAN starts from what is already trained
    if not cfg.phases.content.steps:
        cfg.phases.content.loss = None  # build nothing that isn't used
    module = cast(SRGAN, instantiate(cfg.training, lpips=lpips, _convert_="all"))
    if cfg.init_from is not None:
        module.load_generator(checkpoints.initial_state(cfg.init_from, module.ema))
    module.fit_to(cfg.trainer.max_steps)
    module.config = config.resolved(cfg)
    if cfg.ckpt_path is not None:
        _prepare_resume(cfg, module)
    return module


def _prepare_resume(cfg: DictConfig, module: SRGAN) -> None:
    """Raise UserError if the run at ckpt_path can't be gone on with as configured; bring its checkpoints along."""
    path = Path(cfg.ckpt_path)
    saved = checkpoints.read(path)
    checkpoints.check_fit(module.state_dict(), saved["state_dict"], path)
    before, now = cast(dict[str, int], saved.get("phases", {})), {phase.name: phase.steps for phase in module.phases}
    finished = [_finished(plan, saved["global_step"]) for plan in (before, now)]
    if list(before) != list(now) or finished[0] != finished[1]:
        raise UserError(
            f"{path} is of a run of {_plan(before)}, this one has {_plan(now)}: a finished phase can't change;"
            " give the same steps, or start from its generator by init_from"
        )
    if saved["config"]["loss"] != module.config["loss"]:
        log.warning("The loss differs from that of %s; going on with the new one", path)
    folder = Path(cfg.run_dir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("best", *now):
        source = path.parent / f"{name}.ckpt"
        if source.is_file() and not (folder / source.name).exists():
            shutil.copyfile(source, folder / source.name)


def _finished(phases: dict[str, int], step: int) -> dict[str, int]:
    """The phases before the one under way, which after the last step is still the last one."""
    finished: dict[str, int] = {}
    for name, steps in list(phases.items())[:-1]:
        if sum(finished.values()) + steps > step:
            break
        finished[name] = steps
    return finished


def _plan(phases: dict[str, int]) -> str:
    return ", then ".join(f"{steps:,} steps {name}" for name, steps in phases.items())


def _callbacks(cfg: DictConfig) -> list[Callback]:
    callbacks = [callback for callback in instantiate(cfg.callbacks).values() if callback is not None]
    if not any(isinstance(callback, Checkpoints) for callback in callbacks):
        raise UserError("callbacks.checkpoints is needed: without it nothing would be left of the training")
    return [c for c in callbacks if cfg.trainer.enable_progress_bar or not isinstance(c, ProgressBar)]


def _interval(value: float, steps: int) -> int:
    """Steps between validations: of a float a share of the run, of an integer a number of steps; at least once."""
    if isinstance(value, float) and not 0 < value <= 1:
        raise UserError(f"trainer.val_check_interval={value}: expected a share of the run up to 1.0, or whole steps")
    return max(1, round(value * steps) if isinstance(value, float) else min(value, steps))


def _record(run_dir: Path, resolved: dict[str, Any], accelerator: str, precision: str) -> dict[str, Any]:
    """Write the resolved config and what this run is made with: config.yaml and run.json."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(resolved)), encoding="utf-8")
    record: dict[str, Any] = {
        "status": "running",
        "command": config.command_line(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "accelerator": torch.cuda.get_device_name() if accelerator != "cpu" else platform.processor() or "cpu",
        "precision": precision,
    }
    (run_dir / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _git_commit() -> str | None:
    """The commit of the checkout that holds this file, with "-dirty" if changed; None for an installed wheel."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # a wheel may lie in somebody else's checkout, which then doesn't track it
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _finish(
    run_dir: Path, trainer: Trainer, module: SRGAN, data: ImageDataModule, lpips: LPIPS | None
) -> dict[str, Any]:
    """Score the test images, print the table, write metrics.json and comparison.png."""
    reached = module.phases[module.phase_at(max(0, trainer.global_step - 1))[0]].name
    generators: dict[str, Generator] = {}
    for name in (phase.name for phase in module.phases):
        path = run_dir / "checkpoints" / f"{name}.ckpt"
        if name == reached:
            generators[name] = module.ema
            break
        if path.is_file():
            generators[name] = copy.deepcopy(module.ema)
            generators[name].load_state_dict(checkpoints.generator_state(checkpoints.read(path)))
    images = data.test_set()
    device = trainer.strategy.root_device
    result = score_test(generators, images, data.pair, module.scale, device, lpips)
    best = cast(Checkpoints, trainer.checkpoint_callback)
    metrics: dict[str, Any] = {
        "test": result.scores,
        "test_images": len(images),
        "protocol": "matlab",
        "scale": module.scale,
        "steps": {phase.name: phase.steps for phase in module.phases},
        "steps_done": trainer.global_step,
        "best": {"monitor": best.monitor, "value": best.best, "step": best.best_step},
    }
    if trainer.is_global_zero:
        save_png(result.comparison, run_dir / "comparison.png")
        (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        final = result.scores[reached]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update({f"test/{name}": value for name, value in final.items()})
                logger.log_image("test", [str(run_dir / "comparison.png")], step=trainer.global_step)
        title = f"\nTest: {len(images)} images, ×{module.scale}, protocol matlab (Y)"
        log.info(table(result.scores, title))
        log.info("\nPictures: %s\nFolder:   %s", run_dir / "comparison.png", run_dir)
    return metrics


def _task(cfg: DictConfig) -> None:
    try:
        train(cfg)
    except Interrupted:
        last = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
        log.info("Stopped. To go on: %s ckpt_path=%s", config.command_line(), last)
        sys.exit(130)


def main() -> None:
    config.run(_task, "train")


if __name__ == "__main__":
    main()
