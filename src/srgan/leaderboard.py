"""`python -m srgan.leaderboard`: scores systems as `srgan.evaluate` does and adds them to a table."""

import csv
import io
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf

from srgan import config
from srgan.errors import UserError
from srgan.evaluate import lpips_networks, measure
from srgan.evaluation.benchmarks import Benchmark
from srgan.evaluation.comparison import comparison
from srgan.evaluation.methods import Foreign, Method, Network
from srgan.evaluation.table import DIGITS
from srgan.machine import tf32
from srgan.metrics import names
from srgan.metrics.protocol import PROTOCOLS
from srgan.metrics.scores import Figures

log = logging.getLogger(__name__)

Row = dict[str, str]  # by column

KEY = ("benchmark", "scale", "system")
MEASURED_ON = ("images", "lr", "hr_sha256")  # equal in all rows of a benchmark and scale; empty: not known
SECONDS = 2.0  # for which a system's speed is measured
WEIGHTS, SPEED, ABOUT = "million_weights", "megapixels_per_s", "about"
PROTOCOL_COLUMNS = [f"{protocol}_{figure}" for protocol in PROTOCOLS for figure in (names.PSNR, names.SSIM)]
PERCEPTUAL = [names.lpips("alex"), names.lpips("squeeze"), names.NIQE, names.GRID, names.COLOUR, names.LR_PSNR]
FIGURES = [*PROTOCOL_COLUMNS, *PERCEPTUAL]
COLUMNS = [*KEY, *MEASURED_ON, WEIGHTS, *FIGURES, SPEED, ABOUT]
# Tolerances for scores that are computed again, since processors round differently.
TOLERANCES: dict[str, float] = {
    **dict.fromkeys((names.NIQE, names.GRID, names.COLOUR, names.LR_PSNR), 0.05),
    names.PSNR: 0.01,
    names.SSIM: 0.0005,
    **{names.lpips(network): 0.001 for network in names.LPIPS_NETWORKS},
}


def leaderboard(cfg: DictConfig) -> list[Row]:
    """Score as configured; add the rows to the table, or with `verify` compare them. Returns the table's rows.

    Raises UserError for settings without a column, for a table that can't be written or was measured on other images
    or LR, and if a row to be verified is not in the table or differs.
    """
    _check_columns(cfg)
    about = _remarks(cfg.about)
    if about and cfg.verify:
        raise UserError("about= has no effect with verify=true, which changes no row; leave it out")
    path = Path(cfg.table)
    _check_path(path, cfg.verify)
    named = OmegaConf.to_container(cfg.models) if OmegaConf.is_config(cfg.models) else cfg.models
    systems = ["bicubic", *(str(name).strip() for name in named)] if isinstance(named, dict) else []
    if systems and (unknown := sorted(set(about) - set(systems))):
        raise UserError(f"about: {', '.join(unknown)} is none of {', '.join(systems)}")
    if path.is_file():
        read(path)  # what is wrong in it is said before the work
    compared, benchmark, result = measure(cfg)
    if unknown := sorted(set(about) - set(result.labels.values())):
        raise UserError(f"about: {', '.join(unknown)} is none of {', '.join(result.labels.values())}")
    shared = dict(zip(MEASURED_ON, (str(len(benchmark)), benchmark.lr_from, result.hr_sha256), strict=True))
    new = [
        _row(method, benchmark, result.mean(name), about.get(method.label, "")) | shared
        for name, method in compared.items()
    ]
    if not cfg.verify:
        new = [row | _speed(method, benchmark) for row, method in zip(new, compared.values(), strict=True)]
    before = read(path) if path.is_file() else []  # only now, since others may have added rows meanwhile
    check_same(before, new, path)
    if cfg.verify:
        if wrong := differences(before, new):
            raise UserError(f"{path} differs from what was measured here:\n  " + "\n  ".join(wrong))
        if skipped := not_compared(before, new):
            log.warning("Not compared, since not measured here or not in the table: %s", ", ".join(skipped))
        log.info("%s: %d rows are as measured here%s", path, len(new), ", in all other columns" if skipped else "")
        return before
    rows = merged(before, new)
    for file, text in ((path, as_csv(rows)), (path.with_suffix(".md"), page(rows, path.name))):
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(file)  # whole or not at all
    if result.shown:
        here = {
            row["system"] for row in rows if (row["benchmark"], row["scale"]) == (benchmark.name, str(benchmark.scale))
        }
        folder = path.parent if here <= set(result.labels.values()) else Path(cfg.run_dir)  # not one of a few beside it
        name = re.sub(r"[/\\:]", "_", benchmark.name)
        picture = folder / f"{path.stem}_{name}_x{benchmark.scale}.jpg"
        comparison(result, cfg.details).save(picture, quality=88)
        log.info("Picture: %s", picture)
    log.info("Table:   %s, %s", path, path.with_suffix(".md"))
    return rows


def _check_columns(cfg: DictConfig) -> None:
    """Raise UserError if a protocol of the table is missing, or for a setting whose scores the table doesn't show."""
    if missing := [name for name in PROTOCOLS if name not in cfg.protocols]:
        raise UserError(f"the table has columns of {', '.join(missing)}, too; add them to protocols=")
    without = [f"protocols={name}" for name in cfg.protocols if name not in PROTOCOLS]
    without += [f"lpips={name}" for name in lpips_networks(cfg.lpips) if names.lpips(name) not in PERCEPTUAL]
    without += [f"{key}={cfg[key]}" for key in ("dists", "fid") if cfg[key]] + ["reference"] * bool(cfg.reference)
    if without:
        raise UserError(f"the table has no column for {', '.join(without)}; srgan.evaluate measures that")


def _remarks(about: object) -> dict[str, str]:
    """The remarks by system. Raises UserError if they aren't texts by name."""
    given = OmegaConf.to_container(about) if OmegaConf.is_config(about) else about or {}
    if not isinstance(given, dict) or any(isinstance(text, dict | list) for text in given.values()):
        raise UserError(f"about={given}: expected {{NAME: a remark on that system}}")
    return {str(name).strip(): "" if text is None else str(text) for name, text in given.items()}


def _check_path(path: Path, verify: bool) -> None:
    """Make the table's folder, unless it is to be verified. Raises UserError for a path that can't be a table."""
    if path.suffix != ".csv" or path.is_dir():
        raise UserError(f"table={path}: expected the path of a .csv file")
    if verify:
        if not path.is_file():
            raise UserError(f"table={path}: no such file; without verify=true it is made")
        return
    beside = path.with_suffix(".md")
    if beside.is_file() and not beside.read_text(encoding="utf-8", errors="replace").startswith(PAGE[:13]):
        raise UserError(f"table={path}: its page would replace {beside}, which is no leaderboard; take another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"table={path}: its folder can't be made ({error.strerror}); take another path") from error


def read(path: Path) -> list[Row]:
    """Read the rows of a table; one of before `MEASURED_ON` has nothing in these columns.

    Raises UserError, naming the line, if it doesn't fit `COLUMNS` or if rows of one benchmark and scale were measured
    on different images or LR.
    """
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        if list(reader.fieldnames or []) not in (COLUMNS, [name for name in COLUMNS if name not in MEASURED_ON]):
            raise UserError(f"{path}: expected the columns {','.join(COLUMNS)}")
        rows = [dict.fromkeys(MEASURED_ON, "") | row for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected CSV in UTF-8 ({error})") from error
    seen: dict[tuple[str, ...], int] = {}
    for line, row in enumerate(rows, start=2):
        key = tuple(row[column] for column in KEY)
        if not all(key) or None in row or None in row.values():
            raise UserError(f"{path}, line {line}: expected as many values as columns, the first three not empty")
        if key in seen:
            raise UserError(f"{path}, line {line}: {' '.join(key)} is there twice, also in line {seen[key]}")
        seen[key] = line
        if not row["scale"].isdecimal():
            raise UserError(f"{path}, line {line}: scale is {row['scale']!r}, expected a whole number")
        for column in (WEIGHTS, *FIGURES, SPEED):
            if not _is_number(row[column] or "0"):
                raise UserError(f"{path}, line {line}: {column} is {row[column]!r}, expected a number")
        check_same(rows[: line - 2], [row], path)
    return rows


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def merged(before: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """All rows, best LPIPS first. New rows replace those of the same system but keep its remark.

    They also keep figures that were not measured again, if the others agree. Raises UserError if they don't, and if
    bicubic differs, which depends on nothing but the images.
    """
    rows = {tuple(row[column] for column in KEY): row for row in before}
    for row in new:
        key = tuple(row[column] for column in KEY)
        known = rows.get(key, row)
        lacking = [column for column in FIGURES if known[column] and not row[column]]
        wrong = differences([known], [row])
        if wrong and row["system"] == "bicubic":
            same_hr = row["hr_sha256"] and row["hr_sha256"] == known["hr_sha256"]
            cause = "the same HR, so another LR or other weights of this metric" if same_hr else "other HR or LR"
            raise UserError(f"{wrong[0]}: {cause} than the table's; measure as it was, or name it by benchmark.name=")
        if wrong and not lacking and row["system"] != "bicubic":
            log.warning("Replaced, with other figures than before: %s", "; ".join(wrong[:3]))
        if wrong and lacking:
            raise UserError(f"{wrong[0]}: measure {', '.join(lacking)} again, too (the log says what that needs)")
        if lacking:
            log.info("%s: %s kept, not measured here", " ".join(key), ", ".join(lacking))
        rows[key] = row | {column: known[column] for column in lacking} | {ABOUT: row[ABOUT] or known[ABOUT]}
    return sorted(rows.values(), key=_order)


def check_same(before: Sequence[Row], new: Iterable[Row], path: Path) -> None:
    """Raise UserError if the table at `path` has rows of the same benchmark and scale from other images or LR."""
    for row, other in product(new, before):
        same = (row["benchmark"], row["scale"]) == (other["benchmark"], other["scale"])
        if same and any(row[name] and other[name] and row[name] != other[name] for name in MEASURED_ON):
            there, here = ("{images} images, LR {lr}, HR {hr_sha256:.8}".format(**each) for each in (other, row))
            raise UserError(
                f"{path}: {row['benchmark']} ×{row['scale']} was measured on {there} (SHA-256), this is {here};"
                " measure on the same, or name this one by benchmark.name="
            )


def not_compared(before: Iterable[Row], new: Iterable[Row]) -> list[str]:
    """The columns that can't be compared in some row, since the table or the measurement has nothing in them."""
    known = {tuple(row[column] for column in KEY): row for row in before}
    pairs = [(known[tuple(row[column] for column in KEY)], row) for row in new]
    blank = [c for c in (*MEASURED_ON, *FIGURES) if not all(stands[c] and row[c] for stands, row in pairs)]
    return blank + [WEIGHTS] * any(bool(stands[WEIGHTS]) != bool(row[WEIGHTS]) for stands, row in pairs)


def differences(before: Iterable[Row], new: Iterable[Row]) -> list[str]:
    """Describe where a table differs from new measurements. Speed, which depends on the machine, isn't compared."""
    known = {tuple(row[column] for column in KEY): row for row in before}
    wrong: list[str] = []
    for row in new:
        key = tuple(row[column] for column in KEY)
        if key not in known:
            wrong.append(f"{' '.join(key)}: not in the table")
            continue
        if not any(known[key][column] and row[column] for column in FIGURES):
            wrong.append(f"{' '.join(key)}: has no figure that was measured here")
        if known[key][WEIGHTS] and row[WEIGHTS] and float(known[key][WEIGHTS]) != float(row[WEIGHTS]):
            wrong.append(f"{' '.join(key)}: {WEIGHTS} {known[key][WEIGHTS]}, measured {row[WEIGHTS]}")
        for column in FIGURES:
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

All systems are scored alike, on the same LR, and sorted by LPIPS (alex), best first. PSNR / SSIM are given under three
protocols; [evaluate](evaluate.md) explains each figure. Don't trust LPIPS or NIQE alone: look at the pictures, too.
"Weights" is in millions. MP/s: megapixels of SR a second, measured when that row was last scored, so compare it only
roughly; "–" for ready-made pictures. Made by `python -m srgan.leaderboard` from `{table}`; don't edit it by hand.
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
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        parts.append(f"## {benchmark} ×{scale}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _order(row: Row) -> tuple[str, int, float, str]:
    lpips = row[names.lpips("alex")]
    return row["benchmark"], int(row["scale"]), float(lpips or "inf"), row["system"]


def _row(method: Method, benchmark: Benchmark, figures: Figures, about: str) -> Row:
    """One system's row, without its speed. Ready-made pictures have no number of weights."""
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
    return row


def _speed(method: Method, benchmark: Benchmark) -> Row:
    """The column of its speed, if it isn't ready-made pictures."""
    if not isinstance(method, Network | Foreign):
        return {}
    return {SPEED: f"{_megapixels_per_s(method, benchmark):.3g}"}


@torch.inference_mode()
@tf32(False)
def _megapixels_per_s(method: Method, benchmark: Benchmark) -> float:
    """SR megapixels per second on the benchmark's images, one by one, from host memory to host memory, in fp32."""
    images = [benchmark[index] for index in range(min(len(benchmark), 8))]
    method(images[0])  # the first call is slower
    start, pixels = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        for image in images:
            pixels += method(image).cpu()[0, 0].numel()
    return pixels / 1e6 / (time.perf_counter() - start)


def main() -> None:
    config.run(leaderboard, "leaderboard")


if __name__ == "__main__":
    main()
