"""Rebuild a generator from a checkpoint: tensors and plain data, never code from the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from srgan.errors import UserError
from srgan.models.generators import Generator

GENERATORS = "srgan.models.generators."  # the only things that a checkpoint may name to be built


def read(path: str | Path) -> dict[str, Any]:
    """A checkpoint of a run as plain data and tensors. Raises UserError if it is none, or holds anything else."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path.absolute()}; runs keep theirs in <run>/checkpoints/")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for what is no checkpoint
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"{path}: not a checkpoint that can be read safely ({type(error).__name__}: {reason})"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content or "config" not in content:
        raise UserError(f"{path}: not a checkpoint of srgan.train; it needs state_dict and config")
    return cast(dict[str, Any], content)


def generator_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of the averaged generator."""
    return {
        key.removeprefix("ema."): value for key, value in checkpoint["state_dict"].items() if key.startswith("ema.")
    }


def load_generator(path: str | Path) -> Generator:
    """The averaged generator of a run, as its checkpoint describes it, in evaluation mode."""
    checkpoint = read(path)
    node = checkpoint["config"].get("generator", {})
    if not str(node.get("_target_", "")).startswith(GENERATORS):
        raise UserError(f"{path}: names {node.get('_target_')!r} as its generator; only {GENERATORS}* are built")
    generator = cast(Generator, instantiate(OmegaConf.create(node)))
    _fill(generator, generator_state(checkpoint), path)
    return generator.eval()


def initial_state(path: str | Path, generator: Generator) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint, to start `generator` from. Raises UserError if they don't fit it."""
    state = generator_state(read(path))
    _fill(generator, state, path)
    return state


def _fill(generator: Generator, state: dict[str, Tensor], path: str | Path) -> None:
    check_fit(generator.state_dict(), state, path)
    generator.load_state_dict(state)


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise UserError unless both hold the same names and shapes."""
    wanted, found = ({k: tuple(v.shape) for k, v in s.items()} for s in (expected, state))
    differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
    if differing:
        key = differing[0]
        raise UserError(
            f"{path} does not fit: {len(differing)} weights differ, first {key}, expected {wanted.get(key, 'none')},"
            f" found {found.get(key, 'none')}; take scale, generator, loss and crop from its run's config.yaml"
        )
