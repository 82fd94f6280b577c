"""`python -m srgan.train`: compose the configuration, build the parts, train, score the test images."""

import copy
import json
import logging
import platform
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
    torch.set_float32_matmul_precision("high")
    seed_everything(cfg.seed, workers=True, verbose=False)
    data = cast(ImageDataModule, instantiate(cfg.data, _convert_="all"))
    lpips = _lpips(cfg)
    module = _module(cfg, lpips)
    record = _record(run_dir, cfg, accelerator, precision)

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
                max_steps=module.total_steps,
                val_check_interval=_interval(cfg.trainer.val_check_interval, module.total_steps),
                log_every_n_steps=min(cfg.trainer.log_every_n_steps, max(1, module.total_steps // 10)),
                callbacks=_callbacks(cfg),
                logger=loggers,
                default_root_dir=str(run_dir),
            ),
        )
        phases = ", then ".join(f"{phase.steps:,} steps {phase.name}" for phase in module.phases)
        log.info("Training on %s (%s): %s. Folder: %s", accelerator, precision, phases, run_dir)
        trainer.fit(module, data, ckpt_path=cfg.ckpt_path)
        metrics = _finish(cfg, trainer, module, data, lpips)
        record["status"] = "finished"
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
            wandb.finish(exit_code=0 if record["status"] == "finished" else 1)


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
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator={accelerator}, but torch {torch.__version__} finds no CUDA device; use trainer=cpu"
        )
    if accelerator == "cpu":
        has_bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore[reportPrivateUsage]
    else:
        has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        precision = "bf16-mixed" if has_bf16 else "32-true"
    if precision.startswith("16") or precision == "64-true":
        raise UserError(f"trainer.precision={precision} is not supported; use bf16-mixed, 32-true or auto")
    if precision.startswith("bf16") and not has_bf16:
        log.warning(
            "This %s has no bf16 arithmetic: %s is emulated and slow; trainer.precision=auto avoids it",
            accelerator,
            precision,
        )
    return accelerator, precision


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
        cfg.discriminator = None
    elif cfg.init_from is not None:
        cfg.phases.content.steps = 0  # the GAN starts from what is already trained
    module = cast(SRGAN, instantiate(cfg.training, lpips=lpips, _convert_="all"))
    if cfg.init_from is not None:
        module.load_generator(checkpoints.initial_state(cfg.init_from, module.ema))
    if cfg.ckpt_path is not None:
        checkpoints.read(cfg.ckpt_path)
    module.fit_to(cfg.trainer.max_steps)
    module.config = config.resolved(cfg)
    return module


def _callbacks(cfg: DictConfig) -> list[Callback]:
    callbacks = [callback for callback in instantiate(cfg.callbacks).values() if callback is not None]
    return [c for c in callbacks if cfg.trainer.enable_progress_bar or not isinstance(c, ProgressBar)]


def _interval(value: float, steps: int) -> int:
    """Steps between validations: a share of the run if below 1 or a float, else a number of steps; at least once."""
    return max(1, round(value * steps) if isinstance(value, float) else min(value, steps))


def _record(run_dir: Path, cfg: DictConfig, accelerator: str, precision: str) -> dict[str, Any]:
    """Write the resolved config and what this run is made with: config.yaml and run.json."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
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
    """The commit of the checkout that this package lies in, with "-dirty" if changed; None out of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _finish(
    cfg: DictConfig, trainer: Trainer, module: SRGAN, data: ImageDataModule, lpips: LPIPS | None
) -> dict[str, Any]:
    """Score the test images, print the table, write metrics.json and comparison.png."""
    run_dir = Path(cfg.run_dir)
    generators: dict[str, Generator] = {}
    for phase in module.phases[:-1]:
        folders = [run_dir / "checkpoints", *([Path(cfg.ckpt_path).parent] if cfg.ckpt_path else [])]
        for path in (folder / f"{phase.name}.ckpt" for folder in folders):
            if path.is_file():
                generators[phase.name] = copy.deepcopy(module.ema)
                generators[phase.name].load_state_dict(checkpoints.generator_state(checkpoints.read(path)))
                break
    generators[module.phases[-1].name] = module.ema
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
        "best": {"monitor": best.monitor, "value": best.best, "step": best.best_step},
    }
    if trainer.is_global_zero:
        save_png(result.comparison, run_dir / "comparison.png")
        (run_dir / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        final = result.scores[module.phases[-1].name]
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
