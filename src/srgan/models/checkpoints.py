"""Rebuilds a generator from a checkpoint or exported weights: reads tensors and plain data, runs no code from files."""

import hashlib
import inspect
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from srgan.errors import UserError
from srgan.models import basicsr, generators
from srgan.models.generators import Generator, deepened
from srgan.models.reading import read_plain

log = logging.getLogger(__name__)

GENERATORS = "srgan.models.generators."  # a file may name only classes of this module
CHECKSUM = b"sha256="  # a checkpoint is a zip file; its comment is this and the hash of all bytes before it
_COMMENT = len(CHECKSUM) + 64  # length of the comment in bytes
_END = b"PK\x05\x06"  # a zip's last record: 22 bytes, the last two give the comment's length


def sealed(content: bytes | memoryview) -> tuple[bytes | memoryview, bytes]:
    """Add a checksum to a zip file from torch.save. Returns two parts, to be written one after the other."""
    body = content[:-2]
    return body, _COMMENT.to_bytes(2, "little") + CHECKSUM + hashlib.sha256(body).hexdigest().encode()


def is_intact(path: Path) -> bool:
    """True if the file's checksum is right or if it has none, like files written by torch itself."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 22 - _COMMENT))
        _, end, record = file.read().rpartition(_END)
        length, comment = int.from_bytes(record[16:18], "little"), record[18:]
        if not end or not length:
            return True
        if len(comment) != length or not comment.startswith(CHECKSUM):
            return False
        remaining, digest = size - length - 2, hashlib.sha256()
        file.seek(0)
        while remaining > 0 and (block := file.read(min(remaining, 2**22))):
            digest.update(block)
            remaining -= len(block)
    return digest.hexdigest().encode() == comment.removeprefix(CHECKSUM)


def read(path: str | Path) -> dict[str, Any]:
    """Read a run's checkpoint: plain data and tensors. Raises UserError if the file is or holds anything else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path.absolute()}; runs keep theirs in <run>/checkpoints/")
    try:
        intact = is_intact(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    if not intact:
        raise UserError(f"{path}: damaged, its checksum is wrong; use another checkpoint of the run")
    content = read_plain(path, "a checkpoint")
    if not isinstance(content, dict) or "state_dict" not in content or "config" not in content:
        raise UserError(f"{path}: not a checkpoint of srgan.train; it needs state_dict and config")
    content = cast(dict[str, Any], content)
    if not _is_state_dict(content["state_dict"]):
        raise UserError(f"{path}: not a checkpoint of srgan.train; its state_dict holds something else")
    if not isinstance(content["config"], dict):
        raise UserError(f"{path}: not a checkpoint of srgan.train; its config is a {type(content['config']).__name__}")
    return content


def _is_state_dict(content: object) -> bool:
    """True if every `ema.*` entry, the averaged generator's weights, is a tensor."""
    return isinstance(content, dict) and all(
        isinstance(key, str) and (isinstance(value, Tensor) or not key.startswith("ema."))
        for key, value in cast(dict[object, object], content).items()
    )


def generator_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the averaged generator."""
    return {
        key.removeprefix("ema."): value for key, value in checkpoint["state_dict"].items() if key.startswith("ema.")
    }


def load(path: str | Path) -> Generator:
    """Load the (averaged) generator of a run's checkpoint, exported weights or a BasicSR file; in evaluation mode."""
    return _generator(*_config_and_state(Path(path)), path)


def _config_and_state(path: Path) -> tuple[object, dict[str, Tensor]]:
    """Read any file with a generator. Returns its configuration (`_target_`, values) and its state dict."""
    if path.suffix == ".safetensors":
        return _read_weights(path)
    if path.suffix == basicsr.SUFFIX:
        return basicsr.read(path)
    checkpoint = read(path)
    return checkpoint["config"].get("generator", {}), generator_state(checkpoint)


def generator_of(checkpoint: dict[str, Any], path: str | Path) -> Generator:
    """Build the averaged generator of a checkpoint read from `path`, in evaluation mode."""
    return _generator(checkpoint["config"].get("generator", {}), generator_state(checkpoint), path)


def _generator(generator_config: object, state: dict[str, Tensor], path: str | Path) -> Generator:
    most = max([len(state), *(max(value.shape, default=0) for value in state.values() if value.numel())])
    with torch.device("meta"):  # takes no memory, whatever sizes the file names
        check_fit(_build(generator_config, path, most).state_dict(), state, path)
    generator = _build(generator_config, path, most)
    _fill(generator, state, path)
    return generator.eval()


def _build(generator_config: object, path: str | Path, most: int) -> Generator:
    """Build the generator that a file describes: a class in models/generators.py with plain values, nothing else.

    most: upper limit for channels, blocks and the like, given by the size of the file's weights.
    """
    target = str(generator_config.get("_target_", "")) if isinstance(generator_config, Mapping) else ""
    kind = vars(generators).get(target.removeprefix(GENERATORS))
    if (
        not target.startswith(GENERATORS)
        or not inspect.isclass(kind)
        or not issubclass(kind, Generator)
        or kind is Generator
    ):
        raise UserError(f"{path}: names {target!r} as its generator; only the classes of {GENERATORS}* are built")
    values = {key: value for key, value in cast(Mapping[str, Any], generator_config).items() if not key.startswith("_")}
    parameters = inspect.signature(kind).parameters
    wrong = [
        key
        for key, value in values.items()
        if key in parameters
        and (type(value) is not parameters[key].annotation or (isinstance(value, int) and value > most))
    ]
    if wrong or not values.keys() <= parameters.keys():
        raise UserError(f"{path}: {target} can't be built with {', '.join(wrong or values)}")
    try:
        return kind(**values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: {target} can't be built ({str(error).splitlines()[0]})") from error


def save_weights(
    path: Path, generator: Generator, generator_config: Mapping[str, Any], about: Mapping[str, Any] | None = None
) -> None:
    """Export a generator as safetensors, with a description that `describe` reads.

    Args:
        generator_config: the generator's `_target_` and values, as in a run's config.yaml.
        about: further facts that JSON can hold, such as how it was trained and its scores.
    """
    state = {name: value.contiguous() for name, value in generator.state_dict().items()}
    metadata = {"srgan": json.dumps({"generator": dict(generator_config), "about": dict(about or {})})}
    path.write_bytes(save(state, metadata=metadata))


def describe(path: Path) -> dict[str, Any]:
    """Read the description in exported weights: `generator` and `about`, as given to `save_weights`."""
    if not path.is_file():
        raise UserError(f"no weights {path.absolute()}")
    try:
        path.open("rb").close()  # safetensors says "no such file" of one that is closed to us
        with safe_open(path, "pt") as file:
            description = json.loads((file.metadata() or {})["srgan"])
            return {"generator": dict(description["generator"]), "about": dict(description.get("about", {}))}
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error})") from error
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not weights exported by srgan ({error})") from error


def fingerprint(generator: Generator) -> str:
    """SHA-256 of a generator's weights and their names, the same on every device."""
    digest = hashlib.sha256(type(generator).__name__.encode())
    for name, value in sorted(generator.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def is_exported(path: Path) -> bool:
    """True if the file holds weights written by `save_weights`."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, "pt") as file:
            return "srgan" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read exported weights. Returns the generator's configuration (`_target_`, values) and its state dict."""
    generator_config = describe(path)["generator"]
    try:
        with safe_open(path, "pt") as file:
            return generator_config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    except Exception as error:  # of kinds of numbers that torch doesn't have, for one
        raise UserError(f"{path}: not weights that can be read ({str(error).splitlines()[0]})") from error


def initial_state(path: str | Path, generator: Generator) -> dict[str, Tensor]:
    """Read initial weights for `generator`: a checkpoint's averaged ones, exported weights or a BasicSR file.

    They may have fewer residual blocks, see `deepened`; a line in the log then says so.

    Raises UserError if they don't fit the generator.
    """
    _, state = _config_and_state(Path(path))
    state, added = deepened(state, generator)
    _fill(generator, state, path)
    if added:
        log.info("%s: the last %d residual blocks are new and start as the identity", path, added)
    return state


def _fill(generator: Generator, state: dict[str, Tensor], path: str | Path) -> None:
    check_fit(generator.state_dict(), state, path)
    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(f"{path}: some weights are infinite or NaN: the training diverged or the file is damaged")
    generator.load_state_dict(state)


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError unless both have the same names and shapes."""
    wanted, actual = ({key: tuple(value.shape) for key, value in each.items()} for each in (expected, state))
    differing = [key for key in {**wanted, **actual} if wanted.get(key) != actual.get(key)]
    if differing:
        key = differing[0]
        raise UserError(
            f"{path} does not fit: {len(differing)} weights differ, first {key}, expected {wanted.get(key, 'none')},"
            f" found {actual.get(key, 'none')}; take scale, generator, loss and crop from its run's config.yaml"
        )
