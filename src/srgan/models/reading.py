"""Reads what torch.save wrote as tensors and plain values; code in a file is never run."""

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from srgan.errors import UserError


def read_plain(path: Path, what: str) -> Any:
    """What a file holds, on the CPU. what: what it should be, for the message.

    Raises UserError if it holds anything but tensors and plain values, or can't be read. torch's own advice for that,
    to read it all the same, is not passed on: it would run the file's code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's version, of a file that is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"{path}: not {what} that can be read safely (damaged, or it holds more than tensors and plain values)"
        ) from error
    except Exception as error:  # torch raises many kinds for what it can't read
        reason = (str(error).strip().splitlines() or ["empty or cut off"])[0][:200]
        raise UserError(f"{path}: not {what} that can be read safely ({type(error).__name__}: {reason})") from error
