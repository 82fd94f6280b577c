"""The folders that runs leave, read as plain data, and the configurations they are runs of.

A folder is read as far as it goes: what is missing or damaged is left out, never an error.
"""

import csv
import itertools
import json
import math
import os
import re
import shlex
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from srgan.errors import UserError

PROTOCOL = "matlab"
BICUBIC = "bicubic"
DEFAULT = "default"  # the value of a key that neither the command line nor the resolved config of a run has
UNKNOWN = "?"  # the value of a key that wasn't given to a run that left no config

Curve = list[tuple[int, float]]

_TRACES = (".hydra", "run.json", "config.yaml", "metrics.csv", "metrics.json", "error.txt")  # one makes it a run
_NOT_CONFIGURATION = {"seed", "run_dir", "ckpt_path"}  # a resumed run is the same run


@dataclass(frozen=True)
class Scores:
    """Of one image, or the mean over images: protocol `matlab`, dB; None where not measured."""

    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    lr_psnr: float | None = None


@dataclass(frozen=True)
class Result:
    """How a model did on the benchmark."""

    mean: Scores
    images: Mapping[str, Scores]


@dataclass(frozen=True)
class Run:
    """One run.

    `note` says what went wrong. `settings` are the values of `config` by dotted key, but for what is each run's own.
    `steps` is the plan by phase; `pictures` are by model, then image.
    """

    folder: Path
    label: str
    status: str
    note: str
    overrides: Mapping[str, str]
    config: Mapping[str, Any]
    settings: Mapping[str, str]
    record: Mapping[str, Any]
    curves: Mapping[str, Curve]
    models: Mapping[str, Result]
    benchmark: str
    scale: str
    steps: Mapping[str, int]
    steps_done: int
    pictures: Mapping[str, Mapping[str, Path]]

    def value(self, key: str) -> str:
        """Of a configuration key: as overridden, else as resolved, else DEFAULT or UNKNOWN."""
        if key == "scale" and self.scale:
            return self.scale
        return self.overrides.get(key) or self.settings.get(key) or (DEFAULT if self.settings else UNKNOWN)

    @property
    def complete(self) -> bool:
        """All planned steps were done and scored: its figures may be averaged with those of other seeds."""
        return self.result is not None and self.steps_done >= sum(self.steps.values())

    @property
    def model(self) -> str:
        """The model of the last phase scored; empty if none was."""
        names = [name for name in self.models if name != BICUBIC]
        return names[-1] if names else ""

    @property
    def result(self) -> Scores | None:
        """What the run came to: the means of its last phase."""
        return self.models[self.model].mean if self.model else None

    @property
    def gain(self) -> float | None:
        """PSNR above bicubic's on the same images, in dB."""
        bicubic = self.models.get(BICUBIC)
        if self.result is None or bicubic is None or self.result.psnr is None or bicubic.mean.psnr is None:
            return None
        return self.result.psnr - bicubic.mean.psnr

    @property
    def images_per_s(self) -> float | None:
        """Median training speed within the last phase."""
        start = sum(list(self.steps.values())[:-1])
        speeds = [value for step, value in self.curves.get("train/images_per_s", []) if step > start]
        return statistics.median(speeds) if speeds else None

    @property
    def peak_mib(self) -> float | None:
        """The most memory that training took, in MiB."""
        return max((value for _, value in self.curves.get("train/peak_mib", [])), default=None)


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in nothing but their seed; `values` are those of the keys that vary between configurations."""

    values: Mapping[str, str]
    runs: Sequence[Run]

    @property
    def label(self) -> str:
        names = short_names(self.values)
        return " ".join(f"{names[key]}={value}" for key, value in self.values.items()) or "all runs"

    def mean(self, figure: Callable[[Run], float | None]) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation (None of a single one) over the complete runs that have the figure."""
        values = [value for run in self.runs if run.complete and (value := figure(run)) is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def find(folders: Iterable[Path]) -> list[Run]:
    """The runs in `folders`, each once; a folder is that of a run, or of a sweep, whose subfolders are runs.

    Raises UserError for a folder that is absent or holds no run.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; name that of a sweep (outputs/sweeps/TIME) or of a run")
        inside = [folder] if _is_run(folder) else sorted(filter(_is_run, folder.iterdir()), key=_natural)
        if not inside:
            names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
            raise UserError(
                f"{folder}: no run in it (found {names}); name the folder of a sweep (outputs/sweeps/TIME) or of a run"
            )
        found += [path.resolve() for path in inside]
    found = list(dict.fromkeys(found))
    above = os.path.commonpath([path.parent for path in found])
    return [read(path, path.relative_to(above).as_posix()) for path in found]


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).exists() for name in _TRACES)


def _natural(path: Path) -> tuple[int, str]:
    return int(path.name) if path.name.isdecimal() else 10**9, path.name


def read(folder: Path, label: str) -> Run:
    """One run, shown as `label`."""
    record, metrics = _json(folder / "run.json"), _json(folder / "metrics.json")
    config = _mapping(_yaml(folder / "config.yaml"))
    models = _models(metrics)
    curves = _curves(folder / "metrics.csv")
    done = metrics.get("steps_done") if models else None
    reached = max((curve[-1][0] for curve in curves.values()), default=0)
    scale = metrics.get("scale", config.get("scale"))
    return Run(
        folder=folder,
        label=label,
        status=_status(folder, record, bool(models)),
        note=_note(folder, record, bool(models)),
        overrides=_overrides(folder, record),
        config=config,
        settings=_settings(config),
        record=record,
        curves=curves,
        models=models,
        benchmark=str(metrics.get("benchmark", "")),
        scale="" if scale is None else _plain(scale),
        steps=_steps(metrics.get("steps") if models else None) or _steps(record.get("steps")),
        steps_done=done if isinstance(done, int) else reached,
        pictures=_pictures(folder / "pictures"),
    )


def _status(folder: Path, record: Mapping[str, Any], scored: bool) -> str:
    status = record.get("status")
    if isinstance(status, str):
        return status
    if (folder / "error.txt").exists():
        return "failed"
    return "finished" if scored else "unknown"


def _note(folder: Path, record: Mapping[str, Any], scored: bool) -> str:
    notes = [" ".join(_text(folder / "error.txt").split())]
    status = _status(folder, record, scored)
    if status == "failed" and not notes[0]:
        notes = [line for line in _text(folder / "train.log").splitlines() if line.strip()][-1:]
        notes = notes or ["no error.txt and no train.log: see what the terminal said"]
    if status == "interrupted":
        notes.append("before its end; the last line of train.log says how to go on")
    if status == "running":
        newest = max((path.stat().st_mtime for path in folder.iterdir() if path.is_file()), default=0.0)
        last = time.strftime("%Y-%m-%d %H:%M", time.localtime(newest))
        notes.append(f"still running, or killed; last wrote at {last}")
    if (folder / "metrics.json").exists() and not scored:
        notes.append("metrics.json is not readable by this version")
    return "; ".join(note for note in notes if note)


def _overrides(folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    listed = _yaml(folder / ".hydra" / "overrides.yaml")
    if not isinstance(listed, list):
        listed = _arguments(str(record.get("command", "")))
    pairs = [item.partition("=") for item in cast(list[object], listed) if isinstance(item, str) and "=" in item]
    return {key.lstrip("+"): _plain(value) for key, _, value in pairs}


def _arguments(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError:  # a quotation that isn't closed
        return []
    return words[words.index("srgan.train") + 1 :] if "srgan.train" in words else []


def _models(metrics: Mapping[str, Any]) -> dict[str, Result]:
    models: dict[str, Result] = {}
    for name, model in _mapping(metrics.get("models")).items():
        mean = _scores(_mapping(model).get("mean"))
        if mean.psnr is not None:
            images = _mapping(_mapping(model).get("images"))
            models[name] = Result(mean, {image: _scores(scores) for image, scores in images.items()})
    return models


def _scores(node: object) -> Scores:
    scores = _mapping(node)
    luma = _mapping(scores.get(PROTOCOL))
    return Scores(*map(_number, (luma.get("psnr"), luma.get("ssim"), scores.get("lpips"), scores.get("lr_psnr"))))


def _curves(path: Path) -> dict[str, Curve]:
    text = _text(path)
    lines = text[: text.rfind("\n") + 1].splitlines()  # a last line without its end was cut off
    curves: dict[str, Curve] = {}
    try:
        for row in csv.DictReader(lines):
            step = _number(row.get("step"))
            for name, cell in row.items():
                value = _number(cell)
                if step is not None and value is not None and name not in ("step", "epoch"):
                    curves.setdefault(name, []).append((int(step), value))
    except csv.Error:
        pass  # the rows before the damage count
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


def varied_keys(runs: Sequence[Run]) -> list[str]:
    """The keys whose values differ between runs, `seed` among them.

    Those of the command lines; and those that runs of the same command line resolved differently, by another conf/ or
    another version: such runs aren't one configuration. Of several that vary together the shortest stands for all.
    """
    given = dict.fromkeys(itertools.chain(*(run.overrides for run in runs), ["scale", "seed"]))
    keys = [key for key in given if key not in ("run_dir", "ckpt_path") and _differ(key, runs)]
    patterns = {_pattern(key, runs) for key in keys if key != "seed"}
    for alike in _grouped(runs, keys).values():
        resolved = [run for run in alike if run.settings]
        settings = dict.fromkeys(itertools.chain(*(run.settings for run in resolved)))
        differing = [key for key in settings if key not in _NOT_CONFIGURATION and _differ(key, resolved)]
        for key in sorted(differing, key=lambda key: (key.count("."), key)):
            pattern = _pattern(key, runs)
            if pattern not in patterns:
                patterns.add(pattern)
                keys.append(key)
    return keys


def _differ(key: str, runs: Sequence[Run]) -> bool:
    return len({run.value(key) for run in runs} - {UNKNOWN}) > 1


def _pattern(key: str, runs: Sequence[Run]) -> tuple[int, ...]:
    """Which runs share a value, whatever it is."""
    values = [run.value(key) for run in runs]
    return tuple(values.index(value) for value in values)


def _grouped(runs: Sequence[Run], keys: Sequence[str]) -> dict[tuple[str, ...], list[Run]]:
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.value(key) for key in keys if key not in _NOT_CONFIGURATION), []).append(run)
    return groups


def configurations(runs: Sequence[Run], varied: Sequence[str]) -> list[Configuration]:
    """The runs by configuration, in the order of the runs. Of keys that vary together the first names it."""
    patterns = {_pattern(key, runs): key for key in reversed(varied) if key not in _NOT_CONFIGURATION}
    keys = [key for key in varied if key in patterns.values()]
    return [
        Configuration(dict(zip(keys, values, strict=True)), group) for values, group in _grouped(runs, keys).items()
    ]


def fixed_overrides(runs: Sequence[Run]) -> dict[str, str]:
    """The overrides that all runs share."""
    first, *others = [run.overrides for run in runs]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def common_config(runs: Sequence[Run]) -> dict[str, Any]:
    """The part of the resolved configs, nested as they are, that is the same in all runs that have one."""
    configs = [run.config for run in runs if run.config]
    return _common(configs) if configs else {}


def _common(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = nodes
    common: dict[str, Any] = {}
    for key, value in first.items():
        if all(key in other and other[key] == value for other in others):
            common[key] = value
        elif inner := _common([_mapping(value), *(_mapping(other.get(key)) for other in others)]):
            common[key] = inner
    return common


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key, the whole key where that is not unique."""
    keys = list(keys)
    lasts = [key.rpartition(".")[2] for key in keys]
    return {key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)}


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Every value by its dotted key, but for what is a run's own: folders, the logger's names, copied seeds."""
    run_dir = str(config.get("run_dir"))
    settings: dict[str, str] = {}

    def walk(node: Mapping[str, Any], path: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(cast(dict[str, Any], value), f"{path}{key}.")
            elif not ((path and key == "seed") or path.startswith("logger.") or run_dir in str(value)):
                settings[f"{path}{key}"] = _plain(value)

    walk(config, "")
    return settings


def _plain(value: object) -> str:
    """One text for one value, however it was written: 2e-4 and 0.0002, True and true, null and nothing."""
    text = str(value).strip()
    if value is None or text.lower() in ("none", "null"):
        return "null"
    if text.lower() in ("true", "false"):
        return text.lower()
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", text, re.IGNORECASE):
        return str(int(text)) if text.isdecimal() else f"{float(text):.12g}"
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    except OSError:
        return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        return _mapping(json.loads(_text(path)))
    except (ValueError, RecursionError):
        return {}


def _yaml(path: Path) -> object:
    try:  # by way of JSON: dates become text, and a node that holds itself is an error
        return json.loads(json.dumps(yaml.safe_load(_text(path)), default=str))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # ValueError: 2026-99-99, which looks like a date
        return None


def _mapping(node: object) -> dict[str, Any]:
    """`node` with keys as text if it is a mapping, else an empty one."""
    return {str(key): value for key, value in cast(dict[object, Any], node).items()} if isinstance(node, dict) else {}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
