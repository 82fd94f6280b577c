"""Signals that ask a run to stop: Ctrl-C, and what schedulers, containers and closing terminals send."""

import contextlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
]
ONE_STROKE_S = 0.5  # `timeout` and other launchers pass the same Ctrl-C on a second time


class Interrupted(BaseException):
    """Raised where a signal stops a run: after the checkpoint is written, or at once where none is to be written.

    Attributes:
        signum: the signal; the process ends with exit code 128 + signum.
        lost: why the state at the end could not be saved; empty if it was, or if there was nothing to save.
        resumable: False if the run has left no checkpoint.
    """

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.lost = ""
        self.resumable = True


class Signals:
    """Catches the signals while it is entered; `received` is the first that came, None if none has.

    While `patient` is True a signal is only noted, for the training to stop between two steps; a second Ctrl-C raises
    Interrupted. Else the first signal raises it. What the process was told to ignore (`nohup`) stays ignored.
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
        """Take the signals over, again if another library has set handlers of its own since."""
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in SIGNALS:
            before = signal.getsignal(signum)
            if before is not signal.SIG_IGN and before != self._handle:
                self._before.setdefault(signum, before)
                signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked process is ended by the one that made it
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
