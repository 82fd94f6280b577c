"""Quality against budget: what each validation of some runs measured, against crops seen and minutes of training.

python benchmarks/budget.py RUN… adds the runs' rows to docs/budget.csv and draws docs/budget.md anew. Rows of the same
experiment (`name`) on the same device are replaced.

Minutes are those of training alone, from the logged images a second; validation, and what a resumed run did twice, do
not count.
"""

import argparse
import csv
import math
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from srgan import cli
from srgan.errors import UserError
from srgan.metrics import names
from srgan.runs.read import Run, find_runs

TABLE = Path(__file__).parents[1] / "docs" / "budget.csv"
SCORES = {
    "psnr": names.validation("psnr"),
    "lpips_alex": names.validation("lpips_alex"),
    "niqe": names.validation("niqe"),
}
COLUMNS = ["run", "device", "phase", "step", "crops", "minutes", *SCORES]
TITLES = {"psnr": "PSNR (dB, matlab)", "lpips_alex": "LPIPS (alex)", "niqe": "NIQE"}
PAGE = """\
# Quality against budget

How much does longer training help? In the content phase 12 minutes reach 26.71 dB and 113 minutes 26.92 dB. In the GAN
phase LPIPS is lowest after 29 minutes (.178); until 80 minutes NIQE still falls (5.22 to 4.91), while LPIPS (.182) and
PSNR (25.56 to 25.37 dB) get worse. The last 53 minutes, at a smaller share of the adversarial loss, win back some of
both (.179, 25.50 dB; NIQE 5.02).

Scores are those of the validation photographs during training; minutes are of training alone. The rows are in
[budget.csv](budget.csv), made with this page from the runs' folders by `python benchmarks/budget.py RUN…`; `python -m
srgan.speed` says how many crops a second another machine does.

`photos_x4` made `srresnet_small_x4` on two CPU cores, `photos_projected_x4` then `srgan_x4`. `photos_x4_paper` is the
recipe of `photos_x4` with the paper's generator, on one core, broken off after 16 minutes: `experiment=photos_x4
name=photos_x4_paper generator=srresnet generator.channels=64 generator.blocks=16 generator.upsampler=shuffle`. It has
to learn the enlargement itself, and each of its steps takes longer. Compare it by crops, not by minutes: after 3,200
crops it has 25.97 dB, `photos_x4` 26.47 after 4,000. It was stopped early in its schedule, so this isn't the most that
16 minutes can give. Bicubic has 25.50 dB and a NIQE of 7.45. `32-true` is fp32; "–" was not measured.
"""


def rows_of(run: Run) -> list[dict[str, str]]:
    """A row for each validation of a run. Raises UserError for a run that was not validated."""
    if not run.curves.get(SCORES["psnr"]) or not run.curves.get(names.IMAGES_PER_S) or not run.steps:
        raise UserError(f"{run.folder}: no validation and speed in it ({run.status}); leave it out")
    batch = int(run.config["batch_size"]) * _processes(run)
    scores = {column: dict(run.curves.get(name, [])) for column, name in SCORES.items()}
    speeds = run.curves[names.IMAGES_PER_S]
    device = (
        f"{run.made_with.get('device', run.made_with.get('accelerator', ''))}, {run.made_with.get('precision', '')}"
    )
    rows: list[dict[str, str]] = []
    for step in sorted(scores["psnr"]):
        phase, begun = _phase(run, step)
        row = {"run": str(run.config["name"]), "device": device, "phase": phase, "step": str(step - begun)}
        row |= {"crops": str(step * batch), "minutes": f"{_seconds(speeds, step, batch) / 60:.1f}"}
        rows.append(row | {column: f"{curve[step]:.4f}" if step in curve else "" for column, curve in scores.items()})
    return rows


def _processes(run: Run) -> int:
    """The number of processes that shared the run, each with a batch of its own."""
    trainer = run.config["trainer"]
    devices = trainer.get("devices", 1)
    if not isinstance(devices, list) and not str(devices).isdigit():
        raise UserError(f"{run.folder}: trainer.devices={devices} doesn't say how many took part")
    here = len(devices) if isinstance(devices, list) else int(devices)
    return here * int(trainer.get("num_nodes", 1))


def _phase(run: Run, step: int) -> tuple[str, int]:
    """The phase in which `step` was done, and the steps before it."""
    begun = 0
    for name, steps in run.steps.items():
        if step <= begun + steps:
            return name, begun
        begun += steps
    return name, begun - steps


def _seconds(speeds: Iterable[tuple[int, float]], until: int, batch: int) -> float:
    """The time that the steps up to `until` took; the first and last steps have the nearest speed known."""
    seconds, done, images_per_s = 0.0, 0, math.inf
    for step, images_per_s in speeds:
        now = min(step, until)
        seconds, done = seconds + (now - done) * batch / images_per_s, now
    return seconds + (until - done) * batch / images_per_s


def page(rows: Iterable[dict[str, str]]) -> str:
    """The page: for each phase of each run a chart of each score, and a table."""
    parts = [PAGE]
    for (run, device, phase), group in groupby(rows, key=lambda row: (row["run"], row["device"], row["phase"])):
        group = list(group)
        parts.append(f"## {run}, {phase} phase ({device})\n")
        for column, title in TITLES.items():
            points = [(float(row["minutes"]), float(row[column])) for row in group if row[column]]
            if len(points) > 1:
                parts.append(_chart(title, points))
        parts.append("| crops | minutes | PSNR | LPIPS (alex) | NIQE |\n|---|---|---|---|---|")
        table = [[row["crops"], row["minutes"], *(row[column] or "–" for column in TITLES)] for row in group]
        parts[-1] += "\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in table) + "\n"
    return "\n".join(parts)


def _chart(title: str, points: list[tuple[float, float]]) -> str:
    values = [value for _, value in points]
    margin = (max(values) - min(values) or 1.0) / 10
    axis = ", ".join(f"{minutes:.0f}" for minutes, _ in points)
    line = ", ".join(f"{value:.4g}" for value in values)
    return (
        f'```mermaid\nxychart-beta\n    x-axis "minutes" [{axis}]\n'
        f'    y-axis "{title}" {min(values) - margin:.3f} --> {max(values) + margin:.3f}\n    line [{line}]\n```\n'
    )


def _of_each(runs: Iterable[Run]) -> list[dict[str, str]]:
    """The rows of all runs. Raises UserError for two runs that the page could not tell apart."""
    known: dict[tuple[str, str], Run] = {}
    rows: list[dict[str, str]] = []
    for run in runs:
        own = rows_of(run)
        other = known.setdefault((own[0]["run"], own[0]["device"]), run)
        if other is not run:
            raise UserError(f"{run.folder} and {other.folder} have the same name and device; give only one of them")
        rows += own
    return rows


def budget() -> None:
    parser = argparse.ArgumentParser(description="Add the validations of runs to docs/budget.csv and draw the page.")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    new = _of_each(find_runs(parser.parse_args().runs))
    kept: list[dict[str, str]] = []
    if TABLE.is_file():
        with TABLE.open(encoding="utf-8", newline="") as file:
            replaced = {(row["run"], row["device"]) for row in new}
            kept = [row for row in csv.DictReader(file) if (row["run"], row["device"]) not in replaced]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *new])
    TABLE.with_suffix(".md").write_text(page([*kept, *new]), encoding="utf-8")
    print(f"{len(new)} rows: {TABLE}")


def main() -> None:
    cli.run(budget)


if __name__ == "__main__":
    main()
