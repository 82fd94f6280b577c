"""What a figure was made with: versions, commit."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("srgan", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "wandb", "numpy", "pillow")


def versions() -> dict[str, str | None]:
    """Of the packages that matter for results; None for one that is not installed."""
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
