"""BasicSR's weight files (`.pth`) of MSRResNet and RRDBNet: a state dict, or one under `params` or `params_ema`.

ESRGAN's own two naming schemes are read too. Scale, channels and blocks are derived from names and shapes.
"""

import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from srgan.errors import UserError
from srgan.models.generators import Generator, MSRResNet, RRDBNet
from srgan.models.reading import read_plain

SUFFIX = ".pth"
WRAPPERS = ("params_ema", "params")  # BasicSR's keys for averaged and last weights; the first found is used
ESRGAN_NAMES = (  # (pattern of ESRGAN's names, BasicSR's name)
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."),
    (r"trunk_conv\.", "conv_body."),
    (r"upconv(\d)\.", r"conv_up\1."),
    (r"HRconv\.", "conv_hr."),
)
OLD_ESRGAN_NAMES = (  # the same for ESRGAN's first release, except for the layers after its body
    (r"model\.0\.", "conv_first."),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"model\.1\.sub\.\d+\.", "conv_body."),
)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file of BasicSR or ESRGAN. Returns the generator's configuration (`_target_`, values) and its state dict.

    Only tensors are read. Raises UserError for any other file.
    """
    content = read_plain(path, "weights")
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and wrapper in content:
            content = cast(dict[str, Any], content)[wrapper]
            break
    items = cast(dict[object, object], content).items() if isinstance(content, dict) else []
    state = {key: value for key, value in items if isinstance(key, str) and isinstance(value, Tensor)}
    if len(state) == len(items):
        state = _basicsr_names(state)
        try:
            kind, values = _kind(state)
            with torch.device("meta"):  # takes no memory
                expected = kind(**values).state_dict()
        except (KeyError, IndexError, ZeroDivisionError, ValueError):
            expected = None
        else:
            if {key: value.shape for key, value in expected.items()} == {k: v.shape for k, v in state.items()}:
                return {"_target_": f"{kind.__module__}.{kind.__name__}"} | values, state
    raise UserError(f"{path}: not the weights of BasicSR's MSRResNet or RRDBNet, from RGB to RGB")


def is_readable(path: Path) -> bool:
    """True if `read` can read the file."""
    try:
        return path.suffix == SUFFIX and bool(read(path))
    except UserError:
        return False


def save(path: Path, generator: Generator) -> None:
    """Write the weights under `params`, as BasicSR does. Raises UserError if BasicSR doesn't have this generator."""
    if not isinstance(generator, MSRResNet | RRDBNet) or generator.scale == 8:
        raise UserError(
            f"BasicSR has no {type(generator).__name__} ×{generator.scale}, only MSRResNet and RRDBNet up to ×4;"
            " take --format safetensors"
        )
    file = io.BytesIO()  # a full disk is then an OSError, not torch's own
    torch.save({"params": {name: value.contiguous() for name, value in generator.state_dict().items()}}, file)
    path.write_bytes(file.getvalue())


def _basicsr_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict with BasicSR's names."""
    if "model.0.weight" in state:
        after_body = {int(match[1]) for key in state if (match := re.fullmatch(r"model\.(\d+)\.weight", key))} - {0}
        names = ["conv_last.", "conv_hr.", *(f"conv_up{number}." for number in range(len(after_body) - 2, 0, -1))]
        last_first = sorted(after_body, reverse=True)
        tail = [(rf"model\.{index}\.", name) for index, name in zip(last_first, names, strict=False)]
        patterns = (*OLD_ESRGAN_NAMES, *tail)
    else:
        patterns = ESRGAN_NAMES if "trunk_conv.weight" in state else ()
    for pattern, name in patterns:
        state = {re.sub(f"^{pattern}", name, key): value for key, value in state.items()}
    return state


def _kind(state: Mapping[str, Tensor]) -> tuple[type[MSRResNet | RRDBNet], dict[str, int]]:
    """Guess the class and its values from a state dict. Raises KeyError and the like if it fits none."""
    channels, inputs, *_ = state["conv_first.weight"].shape
    upsampling = [value for key, value in state.items() if re.fullmatch(r"(upconv|conv_up)\d\.weight", key)]
    blocks = {match[1] for key in state if (match := re.match(r"body\.(\d+)\.", key))}
    values = {"channels": channels, "blocks": len(blocks)}
    if "conv_body.weight" not in state:
        return MSRResNet, values | {"scale": math.prod(math.isqrt(conv.shape[0] // channels) for conv in upsampling)}
    unshuffle = math.isqrt(inputs // 3)
    growth = state["body.0.rdb1.conv1.weight"].shape[0]
    return RRDBNet, values | {"scale": 2 ** len(upsampling) // unshuffle, "growth": growth}
