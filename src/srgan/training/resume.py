"""Going on with a run from its checkpoint: what may differ, and which earlier checkpoints come along."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.training.module import SRGAN

log = logging.getLogger(__name__)


def prepare_resume(path: Path, run_dir: Path, module: SRGAN) -> None:
    """Check that `module` can go on from the checkpoint at `path`, and copy that run's best and phase checkpoints.

    Raises UserError if a weight doesn't fit or a phase that is finished would change. A loss that differs is a warning.
    """
    saved = checkpoints.read(path)
    checkpoints.check_fit(module.state_dict(), saved["state_dict"], path)
    before = cast(dict[str, int], saved.get("phases", {}))
    now = {phase.name: phase.steps for phase in module.phases}
    step: int = saved["global_step"]
    if list(before) != list(now) or finished_phases(before, step) != finished_phases(now, step):
        raise UserError(
            f"{path} is from a run of {describe_phases(before)}, this one has {describe_phases(now)}: a finished phase"
            " can't change; give the same steps, or start from its generator by init_from"
        )
    if saved["config"]["loss"] != module.config["loss"]:
        log.warning("The loss differs from that of %s; going on with the new one", path)
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("best", *now):
        source, target = path.parent / f"{name}.ckpt", folder / f"{name}.ckpt"
        # A checkpoint from a later step belongs to steps that are about to be done again.
        if source.is_file() and not target.exists() and checkpoints.read(source)["global_step"] <= step:
            shutil.copyfile(source, target)


def finished_phases(phases: Mapping[str, int], step: int) -> dict[str, int]:
    """The phases, with their steps, that come before the one under way; after the last step that is the last one."""
    finished: dict[str, int] = {}
    for name, steps in list(phases.items())[:-1]:
        if sum(finished.values()) + steps > step:
            break
        finished[name] = steps
    return finished


def describe_phases(phases: Mapping[str, int]) -> str:
    """The plan in words: "1,000 steps content, then 1 step gan"."""
    return ", then ".join(f"{steps:,} step{'s' * (steps != 1)} {name}" for name, steps in phases.items())
