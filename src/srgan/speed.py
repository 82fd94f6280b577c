"""`python -m srgan.speed`: times step, Trainer, loader, start-up and upscaling against a plain implementation."""

import copy
import logging
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig, ListConfig

from srgan import config, config_checks, machine
from srgan.data.datamodule import ImageDataModule
from srgan.data.sources import FolderSource
from srgan.errors import UserError
from srgan.measure import loader, scale, steps, trainer, upscaling
from srgan.measure.clock import WARM_UP, matrix_rate, rate
from srgan.measure.plain import loads_alike, plain_batches, steps_alike
from srgan.runs import record
from srgan.training.build import build_module, silence_expected_warnings
from srgan.training.module import SRGAN

log = logging.getLogger(__name__)

WHAT = ("step", "train", "loader", "scale", "upscale")


def speed(cfg: DictConfig) -> dict[str, Any]:
    """Measure as configured. Returns the content of speed.json."""
    config_checks.check(cfg)
    if not isinstance(cfg.what, str | ListConfig):
        raise UserError(f"what={cfg.what}: choose from {', '.join(WHAT)}")
    what = [cfg.what] if isinstance(cfg.what, str) else list(cfg.what)
    if cfg.rounds < 1 or not cfg.seconds > 0:
        raise UserError(f"rounds={cfg.rounds} seconds={cfg.seconds}: expected 1 or more rounds of more than 0 seconds")
    if unknown := [name for name in what if name not in WHAT]:
        raise UserError(f"what={unknown}: choose from {', '.join(WHAT)}")
    if "scale" in what and not machine.PROCESS.exists():
        if what == ["scale"]:
            raise UserError(
                f"what=scale: memory is read from {machine.PROCESS}, which this system lacks; it needs Linux"
            )
        log.warning("scale is left out: memory is read from %s, which this system lacks", machine.PROCESS)
        what.remove("scale")
    silence_expected_warnings()
    accelerator, precision = machine.choose(str(cfg.trainer.accelerator), str(cfg.trainer.precision))
    device = torch.device("cpu" if accelerator == "cpu" else "cuda")
    torch.backends.cudnn.benchmark = bool(cfg.trainer.get("benchmark"))  # as the Trainer does
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": _machine(device, precision)}
    log.info("%s", "\n".join(f"{key}: {value}" for key, value in results["machine"].items()))

    def done(name: str, result: dict[str, Any]) -> None:
        results[name] = result
        record.write_json(run_dir / "speed.json", results)
        log.info("\n%s\n%s", name, table(result))

    results |= {"command": config.command_line(), "git_commit": record.git_commit(), "versions": record.versions()}
    results["config"] = config.resolved(cfg)
    if "step" in what:
        module, data = _module(cfg), _data(cfg)
        pairs = steps.random_pairs(data.degradation, data.crop, cfg.batch_size, device)
        found = steps.measure(module, pairs, device, precision, cfg.rounds, cfg.seconds)
        done("step", found)
        log.info("%s", schedule(found, {phase.name: phase.steps for phase in module.phases}))
    if "train" in what:
        done("train", _train(cfg, device, precision))
    if "loader" in what:
        done("loader", loader.measure(_data(cfg), cfg.rounds, cfg.seconds))
    if "scale" in what:
        done("scale", scale.measure())
    if "upscale" in what:
        done("upscale", upscaling.measure(_module(cfg).generator, device, "auto", cfg.rounds, cfg.seconds))
    log.info("\nFigures: %s", run_dir / "speed.json")
    return results


def _train(cfg: DictConfig, device: torch.device, precision: str) -> dict[str, Any]:
    """Time each phase with the Trainer and our loader, and the plain step with PIL's loader, on the same images."""
    results: dict[str, Any] = {}
    for index, phase in enumerate(_module(cfg).phases):
        module, data = _module(cfg), _data(cfg)
        bare = _rough_rate(module, index, data, device, precision, cfg)
        count = max(12, round(cfg.rounds * cfg.seconds * bare))
        module.phases = [replace(module.phases[index], steps=count)]
        clock = trainer.StepClock()
        with trainer.steps_timed() as inside:
            cast(
                Trainer,
                instantiate(
                    cfg.trainer,
                    accelerator=device.type,
                    precision=precision,
                    max_steps=count,
                    limit_val_batches=0,
                    val_check_interval=count,
                    enable_progress_bar=False,
                    callbacks=[clock],
                    logger=[logger for logger in instantiate(cfg.logger).values() if logger is not None],
                    enable_checkpointing=False,
                    default_root_dir=cfg.run_dir,
                ),
            ).fit(module, data)
        fast = trainer.figures(clock, inside, device, cfg.batch_size)
        source = data.splits.train
        if not isinstance(source, FolderSource) or not (loads_alike(data) and steps_alike(module, phase)):
            results[phase.name] = {"fast": fast}
            continue
        plain = _plain_rate(_module(cfg), index, data, source, device, cfg)
        slow = {"steps_per_s": plain, "images_per_s": plain * cfg.batch_size}
        results[phase.name] = {"fast": fast, "plain": slow, "ratio": fast["steps_per_s"] / plain}
    return results


def _rough_rate(
    module: SRGAN, index: int, data: ImageDataModule, device: torch.device, precision: str, cfg: DictConfig
) -> float:
    """Rough steps per second, to choose the number of steps to time."""
    twin = copy.deepcopy(module)
    pairs = steps.random_pairs(data.degradation, data.crop, cfg.batch_size, device, count=1)
    step = steps.fast_step(twin, twin.phases[index], device, precision)
    for _ in range(WARM_UP if device.type == "cuda" else 0):
        step(pairs[0])
    return rate(lambda: step(pairs[0]), device, 1)


def _plain_rate(
    module: SRGAN, index: int, data: ImageDataModule, source: FolderSource, device: torch.device, cfg: DictConfig
) -> float:
    workers = data.loader_processes(device.type == "cuda")
    batches = plain_batches(source, data.crop, data.degradation.scale, data.batch_size, workers)
    step = steps.plain_step(module, module.phases[index], device)

    def call() -> None:
        lr, hr = next(batches)
        step(steps.Pair(lr.to(device), hr.to(device)))

    call()
    return rate(call, device, cfg.rounds * cfg.seconds)


def _module(cfg: DictConfig) -> SRGAN:
    seed_everything(cfg.seed, workers=True, verbose=False)
    module = build_module(cfg)
    module.fit_to(cfg.trainer.max_steps)
    return module


def _data(cfg: DictConfig) -> ImageDataModule:
    return cast(ImageDataModule, instantiate(cfg.data, _convert_="all"))


def _machine(device: torch.device, precision: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"device": platform.processor() or platform.machine(), "precision": precision}
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    else:
        facts |= {"threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability()}
    single = "tf32" if device.type == "cuda" else "fp32"
    facts[f"gflop_per_s_{single}"] = matrix_rate(device, torch.float32) / 1e9
    if precision == "bf16-mixed":
        facts["gflop_per_s_bf16"] = matrix_rate(device, torch.bfloat16) / 1e9
    return facts


def schedule(found: dict[str, Any], phases: dict[str, int]) -> str:
    """How long the configured phases would take at the measured rates, without validation.

    found: by phase, what `steps.measure` returns.
    """
    hours = {name: count / found[name]["fast"]["steps_per_s"] / 3600 for name, count in phases.items()}
    parts = (f"{phases[name]:,} steps {name} {_duration(value)}" for name, value in hours.items())
    return f"This schedule would take {_duration(sum(hours.values()))} here: {', '.join(parts)}"


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def table(result: dict[str, Any], indent: str = "") -> str:
    """Format nested figures as text, one per line."""
    lines: list[str] = []
    for name, value in result.items():
        if isinstance(value, dict) and any(isinstance(inner, dict) for inner in cast(dict[str, Any], value).values()):
            lines += [f"{indent}{name}", table(cast(dict[str, Any], value), indent + "  ")]
        elif isinstance(value, dict):
            figures = cast(dict[str, float | None], value)
            texts = (f"{key} {number:,.4g}" for key, number in figures.items() if number is not None)
            lines.append(f"{indent}{name:12} " + ", ".join(texts))
        else:
            lines.append(f"{indent}{name:12} {value:.2f}" if isinstance(value, float) else f"{indent}{name:12} {value}")
    return "\n".join(lines)


def main() -> None:
    config.run(speed, "speed")


if __name__ == "__main__":
    main()
