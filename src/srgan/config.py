"""The configuration: its schema, the path of conf/, running commands with Hydra."""

import argparse
import contextlib
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
)

from srgan import cli, overrides
from srgan.errors import UserError, did_you_mean, fault_of_machine
from srgan.runs import record

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1] / "conf"  # in a wheel; in a checkout
GROUPS = {  # each group's options; shared.yaml is only included by others
    folder.name: sorted(file.stem for file in folder.iterdir() if file.stem != "shared")
    for folder in CONF.iterdir()
    if folder.is_dir() and folder.name != "hydra"
}
LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm")  # plugins of Hydra, on which conf/hydra/launcher stands
SMALLER = "take fewer or smaller images at a time (batch_size, data.crop, accumulate=2)"  # if memory is short
COMPOSITION_ERRORS = ConfigCompositionException | OverrideParseException


@dataclass
class TrainConfig:
    """The top-level keys of conf/train.yaml, which explains them. Any other key is an error."""

    name: str = MISSING
    scale: int = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    init_from: str | None = None
    ckpt_path: str | None = None
    accumulate: int = MISSING
    adversarial_weight: float = MISSING
    adversarial_ramp: int = MISSING
    balance: float | None = None
    feature_matching: float = MISSING
    vgg: str = MISSING
    lpips: str | None = None
    niqe: bool = MISSING
    dists: bool = MISSING
    download: bool = MISSING
    run_dir: str = MISSING
    cuda_graph: bool = False  # run each step as one CUDA graph; set by trainer=fast
    fused: bool | None = None  # fused Adam; None leaves the choice to torch; set by trainer=fast
    data: Any = MISSING
    degradation: Any = MISSING
    generator: Any = MISSING
    discriminator: Any = MISSING
    content: Any = MISSING
    adversarial: Any = MISSING
    loss: Any = MISSING
    phases: Any = MISSING
    training: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    callbacks: Any = MISSING


@dataclass
class SpeedConfig(TrainConfig):
    """The top-level keys of conf/speed.yaml: those of a training and what to measure."""

    what: Any = MISSING
    rounds: int = MISSING
    seconds: float = MISSING


@dataclass
class LookConfig(TrainConfig):
    """The top-level keys of conf/look.yaml: those of a training and the number of pairs."""

    pairs: int = MISSING


@dataclass
class ShardConfig(TrainConfig):
    """The top-level keys of conf/shard.yaml: those of a training and the size of a shard."""

    megabytes: int = MISSING


@dataclass
class EvaluateConfig:
    """The top-level keys of conf/evaluate.yaml, which explains them. Any other key is an error."""

    models: Any = None
    scale: int = MISSING
    protocols: list[str] = MISSING
    lpips: Any = None
    niqe: bool = MISSING
    dists: bool = MISSING
    download: bool = MISSING
    fid: Any = MISSING
    device: str = MISSING
    tile: int = MISSING
    pictures: bool = MISSING
    shown: int = MISSING
    details: int = MISSING
    run_dir: str = MISSING
    benchmark: Any = MISSING
    data: Any = None
    degradation: Any = MISSING
    reference: Any = None


@dataclass
class LeaderboardConfig(EvaluateConfig):
    """The top-level keys of conf/leaderboard.yaml: those of an evaluation and the table."""

    table: str = MISSING
    about: Any = MISSING
    verify: bool = MISSING


def _sweep_group() -> str | None:
    """The folder of this run's sweep; None if it isn't part of one."""
    hydra_config = HydraConfig.get()
    return Path(hydra_config.sweep.dir).name if hydra_config.mode == RunMode.MULTIRUN else None


def register() -> None:
    """Register the schema and the resolver `${sweep_group:}` with Hydra. May be called repeatedly."""
    ConfigStore.instance().store(name="train_schema", node=TrainConfig)
    ConfigStore.instance().store(name="speed_schema", node=SpeedConfig)
    ConfigStore.instance().store(name="look_schema", node=LookConfig)
    ConfigStore.instance().store(name="shard_schema", node=ShardConfig)
    ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)
    ConfigStore.instance().store(name="leaderboard_schema", node=LeaderboardConfig)
    OmegaConf.register_new_resolver("sweep_group", _sweep_group, replace=True)


def run(task: Callable[[DictConfig], object], config_name: str) -> None:
    """Compose `config_name` with the command line and run `task`, once or for each run of a sweep, as `cli.run` does.

    What a user got wrong is one clear line and in the run's error.txt; in a sweep the other runs go on, and the exit
    code is 1. A launcher such as joblib's has each run of a sweep done by another process, which gets `task` and all
    that it needs by pickle.
    """
    cli.run(lambda: _compose_and_run(task, config_name))


def _compose_and_run(task: Callable[[DictConfig], object], config_name: str) -> int:
    """Returns the exit code."""
    register()
    composed = False
    code = 0
    arguments, process = sys.argv, os.getpid()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def job(config: DictConfig) -> None:
        nonlocal composed, code
        composed = True
        logging.raiseExceptions = False  # what a full disk has no room for in the log's file is still on the terminal
        elsewhere = os.getpid() != process
        if elsewhere:
            register()
            sys.argv = [*arguments]
        note = Path(config.run_dir) / record.ERROR
        before = _stamp(note.with_name(record.RUN))
        try:
            task(config)
            if not note.with_name(record.RUN).exists():  # a training removes its own
                note.unlink(missing_ok=True)  # of an earlier attempt in the same folder
        except Exception as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) else error
            if isinstance(cause, OmegaConfBaseException):  # such as an interpolation of a missing key
                where = f"{cause.full_key}: " if cause.full_key else ""
                cause = UserError(f"{where}{str(cause).splitlines()[0]}")
            if cause is not None and (fault := fault_of_machine(cause, SMALLER)):
                cause = UserError(fault)
            text = cli.message(cause) if isinstance(cause, UserError) else f"{type(error).__name__}: {error}"
            with contextlib.suppress(OSError):  # if the disk is full, the message is on the terminal anyway
                if not _is_anothers(note.parent, before, config_name == "train"):
                    note.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            if not isinstance(cause, UserError):
                raise
            code = cli.fail(text)
            if elsewhere:  # Hydra raises it in the first process, when all runs have ended
                raise UserError(text) from None

    if overrides.is_multirun(arguments) and any(argument.startswith("hydra.run.dir=") for argument in arguments):
        return cli.fail("hydra.run.dir= has no effect on a sweep (-m); give hydra.sweep.dir=, which holds its runs")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises what it would else print on several lines
    sys.argv = [arguments[0], *overrides.with_quoted_text(arguments[1:], [*GROUPS])]
    try:
        job()
    except UserError as error:
        return cli.fail(cli.message(error))
    except Exception as error:
        if fault := fault_of_machine(error, SMALLER):
            return cli.fail(fault)
        if composed and not isinstance(error, COMPOSITION_ERRORS):
            raise
        return cli.fail(_composition_error(error))
    finally:
        sys.argv = arguments
    return code


def _is_anothers(run_dir: Path, before: int | None, training: bool) -> bool:
    """True if the folder holds a training that this command, refused at its start, didn't touch.

    False for a failed or interrupted one if this is its next attempt, whose error replaces the earlier note.

    before: when its run.json was written last before this command. training: whether this command is a training.
    """
    if before is None or _stamp(run_dir / record.RUN) != before:
        return False
    # Other processes of a training don't write run.json, although the run is theirs, too.
    utilities = sys.modules.get("lightning.pytorch.utilities")
    if utilities is not None and utilities.rank_zero_only.rank != 0:
        return False
    return not training or record.status(run_dir) in ("finished", "stopped", "running")


def _stamp(path: Path) -> int | None:
    """When a file was written last, in ns; None if it isn't there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _composition_error(error: Exception) -> str:
    """Explain in one line why the command line and conf/ don't form a valid configuration."""
    if not isinstance(error, COMPOSITION_ERRORS):  # Hydra doesn't say which group was set to null
        for group in (argument.removesuffix("=null") for argument in sys.argv[1:] if argument.endswith("=null")):
            if group in GROUPS:
                return f"{group}=null: choose one of {', '.join(GROUPS[group])}"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ConfigAttributeError | ConfigKeyError):
        cause = cause.__cause__
    if cause is not None and cause.key is not None and isinstance(cause.parent_node, DictConfig):
        groups = GROUPS if cause.full_key == cause.key else []
        known = sorted({*groups, *(str(key) for key in cause.parent_node)})
        hint = did_you_mean(str(cause.key), known) or (f"; there are {', '.join(known)}" if known else "")
        parts = str(cause.full_key).split(".")
        for start in range(1, len(parts) - 1):  # as data.degradation.x, a separate group that data only refers to
            if not known and parts[start] in GROUPS:
                hint = f"; set {'.'.join(parts[start:])}"
        return f"{cause.full_key}: no such key{hint}"
    if isinstance(error, OverrideParseException):
        key, equals, value = error.override.partition("=")
        if not equals:
            return f"{error.override}: expected KEY=VALUE, without spaces around ="
        return f"{error.override}: Hydra can't read this value; as text it is {as_override(key, value)}"
    text = " ".join(str(error).partition("Config search path")[0].split())
    if any(f"'hydra/launcher/{name}'" in text for name in LAUNCHERS):
        return "this launcher needs a plugin of Hydra: pip install 'srgan[sweep]'"
    if place := re.search(r"Could not override '(\w+@loss\.gan)'", text):
        losses = ", ".join(f"loss={name}" for name in GROUPS["loss"] if name.startswith("srgan"))
        return f"{place[1]}: the chosen loss has no GAN phase; choose one of {losses}"
    if (missing := re.search(r"Could not (?:find|load) '(\w+)/([^']+)'", text)) and missing[1] in GROUPS:
        return f"{missing[1]}={missing[2]}: choose from {', '.join(GROUPS[missing[1]])}"
    if text.startswith("Error merging override") and error.__cause__ is not None:
        if "is not a ListConfig" in str(error.__cause__) and (single := re.search(r"(\S+?)=(\S+)$", text)):
            return f"{single[0]}: expected a list, such as '{single[1]}=[{single[2]}]'"
        return f"{text}: {str(error.__cause__).splitlines()[0]}"
    return text


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, with interpolations resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def keeps_folder() -> bool:
    """True if this command, given again, has the same folder, so that ckpt_path=auto finds its checkpoints."""
    hydra_config = HydraConfig.get()
    sweep = hydra_config.mode == RunMode.MULTIRUN
    if sweep and str(hydra_config.launcher.get("_target_")).endswith("SlurmLauncher"):
        folder = ""  # its job keeps the folder that the sweep's command made
    else:
        node = hydra_config.sweep if sweep else hydra_config.run
        folder = str(cast(dict[str, Any], OmegaConf.to_container(node, resolve=False))["dir"])
    return "${now:" not in folder


def choices() -> dict[str, str]:
    """The chosen file of conf/ for each group, as Hydra knows it; empty outside a command of Hydra."""
    if not HydraConfig.initialized():
        return {}
    hydra_config = HydraConfig.get()
    task = cast(list[str], OmegaConf.to_container(hydra_config.overrides.task, resolve=False))
    return record.chosen(hydra_config.runtime.choices, task, [*GROUPS])


def as_override(key: str, value: str) -> str:
    """`key=value` quoted for a shell and for Hydra, whatever characters the value contains."""
    return shlex.quote(f"{key}={overrides.quoted(value)}")


def command_line() -> str:
    """The command that repeats this run, which may be one run of a sweep; empty for a run from Python."""
    module = Path(sys.argv[0]).stem
    if module not in cli.COMMANDS:
        return ""
    arguments = [*_other_configurations(), *typed()] if HydraConfig.initialized() else sys.argv[1:]
    return shlex.join(["python", "-m", f"srgan.{module}", *arguments])


def of_this_run() -> tuple[list[str], str]:
    """Hydra's arguments that compose this run alone, in its folder; and the one that sets its folder or its sweep's."""
    hydra_config = HydraConfig.get()
    task = cast(list[str], OmegaConf.to_container(hydra_config.overrides.task, resolve=False))
    own = f"hydra.run.dir={overrides.quoted(str(hydra_config.runtime.output_dir))}"
    where = _other_configurations()
    if hydra_config.mode != RunMode.MULTIRUN:
        return [*where, *task, own], own
    return [*where, *task, own], f"hydra.sweep.dir={overrides.quoted(str(Path(hydra_config.sweep.dir).absolute()))}"


def resume_command(checkpoint: Path, run_dir: Path) -> str:
    """The command that resumes this run in its folder, from `checkpoint` unless ckpt_path=auto finds it."""
    given = [text for text in typed() if not text.startswith("ckpt_path=")]
    words = ["ckpt_path=auto" if "ckpt_path=auto" in typed() else as_override("ckpt_path", str(checkpoint))]
    if not any(text.startswith("hydra.run.dir=") for text in given):
        words.append(as_override("hydra.run.dir", str(run_dir)))
    command = ["python", "-m", f"srgan.{Path(sys.argv[0]).stem}", *_other_configurations(), *given]
    return " ".join([shlex.join(command), *words])


def _other_configurations() -> list[str]:
    """The arguments that name other configurations: `--config-dir`, `--config-name` and hydra.searchpath."""
    if not HydraConfig.initialized():
        return []
    given = cast(list[str], OmegaConf.to_container(HydraConfig.get().overrides.hydra, resolve=False))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-name", "-cn")
    found = parser.parse_known_args(sys.argv[1:])[0]
    options = [f"--{name.replace('_', '-')}={value}" for name, value in vars(found).items() if value is not None]
    return [*options, *(text for text in given if text.startswith("hydra.searchpath="))]


def typed() -> list[str]:
    """The overrides typed for this run, with `${…}` unresolved; of Hydra's own keys only a single run's folder."""
    if not HydraConfig.initialized():
        return []
    given = HydraConfig.get().overrides
    task, hydra = (cast(list[str], OmegaConf.to_container(part, resolve=False)) for part in (given.task, given.hydra))
    single = HydraConfig.get().mode != RunMode.MULTIRUN
    return [*task, *(text for text in hydra if single and text.startswith("hydra.run.dir="))]
