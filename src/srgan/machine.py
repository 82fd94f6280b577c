"""Properties of this machine: devices, precision, memory in use, torch hub's folder."""

import logging
import platform
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from srgan.errors import UserError

log = logging.getLogger(__name__)

PROCESS = Path("/proc/self")  # on Linux, information on this process's memory


def choose(accelerator: str, precision: str) -> tuple[str, str]:
    """Choose Lightning's accelerator and precision. `auto`: CUDA if available; bf16 if the device has bf16 arithmetic.

    Raises UserError for anything that this machine or this project doesn't support.
    """
    if accelerator == "auto":
        accelerator = _fastest_device_type()
    if accelerator not in ("cpu", "gpu", "cuda"):
        raise UserError(f"trainer.accelerator={accelerator}: expected auto, cpu, gpu or cuda")
    if accelerator != "cpu":
        _require_cuda(f"trainer.accelerator={accelerator}", "trainer=cpu")
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


def choose_device(name: str, key: str = "device") -> torch.device:
    """Choose a torch device by name: auto (CUDA if available, else the CPU), cpu, cuda, cuda:1 or another of torch's.

    Messages call the setting `key`. Raises UserError if there is no such device or if it can't allocate memory.
    """
    try:
        device = torch.device(_fastest_device_type() if name == "auto" else name)
    except RuntimeError as error:
        raise UserError(f"{key}={name}: expected auto, cpu, cuda, cuda:1 or another of torch's devices") from error
    if device.type == "cuda":
        _require_cuda(f"{key}={name}", f"{key}=cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError if torch was built without that device
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0][:200]
        raise UserError(f"{key}={name} can't be used ({reason}); use {key}=cpu") from error
    return device


def _fastest_device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _require_cuda(setting: str, instead: str) -> None:
    if not torch.cuda.is_available():
        raise UserError(f"{setting}, but torch {torch.__version__} finds no CUDA device; use {instead}")


def torch_hub_file(name: str) -> Path:
    """Path of a file of downloaded weights in torch hub's folder, which the environment variable TORCH_HOME changes."""
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def has_bf16(device_type: str) -> bool:
    """True if devices of this type have bf16 arithmetic and don't emulate it."""
    if device_type == "cpu":
        return has_cpu_bf16()
    return (
        device_type == "cuda" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def has_cpu_bf16() -> bool:
    """True if the CPU has bf16 instructions. oneDNN's own answer includes all CPUs with AVX-512, where it emulates."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
    known = torch.backends.mkldnn.is_available()  # not in torch for Apple's processors, where the next is missing
    return known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # pyright: ignore[reportPrivateUsage]


def reset_peak(device: torch.device) -> None:
    """Start measuring `peak_mib` from here. On a CPU without Linux it always counts from the start of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")  # resets the peak to the current use


def peak_mib(device: torch.device) -> float | None:
    """Peak memory since `reset_peak` in MiB: of tensors and CUDA graphs on a CUDA device, otherwise of the process.

    None on a CPU without Linux, where the system doesn't report it.
    """
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated(device) + _held_by_graphs()) / 2**20
    try:
        peak = re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(peak[1]) / 2**10 if peak else None


def held_mib(device: torch.device) -> float:
    """Memory that tensors and CUDA graphs hold now on a CUDA device, in MiB; 0 on others, where nothing tells."""
    return (torch.cuda.memory_allocated(device) + _held_by_graphs()) / 2**20 if device.type == "cuda" else 0.0


def _held_by_graphs() -> int:
    """Bytes that CUDA graphs of this process reserve for replays; torch's statistics don't count them as allocated."""
    segments = torch.cuda.memory_snapshot()
    private = (segment for segment in segments if tuple(segment["segment_pool_id"]) != (0, 0))
    return sum(segment["total_size"] - segment["allocated_size"] for segment in private)


def watts(device: torch.device) -> float | None:
    """The power that a CUDA device draws now, in watts; None where it isn't told: other devices, no nvidia-ml-py."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.power_draw(device) / 1000
    except Exception:  # NVIDIA's library has errors of its own, such as for a device that is shared
        return None


@contextmanager
def tf32(allowed: bool) -> Generator[None]:
    """Allow or forbid TF32 (10-bit mantissas) in fp32 products on CUDA devices; torch allows it in convolutions."""
    backends: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
