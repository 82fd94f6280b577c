"""The command line: one table of commands, one line for what a user got wrong, one exit code for each end."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from srgan import cli, threads
from srgan.errors import UserError, fault_of_machine


def test_the_table_names_the_files_that_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    package = Path(cli.__file__).parent
    with_main = {file.stem for file in package.glob("*.py") if "def main(" in file.read_text(encoding="utf-8")}
    assert with_main == {*cli.COMMANDS, "cli"}
    cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in cli.COMMANDS)


def test_each_end_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = "Caught UserError in DataLoader worker process 0.\nTraceback …\nsrgan.errors.UserError: a.png: broken"
    for work, code, line in (
        (Mock(side_effect=UserError("no folder x; try y")), 1, "error: no folder x; try y\n"),
        (Mock(side_effect=UserError(wrapped)), 1, "error: a.png: broken\n"),
        (Mock(side_effect=KeyboardInterrupt), 130, ""),
        (Mock(return_value=7), 7, ""),
    ):
        with pytest.raises(SystemExit) as end:
            cli.run(work)
        assert (end.value.code, capsys.readouterr().err) == (code, line)
    for good in (0, None):
        cli.run(Mock(return_value=good))
    with pytest.raises(RuntimeError):  # what nobody foresaw keeps its traceback
        cli.run(Mock(side_effect=RuntimeError))


def full_disk() -> None:
    with Path("/dev/full").open("w", buffering=1) as file:
        file.write("x\n")


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (full_disk, "No space left on device; make room, or write elsewhere"),
        (lambda: Path(os.devnull, "x").write_text(""), "/dev/null/x: Not a directory; check the path"),
        (lambda: torch.empty(2**60), r"out of memory \(\d+ bytes more were needed\); close other programs"),
        (lambda: np.empty(2**55), r"out of memory \(256. PiB more were needed\); close"),
        (
            Mock(side_effect=RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")),
            "try data.workers=0",
        ),
    ],
)
def test_a_fault_of_the_machine_is_one_line(
    work: Callable[[], object], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: work() and None)
    said = capsys.readouterr().err
    assert end.value.code == 1 and re.match(f"error: .*({line}).*\n$", said), said
    for other in (RuntimeError("device lost"), OSError("no errno"), KeyError("x")):
        assert fault_of_machine(other, "") is None


def test_srgan_runs_a_commands_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["srgan"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    for arguments, line in (
        (["report", "/nowhere"], "/nowhere: no such folder"),
        (["trian"], "no command 'trian'; there are train, evaluate"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 1 and line in capsys.readouterr().err
    assert sys.argv == [import_module("srgan.report").__file__, "/nowhere"]
    assert sys.modules["__main__"].__spec__.name == "srgan.report"  # by which Lightning starts other processes


def test_a_command_is_the_same_by_both_names() -> None:
    outputs = {
        subprocess.check_output([sys.executable, "-m", *words, "--help"], text=True)
        for words in (["srgan.report"], ["srgan", "report"])
    }
    assert len(outputs) == 1 and "python -m srgan.report" in outputs.pop()


def test_threads_spin_briefly_unless_the_user_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, srgan; print(os.environ.get('GOMP_SPINCOUNT'))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(threads.OWN_SETTINGS)}
    for extra, expected in (({}, "1000"), ({"OMP_NUM_THREADS": "1"}, "None"), ({"GOMP_SPINCOUNT": "5"}, "5")):
        assert subprocess.check_output([sys.executable, "-c", code], env=clean | extra, text=True).strip() == expected
    late: dict[str, str] = {}
    threads.set_spin_count(late)
    assert not late  # torch is imported here already
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    assert "GOMP_SPINCOUNT=1000" in threads.describe()
