"""Interprets paths, folders and patterns typed by the user."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from srgan.errors import UserError

# Folders of operating systems, network drives and tools, beside all whose names begin with a dot.
SYSTEM_FOLDERS = {
    "__macosx", "__pycache__", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin",
    "system volume information", "lost+found", "found.000", "node_modules", "site-packages",
}  # fmt: skip


def is_hidden(name: str) -> bool:
    """True for the name of a file or folder that an operating system or a tool created."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def below(path: str | Path) -> Path:
    """A path without what would lead out of a folder: the root it may begin with, and `..`."""
    return Path(*(part for part in Path(path).parts if part not in (Path(path).anchor, "..")))


def at_home(path: str) -> str:
    """A path with `~` or `~user` as that user's home folder, which shells leave as it is after `=`.

    If there is no such user, or a file of just this name, it stays as it is.
    """
    return path if os.path.lexists(path) else os.path.expanduser(path)  # noqa: PTH111 -- Path raises without a home


def given(path: str | None, key: str) -> Path:
    """The path that the setting `key` names. Raises UserError if it is empty, as with an unset shell variable."""
    if path is None or not str(path).strip():
        raise UserError(f"{key} is empty; give {key}=PATH (is a variable of the shell not set?)")
    return Path(at_home(str(path)))


def expand(pattern: str) -> list[str]:
    """The paths that match a pattern of `*`, `?`, `[…]` and `**`, sorted.

    Brackets in names of existing folders are taken literally: `shoot [1]/*.png` looks into `shoot [1]`.
    """
    parts = Path(pattern).parts
    begins = (Path(*parts[:length]) for length in range(len(parts), 0, -1))
    literal = next((begin for begin in begins if os.path.exists(begin)), Path())  # noqa: PTH110 -- a closed folder isn't
    rest = parts[len(literal.parts) :]
    return sorted(glob.glob(str(Path(glob.escape(str(literal)), *rest)), recursive=True))  # noqa: PTH207 -- absolute


def several(lines: Sequence[str], most: int = 10) -> str:
    """Join lines for a message: at most `most` of them, each on its own line, and a count of the others."""
    if len(lines) == 1:
        return lines[0]
    more = [f"… and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in [*lines[:most], *more])
