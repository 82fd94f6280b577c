"""Compares the configurations of several runs: what they share and what was varied."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srgan.runs import record
from srgan.runs.read import UNKNOWN, Run

# A resumed run is the same run.
_NOT_CONFIGURATION = ("seed", "run_dir", "ckpt_path", *record.BOOKKEEPING)


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed. `values` holds the keys that vary between configurations."""

    values: Mapping[str, str]
    runs: Sequence[Run]

    @property
    def label(self) -> str:
        keys = short_names(self.values)
        return " ".join(f"{keys[key]}={value}" for key, value in self.values.items()) or "all runs"

    @property
    def complete(self) -> list[Run]:
        """The complete runs, of each seed the last one: a seed that was run again is no further evidence."""
        seeds = {run.folder: run.value("seed") for run in self.runs if run.complete}
        last = {seed if seed != UNKNOWN else str(folder): folder for folder, seed in seeds.items()}
        return [run for run in self.runs if run.folder in last.values()]

    def mean(self, figure: Callable[[Run], float | None]) -> tuple[float, float | None] | None:
        """Mean and sample standard deviation (None for a single run) over the `complete` runs that have the figure."""
        values = [value for run in self.complete if (value := figure(run)) is not None]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def varied_keys(runs: Sequence[Run]) -> list[str]:
    """The smallest set of settings, other than seeds, that distinguishes the runs.

    The choice of a file in conf/ is preferred to the values it sets, and a short key to a long one. Unknown values
    don't distinguish runs.
    """
    groups = {key for run in runs for key in run.choices}
    settings = {key for run in runs for key in run.settings if not _is_bookkeeping(key)}
    varied: list[str] = []
    for key in sorted(settings, key=lambda key: (key not in groups, key != "experiment", key.count("."), key)):
        known = [run for run in runs if run.value(key) != UNKNOWN]
        if any(len({run.value(key) for run in alike}) > 1 for alike in _grouped(known, varied).values()):
            varied.append(key)
    return varied


def _is_bookkeeping(key: str) -> bool:
    return any(key.partition("@")[0] == part or key.startswith(f"{part}.") for part in _NOT_CONFIGURATION)


def configurations(runs: Sequence[Run]) -> list[Configuration]:
    """Group the runs by configuration, in the order of the runs."""
    keys = varied_keys(runs)
    return [
        Configuration(dict(zip(keys, values, strict=True)), alike) for values, alike in _grouped(runs, keys).items()
    ]


def _grouped(runs: Sequence[Run], keys: Sequence[str]) -> dict[tuple[str, ...], list[Run]]:
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.value(key) for key in keys), []).append(run)
    return groups


def common_choices(runs: Sequence[Run]) -> dict[str, str]:
    """The files of conf/ that all runs chose, by group."""
    first, *others = [run.choices for run in runs]
    return {
        group: name
        for group, name in first.items()
        if name != "null" and all(other.get(group) == name for other in others)
    }


def common_config(runs: Sequence[Run]) -> dict[str, Any]:
    """The nested part of the resolved configurations that is equal in all runs that have one."""
    configs = [run.config for run in runs if run.config]
    return _common(configs) if configs else {}


def _common(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = nodes
    common: dict[str, Any] = {}
    for key, value in first.items():
        values: list[Any] = [value, *(other.get(key) for other in others)]
        if all(key in other and other[key] == value for other in others):
            common[key] = value
        elif all(isinstance(node, dict) for node in values) and (inner := _common(values)):
            common[key] = inner
    return common


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of each dotted key; the whole key if that isn't unique or if the key has a package (@)."""
    keys = list(keys)
    lasts = [key if "@" in key else key.rpartition(".")[2] for key in keys]
    return {key: last if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)}
