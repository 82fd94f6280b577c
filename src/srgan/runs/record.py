"""What a run leaves of itself in its folder, beside checkpoints: the names of the files, and how they are written."""

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import yaml

RUN = "run.json"  # how the run was made and how it ended
CONFIG = "config.yaml"  # the resolved configuration
CURVES = "metrics.csv"  # what was logged while it trained
METRICS = "metrics.json"  # the scores on the test images
COMPARISON = "comparison.png"
SHEET = "sheet.png"  # pairs of LR and HR as training sees them
PICTURES = "pictures"  # MODEL/IMAGE.png of test images
ERROR = "error.txt"  # why it failed
LOG = "train.log"
HYDRA = ".hydra"  # what Hydra writes: the command's overrides and the chosen files of conf/

PACKAGES = ("srgan", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "wandb", "numpy", "pillow")

Status = Literal["running", "finished", "stopped", "interrupted", "failed"]  # stopped: before its last step, on purpose


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
    ) -> "RunRecord":
        """Make the run's folder and write config.yaml and run.json, with the status `running`.

        `config` is the resolved configuration as plain data, `steps` the plan by phase, `accelerator` the device's
        name. The results of an earlier run in the same folder are removed, its metrics.csv is put aside.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        _clear(run_dir)
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
        }
        record = cls(run_dir, made_with)
        record.write()
        return record

    def write(self) -> None:
        """Write run.json anew."""
        write_json(self.run_dir / RUN, {"status": self.status, **self.made_with})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of figures. Raises ValueError for NaN and infinity, which JSON has no words for."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def versions() -> dict[str, str | None]:
    """The versions of the packages that matter for results; None for one that is not installed."""
    return {name: _version(name) for name in PACKAGES}


def git_commit() -> str | None:
    """The commit of the checkout that holds this file, with "-dirty" if changed; None for an installed wheel."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # a wheel may lie in somebody else's checkout, which then doesn't track it
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _clear(run_dir: Path) -> None:
    """Remove the results of an earlier run and put its curves aside."""
    for name in (ERROR, METRICS, COMPARISON):
        (run_dir / name).unlink(missing_ok=True)
    shutil.rmtree(run_dir / PICTURES, ignore_errors=True)
    curves = run_dir / CURVES
    if curves.exists():
        earlier = len(list(run_dir.glob(f"{curves.stem}-*.csv"))) + 1
        curves.rename(run_dir / f"{curves.stem}-{earlier}.csv")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
