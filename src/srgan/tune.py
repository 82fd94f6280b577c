"""`python -m srgan.tune FOLDER KEY=VALUE …`: searches for good settings with Optuna; a trial is a run of srgan.train.

Values in Hydra's syntax for sweeps are the search space; all others hold for every trial. A search that was killed goes
on where it was: finished trials are in the folder's journal, the unfinished one resumes its training, and failed ones
are tried again.
"""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException

from srgan import cli, config, overrides
from srgan.errors import UserError
from srgan.metrics import names, networks, niqe
from srgan.runs import record
from srgan.runs.read import read_run

JOURNAL, REPORT = "journal.log", "tune.json"  # in the search's folder, beside the trials' own, 0, 1, 2 …
STOPPED = {
    code for signum in (signal.SIGINT, signal.SIGTERM) for code in (128 + signum, -signum)
}  # a trial's exit codes
DIRECTIONS = {"max": "maximize", "min": "minimize"}
MOST_FAILURES = 3  # in a row; then the search stops
OWN = ("hydra.run.dir", "run_dir", "ckpt_path")  # settings that the search gives each trial


def tune(folder: Path, trials: int, objectives: Sequence[str], arguments: Sequence[str]) -> int:
    """Run trials until there are `trials`, then write and print the Pareto front. Returns the exit code.

    Raises UserError for a search that can't work, and after MOST_FAILURES failed trials in a row.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise UserError("this command needs Optuna: pip install 'srgan[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if trials < 1:
        raise UserError(f"--trials {trials}: expected 1 or more")
    known: dict[str, Any] = {names.validation(score): DIRECTIONS[best] for score, best in names.BEST.items()}
    if unknown := [name for name in objectives if name not in known]:
        raise UserError(f"--objectives {','.join(unknown)}: choose from {', '.join(known)}")
    fixed, space = _space(arguments, optuna.distributions)
    firsts = {key: getattr(kind, "choices", None) or [kind.low] for key, kind in space.items()}
    _check_measured(objectives, [*fixed, *(f"{key}={values[0]}" for key, values in firsts.items())])
    with record.lock(folder):
        journal = str(folder / JOURNAL)
        lock = JournalFileOpenLock(journal) if sys.platform == "win32" else None  # the default makes symbolic links
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(journal, lock)),
            study_name="srgan",
            directions=[known[name] for name in objectives],
            sampler=optuna.samplers.TPESampler(seed=len(list(folder.glob("[0-9]*")))),  # a resumed search draws anew
            load_if_exists=True,
        )
        search = json.dumps([sorted(arguments), list(objectives)])
        if study.user_attrs.setdefault("search", search) != search:
            raise UserError(f"{folder} holds another search, {study.user_attrs['search']}; take another folder")
        study.set_user_attr("search", search)
        states = optuna.trial.TrialState
        for trial in study.get_trials(states=[states.RUNNING]):  # of a search that was killed
            study.tell(trial.number, state=states.FAIL)
        for name, trial in _latest(study).items():
            if trial.state == states.FAIL:
                study.enqueue_trial(trial.params, user_attrs={"folder": name})
        failures = 0
        while len(_ended(study)) < trials:
            trial = study.ask(space)
            run_dir = folder / trial.user_attrs.get("folder", str(trial.number))
            settings = [*fixed, *(f"{key}={value}" for key, value in trial.params.items())]
            code = _train(settings, run_dir)
            if code in STOPPED:
                return code if code > 0 else 128 - code
            run = read_run(run_dir, run_dir.name)
            missing = [name for name in objectives if not run.curves.get(name)]
            if not code and not missing:
                study.tell(trial, [run.curves[name][-1][1] for name in objectives])
                failures = 0
                continue
            failures += 1
            reason = (run.note or _fault(settings, code)) if code else f"trained without {', '.join(missing)}"
            trial.set_user_attr("failed", reason)
            study.tell(trial, state=states.FAIL)
            if failures == MOST_FAILURES or not code:  # what one training doesn't measure, none does
                several = f"{failures} trials in a row failed, the last in " if failures > 1 else ""
                raise UserError(f"{several}{run_dir}: {reason}; the same command tries again")
        return _report(folder, study, objectives)


def _space(arguments: Sequence[str], kinds: Any) -> tuple[list[str], dict[str, Any]]:
    """The settings of every trial, and the distribution of each setting to search. Raises UserError for bad values."""
    fixed: list[str] = []
    space: dict[str, Any] = {}
    for text in overrides.with_quoted_text(["-m", *arguments], [*config.GROUPS])[1:]:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{text}: expected KEY=VALUE as srgan.train takes it ({reason})") from error
        if override.key_or_group in OWN:
            raise UserError(f"{text}: each trial has a folder in that of the search and resumes there; leave it out")
        if override.is_sweep_override():
            space[text.partition("=")[0]] = _distribution(override, kinds)
        else:
            fixed.append(text)
    if not space:
        raise UserError("nothing to search: give a setting several values, as KEY=a,b or 'KEY=interval(0.1,1)'")
    return fixed, space


def _distribution(override: Override, kinds: Any) -> Any:
    """Optuna's distribution for `a,b`, `range(…)`, `interval(…)`, `int(interval(…))`, and the tags log and int.

    Raises UserError for an interval that is empty, infinite, or logarithmic from 0 or less, and for `glob(…)`.
    """
    value = override.value()
    try:
        if not isinstance(value, IntervalSweep):
            return kinds.CategoricalDistribution([*override.sweep_string_iterator()])
        start, end = cast(float, value.start), cast(float, value.end)
        if not (math.isfinite(start) and math.isfinite(end)):
            raise ValueError("an infinite interval")
        if "int" in value.tags or isinstance(start, int):
            return kinds.IntDistribution(int(start), int(end), log="log" in value.tags)
        return kinds.FloatDistribution(start, end, log="log" in value.tags)
    except (HydraException, ValueError) as error:
        advice = "give values, a,b, or interval(LOW,HIGH), with LOW above 0 for log"
        raise UserError(f"{override.input_line}: no values to search ({error}); {advice}") from error


def _check_measured(objectives: Sequence[str], settings: Sequence[str]) -> None:
    """Raise UserError unless these settings form a configuration with which all objectives can be measured."""
    cfg = _composed(settings)
    for name in objectives:
        if advice := _unmeasured(name.removeprefix(names.VALIDATION_PREFIX), cfg):
            rest = ",".join(other for other in objectives if other != name) or names.validation(names.PSNR)
            raise UserError(f"{name} would not be measured: {advice}, or leave it out by --objectives {rest}")


def _unmeasured(score: str, cfg: Mapping[str, Any]) -> str:
    """What to do so that trainings measure a score; empty if they do. Fetches its weights if `cfg` says so."""
    if score == names.NIQE:
        return ("" if niqe.model_file() else f"get its model by {niqe.INSTALL}") if cfg["niqe"] else "give niqe=true"
    needed = {names.lpips(net): net for net in names.LPIPS_NETWORKS} | {names.DISTS: "vgg"}
    if score not in needed:
        return ""
    net = needed[score]
    key, value = ("dists", True) if score == names.DISTS else ("lpips", net)
    if cfg[key] != value:
        return f"give {key}={str(value).lower()}"
    if cfg["download"]:
        networks.fetch(net)
    here, size = networks.weights_file(net).is_file(), networks.FILES[net][1]
    return "" if here else f"give download=true, which fetches its weights ({size} MB)"


def _composed(settings: Sequence[str]) -> dict[str, Any]:
    """The configuration of a training, `${…}` unresolved. Raises UserError with the training's error if it has none."""
    command = [sys.executable, "-m", "srgan.train", *settings, "--cfg", "job"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        raise UserError((said or [f"exit code {done.returncode}"])[-1].removeprefix("error: "))
    return yaml.safe_load(done.stdout)


def _fault(settings: Sequence[str], code: int) -> str:
    """Why a trial that left no note in its folder failed: its settings are no configuration, or its exit code."""
    try:
        _composed(settings)
    except UserError as error:
        return str(error)
    return f"exit code {code}"


def _train(settings: Sequence[str], run_dir: Path) -> int:
    """Run or resume one trial. Returns its exit code. Signals to stop are passed on to it."""
    own = [f"hydra.run.dir={overrides.quoted(str(run_dir))}", "ckpt_path=auto"]
    process = subprocess.Popen([sys.executable, "-m", "srgan.train", *settings, *own])

    def pass_on(signum: int, frame: FrameType | None) -> None:
        if sys.platform != "win32":  # there a console gives Ctrl-C to both processes
            process.send_signal(signum)

    before = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _latest(study: Any) -> dict[str, Any]:
    """The last trial in each folder: one that was killed or failed is continued by another in the same folder."""
    return {_folder(trial): trial for trial in study.trials}


def _ended(study: Any) -> list[Any]:
    """The trials that finished or failed and that no other continues."""
    return [t for t in _latest(study).values() if t.values is not None or "failed" in t.user_attrs]


def _report(folder: Path, study: Any, objectives: Sequence[str]) -> int:
    """Write tune.json and print the trials that no other beats in all objectives, and those that failed."""
    ended = _ended(study)
    failed = {_folder(trial): trial.user_attrs["failed"] for trial in ended if trial.values is None}
    front = sorted(study.best_trials, key=lambda trial: trial.values[0], reverse=True)
    rows = [
        {"folder": _folder(trial), **dict(zip(objectives, trial.values, strict=True)), "settings": trial.params}
        for trial in front
    ]
    content: Mapping[str, Any] = {"objectives": list(objectives), "trials": len(ended), "failed": failed, "front": rows}
    record.write_json(folder / REPORT, content)
    print(f"{len(ended)} trials, {len(failed)} failed; on the Pareto front of {', '.join(objectives)}:")
    for row in rows:
        settings = " ".join(f"{key}={value}" for key, value in cast(dict[str, Any], row["settings"]).items())
        print(f"{row['folder']:>6}  {'  '.join(f'{row[name]:.4f}' for name in objectives)}  {settings}")
    for name, reason in failed.items():
        print(f"{name:>6}  failed: {reason}")
    print(f"{folder / REPORT}; for a page: python -m srgan.report {folder}")
    return 0 if rows else cli.fail("every trial failed")


def _folder(trial: Any) -> str:
    return str(trial.user_attrs.get("folder", trial.number))


def main(arguments: Sequence[str] | None = None) -> None:
    example = "outputs/tune/a --trials 20 experiment=demo 'adversarial_weight=tag(log,interval(1e-5,1e-2))'"
    parser = cli.new_parser(
        "tune",
        "Search for good settings with Optuna; each trial is a run of srgan.train. The search stops after"
        f" {MOST_FAILURES} failed trials in a row; started again, it tries failed ones again in their folders.",
        example,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the search; the same again goes on with it")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as srgan.train -m takes them")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="in all, default: 20")
    parser.add_argument(
        "--objectives", default="val/psnr,val/lpips_alex", metavar="NAMES", help="default: val/psnr,val/lpips_alex"
    )
    options = parser.parse_intermixed_args(arguments)
    cli.run(lambda: tune(options.folder, options.trials, options.objectives.split(","), options.settings))


if __name__ == "__main__":
    main()
