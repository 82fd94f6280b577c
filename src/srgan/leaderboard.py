"""`python -m srgan.leaderboard`: scores systems as `srgan.evaluate` does and adds them to a table."""

import csv
import io
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from srgan import config
from srgan.errors import UserError
from srgan.evaluate import measure
from srgan.evaluation.benchmarks import Benchmark
from srgan.evaluation.comparison import comparison
from srgan.evaluation.methods import Foreign, Method, Network
from srgan.evaluation.table import DIGITS
from srgan.metrics import names
from srgan.metrics.protocol import PROTOCOLS
from srgan.metrics.scores import Figures

log = logging.getLogger(__name__)

Row = dict[str, str]  # by column

KEY = ("benchmark", "scale", "system")
WEIGHTS, SPEED, ABOUT = "million_weights", "megapixels_per_s", "about"
PROTOCOL_COLUMNS = [f"{protocol}_{figure}" for protocol in PROTOCOLS for figure in (names.PSNR, names.SSIM)]
PERCEPTUAL = [names.lpips("alex"), names.lpips("squeeze"), names.NIQE, names.GRID, names.COLOUR, names.LR_PSNR]
COLUMNS = [*KEY, WEIGHTS, *PROTOCOL_COLUMNS, *PERCEPTUAL, SPEED, ABOUT]
# Tolerances for scores that are computed again, since processors round differently.
TOLERANCES: dict[str, float] = {
    **dict.fromkeys((names.NIQE, names.GRID, names.COLOUR, names.LR_PSNR), 0.05),
    names.PSNR: 0.01,
    names.SSIM: 0.0005,
    **{names.lpips(network): 0.001 for network in names.LPIPS_NETWORKS},
}


def leaderboard(cfg: DictConfig) -> list[Row]:
    """Score as configured; add the rows to the table, or with `verify` compare them. Returns the table's rows.

    Raises UserError if a row to be verified is not in the table or differs.
    """
    if missing := [name for name in PROTOCOLS if name not in cfg.protocols]:
        raise UserError(f"the table has columns of {', '.join(missing)}, too; add them to protocols=")
    path = Path(cfg.table)
    before = read(path) if path.is_file() else []
    compared, benchmark, result = measure(cfg)
    given = cast(dict[object, str], OmegaConf.to_container(cfg.about) if cfg.about else {})
    about = {str(name).strip(): text for name, text in given.items()}
    if unknown := sorted(set(about) - set(result.labels.values())):
        raise UserError(f"about: {', '.join(unknown)} is none of {', '.join(result.labels.values())}")
    new = [_row(method, benchmark, result.mean(name), about.get(method.label, "")) for name, method in compared.items()]
    if cfg.verify:
        if wrong := differences(before, new):
            raise UserError(f"{path} differs from what was measured here:\n  " + "\n  ".join(wrong))
        log.info("%s: %d rows are as measured here", path, len(new))
        return before
    rows = merged(before, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_csv(rows), encoding="utf-8")
    path.with_suffix(".md").write_text(page(rows), encoding="utf-8")
    if result.shown:
        picture = path.with_name(f"{path.stem}_{benchmark.name}_x{benchmark.scale}.jpg")
        comparison(result, cfg.details).save(picture, quality=88)
        log.info("Picture: %s", picture)
    log.info("Table:   %s, %s", path, path.with_suffix(".md"))
    return rows


def read(path: Path) -> list[Row]:
    """Read the rows of a table. Raises UserError, naming the line, if it doesn't fit `COLUMNS`."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or []) != COLUMNS:
            raise UserError(f"{path}: expected the columns {','.join(COLUMNS)}")
        rows = list(reader)
    seen: dict[tuple[str, ...], int] = {}
    for line, row in enumerate(rows, start=2):
        key = tuple(row[column] for column in KEY)
        if not all(key) or None in row or None in row.values():
            raise UserError(f"{path}, line {line}: expected {len(COLUMNS)} values, the first three of them not empty")
        if key in seen:
            raise UserError(f"{path}, line {line}: {' '.join(key)} is there twice, also in line {seen[key]}")
        seen[key] = line
        for column in (WEIGHTS, *PROTOCOL_COLUMNS, *PERCEPTUAL, SPEED):
            try:
                float(row[column] or 0)
            except ValueError as error:
                raise UserError(f"{path}, line {line}: {column} is {row[column]!r}, expected a number") from error
    return rows


def merged(before: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """All rows, best LPIPS first. New rows replace those of the same system but keep its remark."""
    rows = {tuple(row[column] for column in KEY): row for row in before}
    for row in new:
        key = tuple(row[column] for column in KEY)
        rows[key] = row | {ABOUT: row[ABOUT] or rows.get(key, row)[ABOUT]}
    return sorted(rows.values(), key=_order)


def differences(before: Iterable[Row], new: Iterable[Row]) -> list[str]:
    """Describe where a table differs from new measurements. Speed, which depends on the machine, isn't compared."""
    known = {tuple(row[column] for column in KEY): row for row in before}
    wrong: list[str] = []
    for row in new:
        key = tuple(row[column] for column in KEY)
        if key not in known:
            wrong.append(f"{' '.join(key)}: not in the table")
            continue
        for column in (*PROTOCOL_COLUMNS, *PERCEPTUAL):
            stands, found = known[key][column], row[column]
            figure = column.rpartition("_")[2] if column in PROTOCOL_COLUMNS else column
            measured = stands and found  # both here and there
            if measured and abs(float(stands) - float(found)) > TOLERANCES[figure]:
                wrong.append(f"{' '.join(key)}: {column} {stands}, measured {found}")
    return wrong


def as_csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


PAGE = """\
# Leaderboard

Systems by one ruler, each from the same LR, best LPIPS (alex) first. [evaluate](evaluate.md) says what each figure is;
PSNR and SSIM stand once for each protocol. No figure of perception is safe alone: read LPIPS and NIQE together, look.
Weights are in millions; MP/s are SR megapixels a second on the machine of the last run, where the system ran there at
all. Made by `python -m srgan.leaderboard` from `{table}`; don't edit it by hand.
"""
TITLES = {"paper": "`paper`", "matlab": "`matlab`", "rgb": "`rgb`"}


def page(rows: Sequence[Row], table: str = "leaderboard.csv") -> str:
    """The table as a Markdown page with a section for each benchmark and scale."""
    heads = ["", "weights", *TITLES.values(), *(names.TITLES[figure] for figure in PERCEPTUAL), "MP/s", ""]
    parts = [PAGE.format(table=table)]
    for (benchmark, scale), group in groupby(rows, key=lambda row: (row["benchmark"], row["scale"])):
        lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for row in group:
            scores = [
                " / ".join(row[f"{protocol}_{figure}"] for figure in (names.PSNR, names.SSIM)) for protocol in TITLES
            ]
            figures = [row[column] or "–" for column in PERCEPTUAL]
            cells = [row["system"], row[WEIGHTS] or "–", *scores, *figures, row[SPEED] or "–", row[ABOUT]]
            lines.append("| " + " | ".join(cells) + " |")
        parts.append(f"## {benchmark} ×{scale}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _order(row: Row) -> tuple[str, int, float, str]:
    lpips = row[names.lpips("alex")]
    return row["benchmark"], int(row["scale"]), float(lpips or "inf"), row["system"]


def _row(method: Method, benchmark: Benchmark, figures: Figures, about: str) -> Row:
    """One system's row. Ready-made pictures have neither a number of weights nor a speed."""
    row = dict.fromkeys(COLUMNS, "") | {"benchmark": benchmark.name, "scale": str(benchmark.scale), ABOUT: about}
    row["system"] = method.label
    for protocol in PROTOCOLS:
        scores = cast(Mapping[str, float], figures[protocol])
        row |= {f"{protocol}_{figure}": f"{value:.{DIGITS[figure]}f}" for figure, value in scores.items()}
    for column in PERCEPTUAL:
        value = cast(float | None, figures.get(column))
        row[column] = "" if value is None else f"{value:.{DIGITS[column]}f}"
    if isinstance(method, Network | Foreign):
        network = method.generator if isinstance(method, Network) else method.network.model
        row[WEIGHTS] = f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}"
        row[SPEED] = f"{_megapixels_per_s(method, benchmark):.3g}"
    return row


def _megapixels_per_s(method: Method, benchmark: Benchmark, seconds: float = 2.0) -> float:
    """SR megapixels per second on the benchmark's images, one by one, from host memory to host memory."""
    images = [benchmark[index] for index in range(min(len(benchmark), 8))]
    method(images[0])  # the first call is slower
    start, pixels = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for image in images:
            pixels += method(image).cpu()[0, 0].numel()
    return pixels / 1e6 / (time.perf_counter() - start)


def main() -> None:
    config.run(leaderboard, "leaderboard")


if __name__ == "__main__":
    main()
