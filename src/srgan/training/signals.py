"""Handles signals to stop a run: Ctrl-C and those of schedulers, containers and closing terminals."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
]
ONE_STROKE_S = 0.5  # `timeout` and other launchers pass the same Ctrl-C on a second time


class Interrupted(BaseException):
    """Raised when a signal stops a run: after the checkpoint is written, or at once if none is needed.

    Attributes:
        signum: the signal; the process ends with exit code 128 + signum.
        lost: why the final state could not be saved; empty if it was saved or if there was nothing to save.
        resumable: False if the run has left no checkpoint.
    """

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.lost = ""
        self.resumable = True


class Signals:
    """Context manager that catches the signals. `received` is the first one, or None.

    While `patient` is True a signal is only recorded, so that the training stops between two steps, and a second Ctrl-C
    raises Interrupted. Otherwise the first signal raises it. Ignored signals (`nohup`) stay ignored.
    """

    def __init__(self) -> None:
        self.patient = False
        self.received: int | None = None
        self._at = 0.0
        self._pid = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def install(self) -> None:
        """Set the handlers. May be repeated after another library has set its own."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in SIGNALS:
            before = signal.getsignal(signum)
            if before is not signal.SIG_IGN and before != self._handle:
                self._before.setdefault(signum, before)
                signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # forked processes are ended by their parent
            return
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = signum, now
            if not self.patient:
                raise Interrupted(signum)
            with contextlib.suppress(OSError):  # logging could be in the middle of a line
                os.write(2, b"\nStopping after this step, with a checkpoint. Ctrl-C again stops at once.\n")
        elif signum == signal.SIGINT and now - self._at > ONE_STROKE_S:
            raise Interrupted(signum)


def announces_slurm_limit(signum: int) -> bool:
    """True in a SLURM job for a signal that announces its time limit."""
    signals = (getattr(signal, "SIGUSR1", None), getattr(signal, "SIGUSR2", None))
    return "SLURM_JOB_ID" in os.environ and signum in signals


def requeued() -> bool:
    """Have SLURM run this job again. True if it will."""
    job = os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "").strip() or str(error)
        log.warning("SLURM did not put the job in its queue again (%s)", reason)
        return False
    return True
