"""The configuration: its schema, the path of conf/, running commands with Hydra, and checks before building."""

import contextlib
import difflib
import inspect
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from srgan import cli, overrides
from srgan.errors import UserError, fault_of_machine
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
SMALLEST = {"channels": 1, "blocks": 0, "growth": 1, "hidden": 1}  # options of networks → their least value
LIST_TYPES = {list, tuple, Sequence}
PLAIN_TYPES = {  # types of plain values → their names in messages
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    **dict.fromkeys(LIST_TYPES, "a list"),
    type(None): "null",
}
GAN_CONTENT = "content@loss.gan"  # chooses the content loss of the GAN phase
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
    typed, process = sys.argv, os.getpid()

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def job(config: DictConfig) -> None:
        nonlocal composed, code
        composed = True
        logging.raiseExceptions = False  # what a full disk has no room for in the log's file is still on the terminal
        elsewhere = os.getpid() != process
        if elsewhere:
            register()
            sys.argv = [*typed]
        try:
            task(config)
        except Exception as error:
            cause = error.__cause__ if isinstance(error, InstantiationException) else error
            if isinstance(cause, OmegaConfBaseException):  # such as an interpolation of a missing key
                where = f"{cause.full_key}: " if cause.full_key else ""
                cause = UserError(f"{where}{str(cause).splitlines()[0]}")
            if cause is not None and (fault := fault_of_machine(cause)):
                cause = UserError(fault)
            text = cli.message(cause) if isinstance(cause, UserError) else f"{type(error).__name__}: {error}"
            note = Path(config.run_dir) / record.ERROR
            with contextlib.suppress(OSError):  # if the disk is full, the message is on the terminal anyway
                note.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            if not isinstance(cause, UserError):
                raise
            code = cli.fail(text)
            if elsewhere:  # Hydra raises it in the first process, when all runs have ended
                raise UserError(text) from None

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises what it would else print on several lines
    sys.argv = [typed[0], *overrides.with_quoted_text(typed[1:], [*GROUPS])]
    try:
        job()
    except UserError as error:
        return cli.fail(cli.message(error))
    except Exception as error:
        if fault := fault_of_machine(error):
            return cli.fail(fault)
        if composed and not isinstance(error, COMPOSITION_ERRORS):
            raise
        return cli.fail(_composition_error(error))
    finally:
        sys.argv = typed
    return code


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
        hint = _close(str(cause.key), known) or (f"; there are {', '.join(known)}" if known else "")
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


def check(config: DictConfig) -> None:
    """Check the configuration of a training. Raises UserError for an unknown key."""
    for group in ("phases", "loss", "callbacks", "logger"):
        for name, node in config[group].items():
            known = ("content", "gan") if group in ("phases", "loss") else None
            if known is not None and name not in known:
                raise UserError(f"{group}.{name}: there are {' and '.join(known)}{_close(str(name), known)}")
            if isinstance(node, DictConfig) and "_target_" not in node:
                others = [str(other) for other in config[group] if other != name]
                raise UserError(f"{group}.{name} has no _target_{_close(str(name), others)}")
    _check_losses(config)
    check_targets(config)


def _check_losses(config: DictConfig) -> None:
    """Raise UserError if a typed choice of a loss would not be what is trained."""
    typed = dict(_key_and_value(override) for override in _typed())
    if "content" in typed and config.loss.content != config.content:
        raise UserError(
            f"content={typed['content']} has no effect: the chosen loss has its own content loss; choose"
            " loss=srresnet_mse"
        )
    own = None if config.loss.get("gan") is None else _content_of_gan(typed.get("loss", ""))
    changed = any(key.lstrip("+~").startswith(("loss.gan", GAN_CONTENT)) for key in typed)
    if own is not None and not changed and {*config.loss.gan.content} != {*_losses_of(own)}:
        raise UserError(
            f"loss={typed['loss']} has no effect on the GAN phase: the experiment sets its content loss"
            f" ({', '.join(map(str, config.loss.gan.content))}); add {GAN_CONTENT}={own} to take that of the loss"
        )
    for key in ("content", GAN_CONTENT):
        known: dict[str, tuple[str, Any]] = {}
        chosen = [name.strip() for name in typed.get(key, "").strip("[]").split(",")]
        for option in (name for name in chosen if name in GROUPS["content"]):
            for loss, node in _losses_of(option).items():
                other, before = known.setdefault(loss, (option, node))
                if before != node:
                    raise UserError(f"{key}=[{other},{option}]: both have a loss {loss!r}, of different settings")


def _key_and_value(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key, value


def _content_of_gan(loss: str) -> str | None:
    """The option of conf/content that a loss of conf/loss has for its GAN phase; None if it has none."""
    path = CONF / "loss" / f"{loss}.yaml"
    defaults = cast(DictConfig, OmegaConf.load(path)).get("defaults", []) if path.is_file() else []
    return next((str(entry["/content@gan"]) for entry in defaults if "/content@gan" in entry), None)


def _losses_of(option: str) -> dict[str, Any]:
    """The losses of an option of conf/content by name, with the keys that it takes over from others."""
    file = cast(DictConfig, OmegaConf.load(CONF / "content" / f"{option}.yaml"))
    losses: dict[str, Any] = {}
    for entry in file.get("defaults", ["_self_"]):
        own = cast(dict[str, Any], OmegaConf.to_container(file.content)) if entry == "_self_" else _losses_of(entry)
        losses = {name: losses.get(name, {}) | own.get(name, {}) for name in {**losses, **own}}
    return losses


def warn_of_what_has_no_effect(phases: Sequence[str]) -> None:
    """Log typed choices for a phase that is not among the planned `phases`."""
    of_gan = {"adversarial", "adversarial_weight", "adversarial_ramp", "balance", "discriminator", "feature_matching"}
    for phase, keys in (("gan", of_gan), ("content", {"content"})):
        given = [text for text in _typed() if re.split(r"[.=]", text)[0] in keys and phase not in phases]
        if given:
            log.warning("%s: no effect, this run has no %s phase", ", ".join(given), phase.replace("gan", "GAN"))


def check_targets(config: DictConfig) -> None:
    """Check every node that has a `_target_` against that target's signature.

    Raises UserError for a key that the target doesn't accept and for a missing value or one of the wrong type.
    """
    for path, node in targets(config):
        target = get_object(node["_target_"])
        parameters = inspect.signature(target).parameters
        types = _parameter_types(target)
        for key in node:
            name = str(key)
            if OmegaConf.is_missing(node, key):
                raise UserError(f"{path}.{name} is needed: give {path}.{name}=VALUE")
            if name in ("_target_", "_partial_", "_convert_", "_recursive_"):
                continue
            if name in parameters:
                value = _value(node, path, name)
                _check_type(f"{path}.{name}", value, types.get(name, Any))
                if name in SMALLEST and isinstance(value, int) and value < SMALLEST[name]:
                    raise UserError(f"{path}.{name}={value}: expected {SMALLEST[name]} or more")
                continue
            hint = _close(name, parameters) or f"; it takes {', '.join(parameters)}"
            if not any(text.lstrip("+").startswith(f"{path}.{name}") for text in _typed()):  # then an experiment has it
                hint += f"; if the experiment sets it for another choice, take it out by '~{path}.{name}'"
            raise UserError(f"{path}.{name}: {target.__name__} has no such option{hint}")


def _parameter_types(target: Any) -> dict[str, Any]:
    """Those type annotations of a target's parameters that can be evaluated."""
    try:
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):
        return {}


def _value(node: DictConfig, path: str, name: str) -> Any:
    """The value of a key, with interpolations resolved. Raises UserError if that fails."""
    try:
        return node[name]
    except InterpolationKeyError as error:
        raise UserError(f"{path}.{name}: {str(error).splitlines()[0]}") from error
    except InterpolationResolutionError:
        return OmegaConf.create()  # of any type: ${hydra:…} where Hydra doesn't run; else it is said when it is built


def _check_type(key: str, value: Any, annotation: Any) -> None:
    """Raise UserError if a plain value, or one in a list, has none of the plain types in an annotation.

    Whole numbers may be given as 1e5. Other annotations (a class, Any) accept everything.
    """
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = {get_origin(option) or option for option in options}
    if Literal in kinds:
        kinds |= {type(choice) for option in options if get_origin(option) is Literal for choice in get_args(option)}
    expected = [name for kind, name in PLAIN_TYPES.items() if kind in kinds]
    if not expected or Any in kinds or isinstance(value, DictConfig):
        return
    if isinstance(value, ListConfig):
        lists = [option for option in options if get_origin(option) in LIST_TYPES and get_args(option)]
        for index, item in enumerate(value if len(lists) == 1 else []):
            _check_type(f"{key}[{index}]", item, get_args(lists[0])[0])
    given = list if isinstance(value, ListConfig) else type(value)
    accepted = kinds | ({list} if kinds & LIST_TYPES else set())
    whole = key.endswith("steps") and given is float and value.is_integer() and int in kinds
    if given not in accepted and not whole and not (given is int and float in kinds):
        shown = "null" if value is None else value
        raise UserError(f"{key}={shown}: expected {' or '.join(dict.fromkeys(expected))}")


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def targets(config: DictConfig, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield every node below `config` that has a `_target_`, with its dotted path."""
    if "_target_" in config:
        yield path, config
    for key in config:
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, str(key)):
            continue  # an interpolated node is checked where it is defined
        node = config[key]
        if isinstance(node, DictConfig):
            yield from targets(node, f"{path}.{key}" if path else str(key))


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, with interpolations resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def as_override(key: str, value: str) -> str:
    """`key=value` quoted for a shell and for Hydra, whatever characters the value contains."""
    return shlex.quote(f"{key}={overrides.quoted(value)}")


def command_line() -> str:
    """The command that repeats this run, which may be one run of a sweep."""
    module = Path(sys.argv[0]).stem
    arguments = _typed() if HydraConfig.initialized() else sys.argv[1:]
    return shlex.join(["python", "-m", f"srgan.{module}", *arguments])


def of_this_run() -> tuple[list[str], str]:
    """Hydra's arguments that compose this run alone, in its folder; and the one that sets its folder or its sweep's."""
    hydra_config = HydraConfig.get()
    task = cast(list[str], OmegaConf.to_container(hydra_config.overrides.task, resolve=False))
    own = f"hydra.run.dir={overrides.quoted(str(hydra_config.runtime.output_dir))}"
    if hydra_config.mode != RunMode.MULTIRUN:
        return [*task, own], own
    return [*task, own], f"hydra.sweep.dir={overrides.quoted(str(Path(hydra_config.sweep.dir).absolute()))}"


def resume_command(checkpoint: Path, run_dir: Path) -> str:
    """The command that resumes this run in its folder, from `checkpoint` unless ckpt_path=auto finds it."""
    given = [text for text in _typed() if not text.startswith("ckpt_path=")]
    words = ["ckpt_path=auto" if "ckpt_path=auto" in _typed() else as_override("ckpt_path", str(checkpoint))]
    if not any(text.startswith("hydra.run.dir=") for text in given):
        words.append(as_override("hydra.run.dir", str(run_dir)))
    return " ".join([shlex.join(["python", "-m", f"srgan.{Path(sys.argv[0]).stem}", *given]), *words])


def _typed() -> list[str]:
    """The overrides typed for this run, with `${…}` unresolved; of Hydra's own keys only a single run's folder."""
    if not HydraConfig.initialized():
        return []
    given = HydraConfig.get().overrides
    task, hydra = (cast(list[str], OmegaConf.to_container(part, resolve=False)) for part in (given.task, given.hydra))
    single = HydraConfig.get().mode != RunMode.MULTIRUN
    return [*task, *(text for text in hydra if single and text.startswith("hydra.run.dir="))]
