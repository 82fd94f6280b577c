"""Checks of a composed configuration, made before anything is built from it."""

import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError

from srgan.config import CONF, GROUPS, typed
from srgan.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

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


def check(config: DictConfig) -> None:
    """Check the configuration of a training. Raises UserError for an unknown key."""
    for group in ("phases", "loss", "callbacks", "logger"):
        for name, node in config[group].items():
            known = ("content", "gan") if group in ("phases", "loss") else None
            if known is not None and name not in known:
                raise UserError(f"{group}.{name}: there are {' and '.join(known)}{did_you_mean(str(name), known)}")
            if isinstance(node, DictConfig) and "_target_" not in node:
                others = [str(other) for other in config[group] if other != name]
                raise UserError(f"{group}.{name} has no _target_{did_you_mean(str(name), others)}")
    if "seed" in config and not 0 <= config.seed < 2**32:
        raise UserError(f"seed={config.seed}: expected 0 to 2^32 - 1")
    _check_losses(config)
    check_targets(config)


def _check_losses(config: DictConfig) -> None:
    """Raise UserError if a typed choice of a loss would not be what is trained."""
    choices = dict(_key_and_value(override) for override in typed())
    own_content = [key for key in choices if key.lstrip("+~").split(".")[0] == "content"]
    if own_content and config.loss.content != config.content:
        raise UserError(
            f"{own_content[0]}={choices[own_content[0]]} has no effect: the chosen loss has its own content loss;"
            " choose loss=srresnet_mse"
        )
    _check_balanced(config, choices)
    own = None if config.loss.get("gan") is None else _content_of_gan(choices.get("loss", ""))
    changed = any(key.lstrip("+~").startswith(("loss.gan", GAN_CONTENT)) for key in choices)
    if own is not None and not changed and {*config.loss.gan.content} != {*_losses_of(own)}:
        raise UserError(
            f"loss={choices['loss']} has no effect on the GAN phase: the experiment sets its content loss"
            f" ({', '.join(map(str, config.loss.gan.content))}); add {GAN_CONTENT}={own} to take that of the loss"
        )
    for key in ("content", GAN_CONTENT):
        known: dict[str, tuple[str, Any]] = {}
        chosen = [name.strip() for name in choices.get(key, "").strip("[]").split(",")]
        for option in (name for name in chosen if name in GROUPS["content"]):
            for loss, node in _losses_of(option).items():
                other, before = known.setdefault(loss, (option, node))
                if before != node:
                    raise UserError(f"{key}=[{other},{option}]: both have a loss {loss!r}, of different settings")


def _check_balanced(config: DictConfig, choices: Mapping[str, str]) -> None:
    """Raise UserError for a typed weight of a loss that has a share of the gradient instead."""
    alias = {"adversarial_weight": "loss.gan.weights.adversarial"}  # a new loss (+loss.gan.weights.X) needs a weight
    for typed_key, value in ((key.removeprefix("++"), value) for key, value in choices.items()):
        key = re.sub(r"^content\.", "loss.content.", alias.get(typed_key, typed_key))
        match = re.fullmatch(r"loss\.(content|gan)\.weights\.(\w+)", key)
        part = config.loss.get(match[1]) if match else None
        share = (part.get("balance") or {}).get(match[2]) if match and part is not None else None
        if match and match[2] != "feature_matching" and share is not None and value not in ("0", "0.0", "null"):
            name = "balance" if match[2] == "adversarial" else f"loss.{match[1]}.balance.{match[2]}"
            raise UserError(
                f"{typed_key}={value} has no effect: this loss has a share of the content loss's gradient,"
                f" {name}={share}; change that, or set {name}=null"
            )


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
        of_phase = re.compile(rf"\+*(({'|'.join(keys)})[.=]|(phases|loss)\.{phase}\.(?!steps=0$))")
        given = [text for text in typed() if of_phase.match(text) and phase not in phases]
        if given:
            log.warning("%s: no effect, this run has no %s phase", ", ".join(given), phase.replace("gan", "GAN"))


def check_targets(config: DictConfig) -> None:
    """Check every node that has a `_target_` against that target's signature.

    Raises UserError for a key that the target doesn't accept and for a missing value or one of the wrong type.
    """
    for path, node in targets(config):
        target, parameters = _located(path, str(node["_target_"]))
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
            hint = did_you_mean(name, parameters) or f"; it takes {', '.join(parameters)}"
            if not any(text.lstrip("+").startswith(f"{path}.{name}") for text in typed()):  # then an experiment has it
                hint += f"; if the experiment sets it for another choice, take it out by '~{path}.{name}'"
            raise UserError(f"{path}.{name}: {target.__name__} has no such option{hint}")


def _located(path: str, target: str) -> tuple[Any, Mapping[str, inspect.Parameter]]:
    """A target and its parameters. Raises UserError if it can't be loaded or called."""
    logger = logging.getLogger("hydra.utils")
    disabled, logger.disabled = logger.disabled, True  # it would log what is raised
    try:
        found = get_object(target)
        return found, inspect.signature(found).parameters
    except Exception as error:  # of all kinds: importing a module may fail in any way
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(f"{path}._target_={target}: not a class or function that can be loaded ({reason})") from error
    finally:
        logger.disabled = disabled


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
