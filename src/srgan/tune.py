"""`python -m srgan.tune FOLDER KEY=VALUE …`: searches for good settings with Optuna; a trial is a run of srgan.train.

Values in Hydra's syntax for sweeps are the search space; all others hold for every trial. A search that was killed goes
on where it was: finished trials are in the folder's journal, and the unfinished one resumes its training.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException

from srgan import cli, config, overrides
from srgan.errors import UserError
from srgan.metrics import names
from srgan.runs import record
from srgan.runs.read import read_run

JOURNAL, REPORT = "journal.log", "tune.json"  # in the search's folder, beside the trials' own, 0, 1, 2 …
STOPPED = {
    code for signum in (signal.SIGINT, signal.SIGTERM) for code in (128 + signum, -signum)
}  # a trial's exit codes
DIRECTIONS = {"max": "maximize", "min": "minimize"}


def tune(folder: Path, trials: int, objectives: Sequence[str], arguments: Sequence[str]) -> int:
    """Run trials until there are `trials`, then write and print the Pareto front. Returns the exit code."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise UserError("this command needs Optuna: pip install 'srgan[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known: dict[str, Any] = {names.validation(score): DIRECTIONS[best] for score, best in names.BEST.items()}
    if unknown := [name for name in objectives if name not in known]:
        raise UserError(f"--objectives {','.join(unknown)}: choose from {', '.join(known)}")
    fixed, space = _space(arguments, optuna.distributions)
    with record.lock(folder):
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
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
            study.enqueue_trial(trial.params, user_attrs={"folder": trial.user_attrs.get("folder", str(trial.number))})
        while len(_ended(study)) < trials:
            trial = study.ask(space)
            run_dir = folder / trial.user_attrs.get("folder", str(trial.number))
            code = _train([*fixed, *(f"{key}={value}" for key, value in trial.params.items())], run_dir)
            if code in STOPPED:
                return code if code > 0 else 128 - code
            run = read_run(run_dir, run_dir.name)
            values = [run.curves[name][-1][1] for name in objectives if run.curves.get(name)]
            if code or len(values) < len(objectives):
                reason = run.note or f"exit code {code}, without {', '.join(objectives)}"
                trial.set_user_attr("failed", reason)
                study.tell(trial, state=states.FAIL)
            else:
                study.tell(trial, values)
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
        if override.is_sweep_override():
            space[text.partition("=")[0]] = _distribution(override, kinds)
        else:
            fixed.append(text)
    if not space:
        raise UserError("nothing to search: give a setting several values, as KEY=a,b or 'KEY=interval(0.1,1)'")
    return fixed, space


def _distribution(override: Override, kinds: Any) -> Any:
    """Optuna's distribution for `a,b`, `range(…)`, `interval(…)`, and intervals with the tags log and int."""
    value = override.value()
    if not isinstance(value, IntervalSweep):
        return kinds.CategoricalDistribution([*override.sweep_string_iterator()])
    assert value.start is not None and value.end is not None
    log = "log" in value.tags
    if "int" in value.tags:
        return kinds.IntDistribution(int(value.start), int(value.end), log=log)
    return kinds.FloatDistribution(float(value.start), float(value.end), log=log)


def _train(settings: Sequence[str], run_dir: Path) -> int:
    """Run or resume one trial. Returns its exit code. Signals to stop are passed on to it."""
    own = [f"hydra.run.dir={overrides.quoted(str(run_dir))}", "ckpt_path=auto"]
    process = subprocess.Popen([sys.executable, "-m", "srgan.train", *settings, *own])

    def pass_on(signum: int, frame: FrameType | None) -> None:
        process.send_signal(signum)

    before = {signum: signal.signal(signum, pass_on) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        return process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _ended(study: Any) -> list[Any]:
    """The trials that finished or failed; others were killed, and are continued by a new one in the same folder."""
    return [trial for trial in study.trials if trial.values is not None or "failed" in trial.user_attrs]


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
        "tune", "Search for good settings with Optuna; each trial is a run of srgan.train.", example
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
