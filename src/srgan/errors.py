"""The exception whose text is shown to the user, and what becomes of a fault or a mistyped name in such a text."""

import difflib
import errno
import re
from collections.abc import Iterable

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")  # in torch's RuntimeErrors
NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # a full disk, a limit, a quota
WORKER = "DataLoader worker (pid"  # begins torch's message about a worker that was killed


class UserError(ValueError):
    """A mistake in the user's input.

    The message says what was found and what to do. Commands print it without a traceback and exit with code 1.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest known one, or nothing if none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def is_out_of_memory(error: BaseException) -> bool:
    """True if the memory of the machine or of a GPU was too small."""
    text = str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in text for t in OUT_OF_MEMORY))


def fault_of_machine(error: BaseException, advice: str) -> str | None:
    """One line about a fault that is the machine's: memory, room, a file that can't be used. None for other errors.

    `advice`: what to do if the memory is too small.
    """
    text = str(error)
    if is_out_of_memory(error):
        wanted = re.search(r"allocate ([\d.]+ ?(?:bytes|[KMGTPE]iB))", text)
        more = f" ({wanted[1]} more were needed)" if wanted else ""
        return f"out of memory{more}; {advice}"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}; make room, or write elsewhere"
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, its rights and its disk"
    if isinstance(error, RuntimeError) and text.startswith(WORKER):
        return f"a loader's process ended ({text.splitlines()[0]}), perhaps of too little memory; try data.workers=0"
    return None
