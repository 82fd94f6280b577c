"""The scores as a text table: a row per method, a column per score, headed by the protocol's name."""

from collections.abc import Mapping, Sequence
from typing import Any

from srgan.evaluation.score import Evaluation, Seeds
from srgan.metrics import names
from srgan.metrics.scores import Figures

FOUR_DIGITS = (names.SSIM, names.DISTS, *map(names.lpips, names.LPIPS_NETWORKS))
DIGITS = dict.fromkeys(names.TITLES, 2) | dict.fromkeys(FOUR_DIGITS, 4) | {names.PSNR: 3}

Reference = Mapping[str, Any]  # the content of a file in conf/reference
Column = tuple[str, str]  # (protocol or "", figure)


def table(evaluation: Evaluation, seeds: Sequence[Seeds] = (), reference: Reference | None = None) -> str:
    """Lay out the methods, then mean ± standard deviation over seeds, then the reference's rows under its protocol."""
    means = {name: evaluation.mean(name) for name in evaluation.figures}
    columns = _columns(next(iter(means.values())))
    rows = [
        [evaluation.labels[name], *(_text(figures, column) for column in columns)] for name, figures in means.items()
    ]
    for group in seeds:
        rows.append([f"{group.label} ({len(group.models)} seeds)", *(_seeds_text(group, column) for column in columns)])
    if reference is not None:
        protocol = reference["protocol"]
        for name, (psnr, ssim) in rows_of(reference, evaluation).items():
            printed = {(protocol, names.PSNR): f"{psnr:.2f}", (protocol, names.SSIM): f"{ssim:.4f}"}
            rows.append([f"{name} ({reference['title']})", *(printed.get(column, "") for column in columns)])
    heads = [["", *(protocol for protocol, _ in columns)], ["", *(names.TITLES[figure] for _, figure in columns)]]
    return _aligned([*heads, *rows])


def rows_of(reference: Reference, evaluation: Evaluation) -> dict[str, list[float]]:
    """The reference's [PSNR, SSIM] by method for this benchmark; empty if it lacks the benchmark or the scale."""
    tables = {str(name).lower(): rows for name, rows in reference["tables"].items()}
    return dict(tables.get(evaluation.benchmark.lower(), {})) if reference["scale"] == evaluation.scale else {}


def _columns(figures: Figures) -> list[Column]:
    columns: list[Column] = []
    for key, value in figures.items():
        columns += [(key, figure) for figure in value] if isinstance(value, Mapping) else [("", key)]
    return columns


def _value(figures: Figures, column: Column) -> float | None:
    protocol, figure = column
    return figures[protocol][figure] if protocol else figures[figure]


def _text(figures: Figures, column: Column) -> str:
    value = _value(figures, column)
    return "–" if value is None else f"{value:.{DIGITS[column[1]]}f}"


def _seeds_text(group: Seeds, column: Column) -> str:
    if _value(group.std, column) is None:
        return "–"
    return f"{_text(group.mean, column)} ± {_text(group.std, column)}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)
