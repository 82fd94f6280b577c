"""Damaged and hostile files are read or refused, never a crash, a hang or a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz.py")


def read_damaged(folder: Path, count: int, seed: int) -> None:
    command = [sys.executable, str(SCRIPT), str(folder), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("read") == 8, done.stdout  # kinds of files


def test_two_hundred_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    read_damaged(tmp_path, 200, seed=1)


@pytest.mark.slow
def test_so_many_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """SRGAN_FUZZ=10000 pytest -m slow -k damaged: so many, of seed SRGAN_SEED."""
    count, seed = (
        int(os.environ.get(name, default)) for name, default in (("SRGAN_FUZZ", "1000"), ("SRGAN_SEED", "2"))
    )
    read_damaged(tmp_path, count, seed)
