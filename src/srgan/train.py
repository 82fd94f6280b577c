"""`python -m srgan.train`: composes the configuration, trains, scores the test images."""

import copy
import logging
import platform
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from srgan import config, machine, threads
from srgan.data.datamodule import ImageDataModule, Pairs
from srgan.errors import UserError
from srgan.evaluation.benchmarks import SplitBenchmark
from srgan.evaluation.comparison import comparison
from srgan.evaluation.methods import Bicubic, Method, Network
from srgan.evaluation.score import evaluate
from srgan.evaluation.table import table
from srgan.metrics import measures, names
from srgan.metrics.measures import Measures
from srgan.models import checkpoints
from srgan.runs import record
from srgan.runs.record import RunRecord
from srgan.training import build, processes
from srgan.training.checkpoints import BEST, LAST, PREVIOUS, Checkpoints
from srgan.training.module import SRGAN, TrainingDiverged
from srgan.training.resume import (
    AUTO,
    bring_along,
    describe_phases,
    find_checkpoint,
    newest,
    prepare_resume,
    warn_of_differences,
)
from srgan.training.signals import Interrupted, Signals, announces_slurm_limit, requeued

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured, then score the test images. Returns the content of metrics.json.

    Raises UserError for settings that can't work, if possible before training, or if the final state can't be saved;
    Interrupted after Ctrl-C, SIGTERM and the like.
    """
    build.silence_expected_warnings()
    build.check(cfg)
    first = cast(Any, rank_zero_only).rank == 0  # the process that writes files
    run_dir = Path(cfg.run_dir)
    try:
        with ExitStack() as stack:
            signals = stack.enter_context(Signals())
            if first:
                stack.enter_context(record.lock(run_dir))
                if HydraConfig.initialized():
                    stack.enter_context(processes.leading(*config.of_this_run()))
            return _train(cfg, signals, first)
    except Interrupted as error:
        error.resumable = (run_dir / record.CHECKPOINTS / f"{LAST}.ckpt").is_file()
        raise


def _train(cfg: DictConfig, signals: Signals, first: bool) -> dict[str, Any]:
    accelerator, precision = machine.choose(str(cfg.trainer.accelerator), str(cfg.trainer.precision))
    data = cast(ImageDataModule, instantiate(cfg.data, _convert_="all"))
    measured = measures.load(cfg.lpips, cfg.niqe, cfg.dists, cfg.scale, cfg.download)
    seed_everything(cfg.seed, workers=True, verbose=False)  # after the measures' networks, which draw numbers, too
    run_dir = Path(cfg.run_dir)
    checkpoint = None if cfg.ckpt_path is None else find_checkpoint(str(cfg.ckpt_path), run_dir)
    module = build.prepare_module(cfg, measured, resuming=checkpoint is not None)
    resume = None if checkpoint is None else prepare_resume(checkpoint, module)
    saver = build.build_checkpoints(cfg, signals)
    lr_made = "" if isinstance(data, Pairs) else module.config["degradation"]
    saver.scored = f"{data.scored_in_validation()}, {lr_made}, {cfg.trainer.limit_val_batches}"
    steps = {phase.name: phase.steps for phase in module.phases}
    device_name = torch.cuda.get_device_name() if accelerator != "cpu" else platform.processor() or "cpu"
    if first:
        continued = resume is not None and resume.within(run_dir)
        run = RunRecord.start(
            run_dir, module.config, steps, config.command_line(), device_name, precision, config.choices(), continued
        )
    else:
        run = RunRecord(run_dir, {})
    loggers: list[Logger] = []
    try:
        if resume is not None and first:
            bring_along(resume, run_dir, list(steps))
        loggers += [logger for logger in instantiate(cfg.logger).values() if logger is not None]
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(module.config)
        trainer = build.build_trainer(cfg, module.total_steps, accelerator, precision, loggers, saver)
        module.circumstances = {
            "precision": precision, "processes": trainer.world_size, "training images": len(data.splits.train),
            "validation images": len(data.splits.validation), "test images": len(data.splits.test),
        }  # fmt: skip
        if resume is not None and first:
            warn_of_differences(resume, module)
        log.info(
            "Training on %s (%s; %d threads, %s): %s. Folder: %s",
            accelerator, precision, torch.get_num_threads(), threads.describe(), describe_phases(steps), run_dir,
        )  # fmt: skip
        trainer.fit(module, data, ckpt_path=None if resume is None else resume.path)
        if saver.validation_is_due(trainer, module):  # the run was stopped before its last validation
            trainer.validate(module, datamodule=data, verbose=False)
        if signals.received is not None:  # too late for the training to see it
            raise Interrupted(signals.received)
        try:
            metrics = _finish(run_dir, trainer, module, data, measured, saver)
        except OSError as error:
            lost = f"{_unsaved(saver, trainer.global_step, run_dir)}; " if saver.unwritten else ""
            raise UserError(f"{lost}the results can't be written ({error})") from error
        if saver.unwritten:
            raise UserError(_unsaved(saver, trainer.global_step, run_dir))
        run.status = "finished" if trainer.global_step == module.total_steps else "stopped"
        return metrics
    except Interrupted as error:
        run.status = "failed" if error.lost else "interrupted"
        raise
    except BaseException as error:
        run.status = "failed"
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if isinstance(cause, MisconfigurationException):
            raise UserError(f"trainer: {' '.join(str(cause).split())}") from error
        if isinstance(cause, TrainingDiverged):
            raise TrainingDiverged(f"{cause}; {_good_checkpoint(saver, list(steps))}") from error
        raise
    finally:
        if first:
            try:
                run.write()
            except OSError as error:
                log.warning("%s can't be written (%s)", run_dir / record.RUN, error.strerror)
        processes.release()  # while W&B sends its last values, the others may end
        if any(isinstance(logger, WandbLogger) for logger in loggers):
            wandb.finish(exit_code=int(run.status in ("failed", "interrupted")))


def _good_checkpoint(saver: Checkpoints, phases: list[str]) -> str:
    """Name the newest checkpoint of a run that diverged. Checkpoints never hold weights that aren't finite."""
    found = newest([saver.path(name) for name in (LAST, PREVIOUS, BEST, *phases)])
    return (
        "there is no checkpoint yet" if found is None else f"the last good checkpoint is {found[0]}, step {found[1]:,}"
    )


def _unsaved(saver: Checkpoints, step: int, run_dir: Path) -> str:
    """Say which checkpoints could not be written and what to do."""
    files = ", ".join(f"{saver.path(name)} ({reason})" for name, reason in saver.unwritten.items())
    if LAST not in saver.unwritten:
        return f"{files} could not be written; the state at step {step:,} is in {saver.path(LAST)}"
    command = config.resume_command(saver.path(LAST), run_dir)
    kept = "there is no earlier one" if saver.last_step is None else f"{LAST}.ckpt is of step {saver.last_step:,}"
    return f"the state at step {step:,} could not be saved: {files}; {kept}. Make room, and resume: {command}"


def _finish(
    run_dir: Path, trainer: Trainer, module: SRGAN, data: ImageDataModule, measured: Measures, saver: Checkpoints
) -> dict[str, Any]:
    """Score the test images by bicubic and by the end of each phase; write metrics.json, the table and the pictures."""
    device = trainer.strategy.root_device
    methods = _methods(saver, trainer.global_step, module, device)
    benchmark = SplitBenchmark(data.test_set(), data.degradation, f"{type(data).__name__} test")
    saved = "shown" if trainer.is_global_zero else "none"
    folder = run_dir / record.PICTURES
    result = evaluate(methods, benchmark, device, measures=measured, shown=4, folder=folder, saved=saved)
    metrics: dict[str, Any] = result.content() | {
        "steps": {phase.name: phase.steps for phase in module.phases},
        "steps_done": trainer.global_step,
        "alarms": list(module.health.alarms.values()),
        "best": {"monitor": saver.monitor, "value": saver.best, "step": saver.best_step},
        "versions": record.versions(),
    }
    if trainer.is_global_zero:
        picture = run_dir / record.COMPARISON
        comparison(result).save(picture)
        record.write_json(run_dir / record.METRICS, metrics)
        final = result.mean(list(methods)[-1])
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                scores = final["matlab"] | {score: final[score] for score in names.BEST if final.get(score) is not None}
                logger.experiment.summary.update({names.test(score): value for score, value in scores.items()})
                logger.log_image(names.TEST_PICTURES, [str(picture)], step=trainer.global_step)
        log.info("\n%s: %d images, ×%d\n%s", benchmark.name, len(benchmark), module.scale, table(result))
        for alarm in module.health.alarms.values():
            log.warning("\nAlarm at %s", alarm)
        log.info("\nPictures: %s\nFolder:   %s", picture, run_dir)
    return metrics


def _methods(saver: Checkpoints, steps_done: int, module: SRGAN, device: torch.device) -> dict[str, Method]:
    """Bicubic and the averaged generator at the end of each phase that was reached, the last one as it is now."""
    reached = module.phases[module.phase_at(max(0, steps_done - 1))[0]].name
    methods: dict[str, Method] = {"bicubic": Bicubic(module.scale)}
    for name in (phase.name for phase in module.phases):
        path = saver.path(name)
        if name == reached:
            methods[name] = Network(module.ema, device, label=name)
            break
        if path.is_file():
            earlier = copy.deepcopy(module.ema)
            earlier.load_state_dict(checkpoints.generator_state(checkpoints.read(path)))
            methods[name] = Network(earlier, device, label=name)
    return methods


def _goes_on_by_itself(cfg: DictConfig) -> bool:
    """True if this command, given again, resumes the run: from ckpt_path=auto, or from its own last.ckpt."""
    own = Path(cfg.run_dir) / record.CHECKPOINTS / f"{LAST}.ckpt"
    resumes = cfg.ckpt_path is not None and (cfg.ckpt_path == AUTO or Path(cfg.ckpt_path).resolve() == own.resolve())
    return resumes and config.keeps_folder()


def _task(cfg: DictConfig) -> None:
    try:
        train(cfg)
    except Interrupted as error:
        run_dir = Path(cfg.run_dir)
        command = config.resume_command(run_dir / record.CHECKPOINTS / f"{LAST}.ckpt", run_dir)
        if error.lost:
            raise UserError(
                f"stopped, and the state could not be saved ({error.lost}). To resume: {command}"
            ) from error
        if cast(Any, rank_zero_only).rank:
            pass  # the first process says it
        elif announces_slurm_limit(error.signum) and not _goes_on_by_itself(cfg):
            log.info(
                "Stopped before the time limit. The job was not put in SLURM's queue again, because its command would"
                " start from the beginning: give ckpt_path=auto and a folder without the time.%s",
                f" To resume: {command}" if error.resumable else "",
            )
        elif announces_slurm_limit(error.signum) and requeued():
            log.info(
                "Stopped before the time limit; SLURM has the job in its queue again. To resume by hand: %s", command
            )
        elif error.resumable:
            log.info("Stopped. To resume: %s", command)
        else:
            log.info("Stopped before the first checkpoint: there is nothing to go on from.")
        sys.exit(128 + error.signum)


def main() -> None:
    if cast(Any, rank_zero_only).rank:
        sys.argv[1:] = processes.following(sys.argv[1:])
    config.run(_task, "train")


if __name__ == "__main__":
    main()
