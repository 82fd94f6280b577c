"""Resumes a run: finds the checkpoint, checks what may differ, and prepares the run's folder."""

import functools
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from srgan import config, overrides
from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.runs import record
from srgan.training.checkpoints import BEST, LAST, PREVIOUS
from srgan.training.loggers import continue_curves
from srgan.training.module import SRGAN

log = logging.getLogger(__name__)

AUTO = "auto"  # value of ckpt_path: the newest good checkpoint in the run's folder
# What doesn't change the weights that come out, and copies of other keys.
_NO_EFFECT = (*record.BOOKKEEPING, "ckpt_path", "init_from", "run_dir", "trainer", "cuda_graph", "fused",
              "training.skipped_in_a_row", "data.validation_images", "data.test_images",
              "data.degradation")  # fmt: skip
# What a user may change on purpose for the rest of a run.
_FOR_THE_REST = ("phases", "content", "adversarial", "adversarial_weight", "adversarial_ramp", "balance",
                 "feature_matching")  # fmt: skip
_COPIES = ("seed", "scale", "batch_size", "accumulate", "fused", "cuda_graph")  # below the top: of the keys there
_MOST_SHOWN = 8  # differences named in one line


@dataclass(frozen=True)
class Resume:
    """The checkpoint from which a run is resumed.

    Attributes:
        path: the file.
        step: number of finished steps.
        validated: step of its last validation.
        config, circumstances: those of the run that wrote it; see `SRGAN`.
    """

    path: Path
    step: int
    validated: int
    config: Mapping[str, Any]
    circumstances: Mapping[str, str | int]

    def within(self, run_dir: Path) -> bool:
        """True if the checkpoint belongs to the run in this folder."""
        return self.path.resolve().parent == (run_dir / record.CHECKPOINTS).resolve()


def find_checkpoint(wanted: str, run_dir: Path) -> Path | None:
    """The checkpoint that `ckpt_path` means; None if it is `auto` and the run's folder has none.

    A damaged or missing `last.ckpt` is replaced by the one before, with a line in the log. Raises UserError if there
    are checkpoints but none is readable.
    """
    if wanted != AUTO:
        path = Path(wanted)
        previous = path.with_name(f"{PREVIOUS}.ckpt")
        if path.name != f"{LAST}.ckpt" or not previous.is_file():
            return path
        found = newest([path]) or newest([previous])
        if found is None:
            raise UserError(f"{path}: neither it nor {previous.name} can be read; name another checkpoint")
        if found[0] == previous:
            state = "damaged" if path.is_file() else "missing"
            log.warning("%s is %s; going on from the one before, %s of step %s", path, state, previous, f"{found[1]:,}")
        return found[0]
    folder = run_dir / record.CHECKPOINTS
    paths = sorted(folder.glob("*.ckpt"), key=lambda path: path.stem != LAST)  # of equal steps, last.ckpt
    found = newest(paths)
    if found is not None:
        log.info("Going on from %s, step %s", found[0], f"{found[1]:,}")
        return found[0]
    if paths:
        raise UserError(f"{folder}: none of its checkpoints can be read; remove them, or name another by ckpt_path=")
    log.info("ckpt_path=auto: no checkpoint in %s; starting from the beginning", folder)
    return None


def newest(paths: Sequence[Path]) -> tuple[Path, int] | None:
    """The file with the latest step, and that step. Damaged files are skipped with a line in the log."""
    steps: list[tuple[Path, int]] = []
    for path in paths:
        if path.is_file():
            try:
                steps.append((path, int(checkpoints.read(path)["global_step"])))
            except (UserError, KeyError, ValueError, TypeError) as error:
                log.warning("Left out: %s", error)
    return max(steps, key=lambda found: found[1], default=None)


def prepare_resume(path: Path, module: SRGAN) -> Resume:
    """Check that `module` can resume from the checkpoint at `path`.

    Raises UserError, naming the difference, if weights don't fit, if a finished phase would change, or if the file is
    incomplete.
    """
    saved = checkpoints.read(path)
    written_by = saved.get("srgan", "an earlier version")
    lacking = [key for key in ("global_step", "optimizer_states", "lr_schedulers", "loops") if key not in saved]
    if lacking:
        raise UserError(
            f"{path}: lacks {', '.join(lacking)}, without which training can't go on (written by srgan {written_by},"
            f" this is {record.versions()['srgan']}); start from its generator by init_from"
        )
    differing = differences(saved["config"], module.config)
    try:
        checkpoints.check_fit(module.state_dict(), saved["state_dict"], path)
    except UserError as error:
        parts = ("scale", "generator", "discriminator", "loss", "data", "training")
        causes = [text for key, text in differing.items() if key.partition(".")[0] in parts]
        if not causes and written_by != record.versions()["srgan"]:
            causes = [f"srgan: {written_by} → {record.versions()['srgan']}"]
        raise UserError(f"{error}; what differs: {_listed(causes)}" if causes else str(error)) from error
    before = cast(dict[str, int], saved.get("phases", {}))
    now = {phase.name: phase.steps for phase in module.phases}
    step: int = saved["global_step"]
    if list(before) == ["gan"] and "content" in now and saved["config"].get("init_from"):
        raise UserError(
            f"{path} is from a run without a content phase: give init_from={saved['config'].get('init_from')}, too"
        )
    if list(before) != list(now) or finished_phases(before, step) != finished_phases(now, step):
        raise UserError(
            f"{path} is from a run of {describe_phases(before)}, this one has {describe_phases(now)}: a finished phase"
            " can't change; give the same steps, or start from its generator by init_from"
        )
    kinds = {
        f"phases.{name}.{part}"
        for name in now
        for part in ("optimizer", "discriminator_optimizer")
        if _kind_of(saved["config"], name, part) != _kind_of(module.config, name, part)
    }
    if changed := [text for key, text in differing.items() if key in kinds]:
        raise UserError(
            f"{path} holds the state of another optimizer ({_listed(changed)}); take the same kind, or start from its"
            " generator by init_from"
        )
    typed = [text.lstrip("+").partition("=")[0] for text in config.typed()]
    changed = [
        text
        for key, text in differing.items()
        if not (_among(_NO_EFFECT, key) or _is_moved_data(key)) and (_holds(saved["config"], key) or key in typed)
    ]
    _check_steps_left(path, step, module, changed)
    states = [cast(Mapping[str, Any], state) for state in saved.get("callbacks", {}).values()]
    validated = next((state["validated"] for state in states if state.get("validated") is not None), step)
    return Resume(path, step, validated, saved["config"], saved.get("circumstances", {}))


def _check_steps_left(path: Path, step: int, module: SRGAN, changed: Sequence[str]) -> None:
    """Raise UserError if the checkpoint's weights would count as a result of settings they weren't trained with."""
    if step > module.total_steps:
        raise UserError(
            f"{path} is of step {step:,}, this run has {describe_phases({p.name: p.steps for p in module.phases})}:"
            " give more steps; srgan.evaluate scores the checkpoint as it is"
        )
    if step == module.total_steps and changed:
        raise UserError(
            f"{path} is of the last step, and there is nothing left to train with other settings"
            f" ({_listed(changed)}): train anew in another folder (hydra.run.dir=, of a sweep hydra.sweep.dir=), give"
            " more steps, or start from its generator by init_from"
        )


def _kind_of(config: Mapping[str, Any], phase: str, part: str) -> str | None:
    """The class of a phase's optimizer; a discriminator without its own has the generator's."""
    phases = config.get("phases", {}).get(phase, {})
    return (phases.get(part) or phases.get("optimizer") or {}).get("_target_")


def warn_of_differences(resume: Resume, module: SRGAN) -> None:
    """Log one line with the settings that differ from the checkpoint's and change the result."""
    now = {key: value for key, value in module.circumstances.items() if key in resume.circumstances}
    chosen = differences(resume.circumstances, now)
    configured = differences(resume.config, module.config)
    expected = _NO_EFFECT + _FOR_THE_REST
    texts = [*chosen.values(), *(text for key, text in configured.items() if not _among(expected, key))]
    if texts:
        log.warning("Resuming from %s with other settings, so results will differ: %s", resume.path, _listed(texts))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """What differs between two nested mappings, by dotted key: "batch_size: 16 → 8"."""
    found: dict[str, str] = {}
    for key in {**before, **now}:
        old, new, name = before.get(key), now.get(key), f"{path}{key}"
        nothing = old in (None, []) and new in (None, [])  # an option that came after the checkpoint
        if old == new or nothing or (path and key in _COPIES):
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            one, other = cast(Mapping[str, Any], old), cast(Mapping[str, Any], new)
            if one.get("_target_") == other.get("_target_") and ("_target_" in one or one.keys() == other.keys()):
                found |= differences(one, other, f"{name}.")
                continue
        found[name] = f"{name}: {_short(old)} → {_short(new)}"
    return found


def _short(value: object) -> str:
    """A value in a word or two: of a mapping, its class, else its keys."""
    if isinstance(value, Mapping):
        node = cast(Mapping[str, Any], value)
        return str(node["_target_"]).rpartition(".")[2] if "_target_" in node else ", ".join(node)
    return "none" if value is None else str(value)


def _is_moved_data(key: str) -> bool:
    """True for the path of the images, which may lie elsewhere meanwhile."""
    return key.startswith("data.") and overrides.names_a_path(key)


def _holds(configuration: Mapping[str, Any], key: str) -> bool:
    """True if the configuration has a dotted key; one of an earlier version may lack later options."""
    node: Any = configuration
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = cast(Mapping[str, Any], node)[part]
    return True


def _among(parts: Sequence[str], key: str) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _MOST_SHOWN} more" if len(texts) > _MOST_SHOWN else ""
    return "; ".join(texts[:_MOST_SHOWN]) + more


def bring_along(resume: Resume, run_dir: Path, phases: Sequence[str]) -> None:
    """Restore the run's folder to its state at the checkpoint's step, in the same folder or in a new one.

    metrics.csv keeps its rows up to that step. In the same folder, checkpoints that are damaged or of later steps are
    moved aside, with a copy of the curves, and later sample pictures are removed; a run on W&B can't lose its later
    values, so there a new one begins. The best and the phases' checkpoints are copied to a new folder.
    """
    source, target = resume.path.parent, run_dir / record.CHECKPOINTS
    curves = record.curves_of(source)
    if resume.within(run_dir):
        curves = run_dir / record.CURVES
        for unfinished in target.glob("*.part"):
            unfinished.unlink()
        others = {path: _step(path) for path in target.glob("*.ckpt") if path.name != resume.path.name}
        if aside := [path for path, step in others.items() if step is None or step > resume.step]:
            if any(others[path] is not None for path in aside):
                (run_dir / record.WANDB_ID).unlink(missing_ok=True)
            record.put_aside(run_dir, aside, functools.partial(shutil.copyfile, curves))
        for picture in (run_dir / record.SAMPLES).glob("step_*.png"):
            step = picture.stem.removeprefix("step_")
            if step.isdecimal() and int(step) > resume.validated:  # not "step_0000500 copy"
                picture.unlink()
    else:
        target.mkdir(parents=True, exist_ok=True)
        for path in (source / f"{name}.ckpt" for name in (BEST, *phases)):
            step = resume.step if path.name == resume.path.name else _step(path)
            if step is not None and step <= resume.step:
                shutil.copyfile(path, target / path.name)
    last_file = target / f"{LAST}.ckpt"
    if not last_file.is_file() or (_step(last_file) or 0) < resume.step:  # the folder can be resumed and scored at once
        shutil.copyfile(resume.path, last_file)
    if curves is None:
        log.info("%s: no curves belong to it, so those of this run begin here", resume.path)
        return
    last = {True: resume.validated, False: resume.step}  # of validations, of training
    continue_curves(curves, run_dir / record.CURVES, lambda step, validation: step <= last[validation])


def _step(path: Path) -> int | None:
    """The step of a checkpoint; None, with a line in the log, if it is damaged."""
    found = newest([path])
    return None if found is None else found[1]


def finished_phases(phases: Mapping[str, int], step: int) -> dict[str, int]:
    """The phases before the current one, with their steps. After the last step the last phase is the current one."""
    finished: dict[str, int] = {}
    for name, steps in list(phases.items())[:-1]:
        if sum(finished.values()) + steps > step:
            break
        finished[name] = steps
    return finished


def describe_phases(phases: Mapping[str, int]) -> str:
    """The plan in words: "1,000 steps content, then 1 step gan"."""
    return ", then ".join(f"{steps:,} step{'s' * (steps != 1)} {name}" for name, steps in phases.items())
