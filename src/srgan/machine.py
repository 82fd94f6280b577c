"""The machine at hand: which device and precision to compute in, and how much memory was needed."""

import logging
import re
from contextlib import suppress
from pathlib import Path

import torch

from srgan.errors import UserError

log = logging.getLogger(__name__)

PROCESS = Path("/proc/self")  # of Linux


def choose(accelerator: str, precision: str) -> tuple[str, str]:
    """Accelerator and precision, with `auto` decided: CUDA if there; bf16 where the device computes in it.

    Raises UserError for what this machine or this project hasn't.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if accelerator not in ("cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator={accelerator}: expected auto, cpu, gpu or cuda")
    if accelerator != "cpu" and not torch.cuda.is_available():
        raise UserError(
            f"trainer.accelerator={accelerator}, but torch {torch.__version__} finds no CUDA device; use trainer=cpu"
        )
    bf16 = has_bf16("cpu" if accelerator == "cpu" else "cuda")
    if precision == "auto":
        precision = "bf16-mixed" if bf16 else "32-true"
    if precision not in ("bf16-mixed", "32-true"):
        raise UserError(f"trainer.precision={precision}: expected auto, bf16-mixed or 32-true")
    if precision.startswith("bf16") and not bf16:
        log.warning(
            "This %s has no bf16 arithmetic: %s is emulated and slow; trainer.precision=auto avoids it",
            accelerator,
            precision,
        )
    return accelerator, precision


def has_bf16(device_type: str) -> bool:
    """Whether a device computes in bf16 rather than emulating it."""
    if device_type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore[reportPrivateUsage]
    return (
        device_type == "cuda" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def reset_peak(device: torch.device) -> None:
    """Let `peak_mib` count from here; on a CPU whose system doesn't allow it, it goes on counting from the start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")  # sets the high-water mark to what is in use now


def peak_mib(device: torch.device) -> float | None:
    """The most memory used since `reset_peak`, in MiB: of tensors on a CUDA device, else of the whole process.

    None on a CPU whose system doesn't tell (any but Linux).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) / 2**10 if found else None
