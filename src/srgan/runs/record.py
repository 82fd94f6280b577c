"""Writes the files that a run leaves in its folder, except checkpoints, and defines their names."""

import errno
import itertools
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import yaml

from srgan.errors import UserError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

RUN = "run.json"  # how the run was made and how it ended
CONFIG = "config.yaml"  # the resolved configuration
CURVES = "metrics.csv"  # the logged values
METRICS = "metrics.json"  # the scores on the test images
COMPARISON = "comparison.png"
SHEET = "sheet.png"  # pairs of LR and HR as training sees them
PICTURES = "pictures"  # MODEL/IMAGE.png of test images
ERROR = "error.txt"  # why it failed
NOT_FINITE = "not_finite"  # batches of steps that were not applied
LOG = "train.log"
CHECKPOINTS = "checkpoints"
SAMPLES = "samples"
WANDB_ID = "wandb-id.txt"  # the run's id on Weights & Biases
LOCK = ".lock"  # locked by the process that trains here
HYDRA = ".hydra"  # what Hydra writes: the command's overrides and the chosen files of conf/

PACKAGES = ("srgan", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "wandb", "numpy", "pillow")

# Settings that leave a run's weights and its scores as they are.
BOOKKEEPING = ("name", "logger", "callbacks", "download", "lpips", "niqe", "dists", "data.workers", "data.cache",
               "data.download", "trainer.enable_progress_bar", "trainer.log_every_n_steps")  # fmt: skip

Status = Literal["running", "finished", "stopped", "interrupted", "failed"]  # stopped: on purpose, before its last step


@dataclass
class RunRecord:
    """The content of a run's run.json. Set `status`, then `write`."""

    run_dir: Path
    made_with: Mapping[str, Any]
    status: Status = "running"

    @classmethod
    def start(
        cls,
        run_dir: Path,
        config: Mapping[str, Any],
        steps: Mapping[str, int],
        command: str,
        accelerator: str,
        precision: str,
        choices: Mapping[str, str],
        continued: bool = False,
    ) -> "RunRecord":
        """Make the run's folder and write config.yaml and run.json, with the status `running`.

        `config` is the resolved configuration as plain data, `steps` the plan by phase, `accelerator` the device's
        name, `choices` the chosen file of conf/ by group. The results of an earlier run in the same folder are removed;
        its metrics.csv and checkpoints are renamed, unless this run continues it (`continued`).
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        _clear(run_dir, continued)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        (run_dir / CONFIG).write_text(text, encoding="utf-8")
        made_with = {
            "steps": dict(steps),
            "command": command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "git_commit": git_commit(),
            "python": platform.python_version(),
            "versions": versions(),
            "accelerator": accelerator,
            "precision": precision,
            "choices": dict(choices),
        }
        record = cls(run_dir, made_with)
        record.write()
        return record

    def write(self) -> None:
        """Write run.json again."""
        write_json(self.run_dir / RUN, {"status": self.status, **self.made_with})


@contextmanager
def lock(run_dir: Path) -> Generator[None]:
    """Keep other processes from training in the same folder. Raises UserError if one does.

    The operating system releases the lock when the process ends, however that happens.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":  # without such locks
        yield
        return
    with (run_dir / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                log.warning("%s: no lock on this file system (%s)", run_dir, error.strerror)
            else:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(
                    f"{run_dir}: {holder} is training in this folder; wait for its end, stop it, or take another by"
                    " hydra.run.dir="
                ) from error
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
        yield


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file. Raises ValueError for NaN and infinity, which JSON can't hold."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def status(run_dir: Path) -> str | None:
    """How the run in a folder stands, by its run.json; None if that can't be read."""
    try:
        content = json.loads((run_dir / RUN).read_text(encoding="utf-8"))
        return str(content["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def versions() -> dict[str, str | None]:
    """The versions of packages that influence results; None for one that isn't installed."""
    return {name: _version(name) for name in PACKAGES}


def chosen(choices: Mapping[str, Any], task: Sequence[str], groups: Sequence[str]) -> dict[str, str]:
    """The chosen file of conf/ by group: as Hydra records them, and the lists in a command, which it doesn't record.

    `choices` and `task` are `hydra.runtime.choices` and `hydra.overrides.task`. Hydra's own groups are left out.
    """
    single = {group: "null" if name is None else str(name) for group, name in choices.items()}
    pairs = [argument.lstrip("+").partition("=") for argument in task]
    lists = {key: value for key, _, value in pairs if key.partition("@")[0] in groups and value.startswith("[")}
    return {group: name for group, name in (single | lists).items() if not group.startswith("hydra/")}


def git_commit() -> str | None:
    """The git commit of this checkout, with "-dirty" if files changed; None for an installed wheel."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # a wheel may be installed inside another project's checkout, which doesn't track it
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _clear(run_dir: Path, continued: bool) -> None:
    """Remove an earlier run's results; rename its curves and checkpoints unless the run is continued.

    Where no run.json says that there was one, only error.txt is removed: `pictures/` may be the user's.
    """
    (run_dir / ERROR).unlink(missing_ok=True)
    if (run_dir / RUN).is_file():
        for name in (METRICS, COMPARISON):
            (run_dir / name).unlink(missing_ok=True)
        shutil.rmtree(run_dir / PICTURES, ignore_errors=True)
        if not continued:
            for name in (SAMPLES, NOT_FINITE):
                shutil.rmtree(run_dir / name, ignore_errors=True)
            (run_dir / WANDB_ID).unlink(missing_ok=True)
    if continued:
        return
    put_aside(run_dir, (run_dir / CHECKPOINTS).glob("*"), (run_dir / CURVES).rename)


def put_aside(run_dir: Path, checkpoints: Iterable[Path], take_curves: Callable[[Path], object]) -> None:
    """Move checkpoints of another run, or of later steps, to `checkpoints-1`, and their curves to `metrics-1.csv`.

    Both get the first number that is free; `take_curves` renames or copies metrics.csv, if it is there.
    """
    there, curves = list(checkpoints), run_dir / CURVES
    pairs = ((run_dir / f"{CHECKPOINTS}-{number}", aside_curves(curves, number)) for number in itertools.count(1))
    folder, aside = next(pair for pair in pairs if not any(path.exists() for path in pair))
    if curves.exists():
        take_curves(aside)
    if there:
        folder.mkdir()
        for path in there:
            path.rename(folder / path.name)


def aside_curves(curves: Path, number: int | str) -> Path:
    """`metrics-1.csv` for `metrics.csv`."""
    return curves.with_name(f"{curves.stem}-{number}{curves.suffix}")


def curves_of(checkpoints: Path) -> Path | None:
    """The curves that belong to a run's folder of checkpoints, also of those put aside; None for another folder."""
    name, _, number = checkpoints.name.partition("-")
    if name != CHECKPOINTS:
        return None
    curves = checkpoints.with_name(CURVES)
    return aside_curves(curves, number) if number else curves


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
