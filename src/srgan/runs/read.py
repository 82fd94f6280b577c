"""Reads the folders of runs as plain data.

Missing or damaged files in them are skipped and never an error.
"""

import csv
import json
import math
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import yaml

from srgan.errors import UserError
from srgan.metrics import names
from srgan.runs import record

PROTOCOL = "matlab"  # protocol of all scores that are read
BICUBIC = "bicubic"
DEFAULT = "default"  # shown for a key that a run's configuration lacks
UNKNOWN = "?"  # shown for what is not recorded, as all keys of a run without config.yaml

Curve = list[tuple[int, float]]

# A folder with any of these is a run.
_TRACES = (record.HYDRA, record.RUN, record.CONFIG, record.CURVES, record.METRICS, record.ERROR)


@dataclass(frozen=True)
class Scores:
    """The scores of one image, or means over images, named as in `metrics/names.py`; None: not measured."""

    psnr: float | None = None
    ssim: float | None = None
    lpips_alex: float | None = None
    lpips_squeeze: float | None = None
    lpips_vgg: float | None = None
    dists: float | None = None
    niqe: float | None = None
    grid: float | None = None
    colour: float | None = None
    lr_psnr: float | None = None


@dataclass(frozen=True)
class Result:
    """One model's scores on the benchmark."""

    mean: Scores
    images: Mapping[str, Scores]


@dataclass(frozen=True)
class Run:
    """One run.

    `note`: what went wrong. `choices`: the chosen files of conf/ by group. `settings`: the choices and, by dotted key,
    the values of `config`, without those that are particular to each run. `made_with`: content of run.json. `steps`:
    planned steps by phase. `hr_sha256`: of the images that were scored. `pictures`: by model, then by image.
    """

    folder: Path
    label: str
    status: str
    note: str
    config: Mapping[str, Any]
    choices: Mapping[str, str]
    settings: Mapping[str, str]
    made_with: Mapping[str, Any]
    curves: Mapping[str, Curve]
    models: Mapping[str, Result]
    benchmark: str
    hr_sha256: str
    scale: str
    steps: Mapping[str, int]
    steps_done: int
    pictures: Mapping[str, Mapping[str, Path]]

    def value(self, key: str) -> str:
        """The value of a setting; DEFAULT or UNKNOWN if the run doesn't have it.

        A group for which an experiment chose a list of files is unknown, too, since Hydra records no such choice.
        """
        node: Any = self.config
        for part in (key.partition("@")[2] or key).split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        known = self.config and not isinstance(node, Mapping)
        return self.settings.get(key) or (DEFAULT if known else UNKNOWN)

    @property
    def complete(self) -> bool:
        """True if all planned steps were done and scored. Only such runs are averaged over seeds."""
        return self.result is not None and self.steps_done >= sum(self.steps.values())

    @property
    def model(self) -> str:
        """The model of the last phase that was scored; empty if there is none."""
        return next((name for name in reversed([*self.models]) if name != BICUBIC), "")

    @property
    def result(self) -> Scores | None:
        """The mean scores of the last phase."""
        return self.models[self.model].mean if self.model else None

    @property
    def gain(self) -> float | None:
        """Gain in PSNR over bicubic on the same images, in dB."""
        bicubic = self.models.get(BICUBIC)
        if self.result is None or bicubic is None or self.result.psnr is None or bicubic.mean.psnr is None:
            return None
        return self.result.psnr - bicubic.mean.psnr

    @property
    def images_per_s(self) -> float | None:
        """Median training speed in the last phase."""
        start = sum(list(self.steps.values())[:-1])
        speeds = [value for step, value in self.curves.get(names.IMAGES_PER_S, []) if step > start]
        return statistics.median(speeds) if speeds else None

    @property
    def peak_mib(self) -> float | None:
        """Peak memory during training, in MiB."""
        return max((value for _, value in self.curves.get(names.PEAK_MIB, [])), default=None)


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs in `folders`, each once. A folder is a run, or a sweep, whose subfolders are runs.

    Raises UserError for a folder that doesn't exist or holds no run.
    """
    paths: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name that of a sweep (outputs/sweeps/TIME) or of a run")
        inside = [folder] if _is_run(folder) else sorted(filter(_is_run, folder.iterdir()), key=_natural_order)
        if not inside:
            others = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
            raise UserError(
                f"{folder}: no run in it (found {others}); name the folder of a sweep (outputs/sweeps/TIME) or of a run"
            )
        paths += [path.resolve() for path in inside]
    paths = list(dict.fromkeys(paths))
    above = os.path.commonpath([path.parent for path in paths])
    return [read_run(path, path.relative_to(above).as_posix()) for path in paths]


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).exists() for name in _TRACES)


def _natural_order(path: Path) -> tuple[int, str]:
    return int(path.name) if path.name.isdecimal() else 10**9, path.name


def read_run(folder: Path, label: str) -> Run:
    """Read the run in `folder`; `label` is its name in the report."""
    made_with, metrics = read_json(folder / record.RUN), read_json(folder / record.METRICS)
    config = _mapping(_yaml(folder / record.CONFIG))
    # Hydra's own record is of the last command in the folder, even if that was refused.
    recorded = {group: _plain(name) for group, name in _mapping(made_with.get("choices")).items()}
    choices = recorded or _choices(folder / record.HYDRA / "hydra.yaml", config)
    unnamed = _unnamed_lpips(config)
    models = _models(metrics, unnamed)
    scored = bool(models)
    status = _status(folder, made_with, scored)
    curves = _curves(folder / record.CURVES, unnamed)
    done = metrics.get("steps_done") if scored else None
    scale = metrics.get("scale", config.get("scale"))
    known_scale = {} if scale is None else {"scale": _plain(scale)}
    return Run(
        folder=folder,
        label=label,
        status=status,
        note=_note(folder, status, scored),
        config=config,
        choices=choices,
        settings=choices | _settings(config) | known_scale,
        made_with=made_with,
        curves=curves,
        models=models,
        benchmark=str(metrics.get("benchmark", "")),
        hr_sha256=str(metrics.get("hr_sha256", "")),
        scale=known_scale.get("scale", ""),
        steps=_steps(metrics.get("steps") if scored else None) or _steps(made_with.get("steps")),
        steps_done=done if isinstance(done, int) else max((curve[-1][0] for curve in curves.values()), default=0),
        pictures=_pictures(folder / record.PICTURES),
    )


def _status(folder: Path, made_with: Mapping[str, Any], scored: bool) -> str:
    status = made_with.get("status")
    if isinstance(status, str):
        return status
    if (folder / record.ERROR).exists():
        return "failed"
    return "finished" if scored else "unknown"


def _note(folder: Path, status: str, scored: bool) -> str:
    notes = [" ".join(_text(folder / record.ERROR).split())]
    if status == "failed" and not notes[0]:
        notes = [line for line in _text(folder / record.LOG).splitlines() if line.strip()][-1:]
        notes = notes or [f"no {record.ERROR} and no {record.LOG}: see what the terminal said"]
    if status == "interrupted":
        notes.append(f"before its end; the last line of {record.LOG} says how to go on")
    if status == "running":
        newest = max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=0.0)
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(newest))
        notes.append(f"still running, or killed; last wrote at {last}")
    if (folder / record.METRICS).exists() and not scored:
        notes.append(f"{record.METRICS} is not readable by this version")
    return "; ".join(note for note in notes if note)


def _choices(path: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chosen file of conf/ for each group, as Hydra recorded it."""
    hydra = _mapping(_mapping(_yaml(path)).get("hydra"))
    task = _mapping(hydra.get("overrides")).get("task")
    typed = [str(argument) for argument in cast(list[object], task)] if isinstance(task, list) else []
    groups = [key for key, value in config.items() if isinstance(value, Mapping)]
    return record.chosen(_mapping(_mapping(hydra.get("runtime")).get("choices")), typed, groups)


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """All values by dotted key, except those particular to a run: folders, the logger's names, copied seeds.

    An empty list is left out, as before there was such an option.
    """
    run_dir = config.get("run_dir")
    settings: dict[str, str] = {}

    def inside(value: object) -> bool:
        text = str(value)
        return run_dir is not None and (text == str(run_dir) or text.startswith((f"{run_dir}/", f"{run_dir}\\")))

    def walk(node: Mapping[str, Any], path: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(cast(dict[str, Any], value), f"{path}{key}.")
            elif not ((path and key == "seed") or path.startswith("logger.") or value == [] or inside(value)):
                settings[f"{path}{key}"] = _plain(value)

    walk(config, "")
    return settings


def _unnamed_lpips(config: Mapping[str, Any]) -> str:
    """The name of LPIPS in old runs, which logged it without its network: SqueezeNet's unless configured otherwise."""
    network = config.get("lpips")
    return names.lpips(network if network in names.LPIPS_NETWORKS else "squeeze")


def _models(metrics: Mapping[str, Any], unnamed: str) -> dict[str, Result]:
    models: dict[str, Result] = {}
    for name, model in _mapping(metrics.get("models")).items():
        mean = _scores(_mapping(model).get("mean"), unnamed)
        if mean.psnr is not None:
            images = _mapping(_mapping(model).get("images"))
            models[name] = Result(mean, {image: _scores(scores, unnamed) for image, scores in images.items()})
    return models


def _scores(node: object, unnamed: str) -> Scores:
    scores = _mapping(node)
    scores = {unnamed: scores.get("lpips")} | scores | _mapping(scores.get(PROTOCOL))
    return Scores(**{field.name: _number(scores.get(field.name)) for field in fields(Scores)})


def _curves(path: Path, unnamed: str) -> dict[str, Curve]:
    text = _text(path)
    lines = text[: text.rfind("\n") + 1].splitlines()  # drops a last line that was cut off
    kinds = (names.validation, names.validation_bicubic, names.validation_gain)
    renamed = {kind("lpips"): kind(unnamed) for kind in kinds}
    curves: dict[str, Curve] = {}
    try:
        for row in csv.DictReader(lines):
            step = _number(row.get("step"))
            for name, cell in row.items():
                value = _number(cell)
                if step is not None and value is not None and name not in ("step", "epoch"):
                    curves.setdefault(renamed.get(name, name), []).append((int(step), value))
    except csv.Error:
        pass  # keep the rows before the damage
    return curves


def _steps(node: object) -> dict[str, int]:
    steps = {name: _number(steps) for name, steps in _mapping(node).items()}
    return {name: round(number) for name, number in steps.items() if number is not None}


def _pictures(folder: Path) -> dict[str, dict[str, Path]]:
    pictures: dict[str, dict[str, Path]] = {}
    for path in sorted(path for path in folder.glob("*/**/*.png") if path.is_file()):
        model, *image = path.relative_to(folder).with_suffix("").parts
        pictures.setdefault(model, {})["/".join(image)] = path
    return pictures


def _plain(value: object) -> str:
    """The same text for equal values: `1000` for 1e3 and 1000, `null`, `true`."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return value if isinstance(value, str) else json.dumps(value)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    except OSError:
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file is missing or damaged."""
    try:
        return _mapping(json.loads(_text(path)))
    except (ValueError, RecursionError):
        return {}


def _yaml(path: Path) -> object:
    try:  # through JSON, so that dates become text and a node that contains itself is an error
        return json.loads(json.dumps(yaml.safe_load(_text(path)), default=str))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # ValueError: 2026-99-99, which looks like a date
        return None


def _mapping(node: object) -> dict[str, Any]:
    """`node` with text keys if it is a mapping, otherwise an empty one."""
    return {str(key): value for key, value in cast(dict[object, Any], node).items()} if isinstance(node, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
