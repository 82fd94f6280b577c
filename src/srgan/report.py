"""`python -m srgan.report FOLDER …`: one HTML page about a sweep or a run, readable without a network."""

import argparse
import base64
import hashlib
import io
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from plotly.offline import get_plotlyjs

from srgan.errors import UserError
from srgan.runs.read import (
    BICUBIC,
    PROTOCOL,
    Configuration,
    Curve,
    Run,
    Scores,
    common_config,
    configurations,
    find,
    fixed_overrides,
    short_names,
    varied_keys,
)

DASH = "–"
COLOURS = ("#1f77d0", "#e8710a", "#2a9d4a", "#d0383f", "#8a63d2", "#a0694f", "#d6569e", "#7f8a1f", "#12a3b4", "#8c8c8c")
STROKES = ("solid", "dash", "dot", "dashdot")  # of the curves, once the colours are used up
SYMBOLS = {BICUBIC: "x", "content": "circle", "gan": "diamond"}
CURVE_POINTS = 1000
CURVES = {  # these first, in this order; then what else was logged
    "val/psnr": f"Validation PSNR, dB ({PROTOCOL})",
    "val/psnr_gain": "Validation PSNR above bicubic, dB",
    "val/ssim": f"Validation SSIM ({PROTOCOL})",
    "val/lpips": "Validation LPIPS (lower is better)",
    "train/loss": "Training loss",
    "train/d_accuracy": "Discriminator accuracy",
    "train/d_real": "Discriminator's logit of real images",
    "train/d_fake": "Discriminator's logit of generated images",
    "train/learning_rate": "Learning rate",
    "train/images_per_s": "Training speed, images/s",
    "train/peak_mib": "Peak memory, MiB",
}


@dataclass(frozen=True)
class Figure:
    """A column of figures: its heading, what it means, its format, its value for a run."""

    name: str
    meaning: str
    pattern: str
    of: Callable[[Run], float | None]


def _of_result(name: str) -> Callable[[Run], float | None]:
    return lambda run: getattr(run.result, name, None)


FIGURES = (
    Figure("PSNR", f"dB, protocol {PROTOCOL}", ".2f", _of_result("psnr")),
    Figure("SSIM", f"protocol {PROTOCOL}", ".4f", _of_result("ssim")),
    Figure("LPIPS", "lower is better", ".4f", _of_result("lpips")),
    Figure("gain", "PSNR above bicubic's, dB", "+.2f", lambda run: run.gain),
    Figure("LR PSNR", "of the result brought down to LR, dB", ".2f", _of_result("lr_psnr")),
    Figure("img/s", "median training speed in the last phase, images/s", ",.1f", lambda run: run.images_per_s),
    Figure("MiB", "peak memory in training", ",.0f", lambda run: run.peak_mib),
)


@dataclass(frozen=True)
class Cell:
    """Of a table: its text, and what it is sorted by; nothing of a missing value, which sorts last."""

    text: str
    sort: float | str | None = None
    colour: str = ""
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Headings with what they mean, and rows of as many cells."""

    headings: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]

    def is_numeric(self, column: int) -> bool:
        """Whether the column holds numbers, and nothing else but missing ones; the first column names the row."""
        values = [row[column].sort for row in self.rows]
        return column > 0 and not any(isinstance(value, str) for value in values)


def page(runs: Sequence[Run], title: str, images: int | None = None) -> str:
    """The report on `runs` as HTML that loads nothing; of at most `images` sample images where given."""
    varied = varied_keys(runs)
    groups = configurations(runs, varied)
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.jinja")
    charts = {"curves": curves_chart(groups), "plane": plane_chart(groups)}
    return template.render(
        title=title,
        statuses=Counter(run.status for run in runs),
        runs=runs,
        varied={key: list(dict.fromkeys(run.value(key) for run in runs)) for key in varied},
        fixed=fixed_overrides(runs),
        config=yaml.safe_dump(common_config(runs), sort_keys=False, allow_unicode=True),
        origins=_origins(runs),
        configurations=configurations_table(groups),
        runs_table=runs_table(groups, runs),
        notes=[run for run in runs if run.note or run.status != "finished"],
        protocol=PROTOCOL,
        charts=charts,
        pictures=sample_pictures(groups, images),
        plotly_js=get_plotlyjs() if any(charts.values()) else "",
    )


def _origins(runs: Sequence[Run]) -> dict[str, list[str]]:
    """When and with what the runs were made, by run.json; each value once."""
    named = {"started": "Started", "git_commit": "Commit", "accelerator": "Device", "precision": "Precision"}
    origins: dict[str, list[str]] = {}
    for key, name in named.items():
        values = sorted({str(run.record[key]) for run in runs if run.record.get(key)})
        if key == "started":
            values = [value[:16].replace("T", " ") for value in dict.fromkeys([*values[:1], *values[-1:]])]
        if values:
            origins[name] = [value[:12] if key == "git_commit" else value for value in values]
    return origins


def _coloured(groups: Sequence[Configuration]) -> Iterator[tuple[Configuration, str, str]]:
    """Each configuration with its colour and its stroke."""
    for index, group in enumerate(groups):
        turn, colour = divmod(index, len(COLOURS))
        yield group, COLOURS[colour], STROKES[turn % len(STROKES)]


def configurations_table(groups: Sequence[Configuration]) -> Table:
    """Bicubic on each benchmark, then each configuration: mean ± deviation over its complete runs."""
    keys = list(groups[0].values)
    names = short_names(keys)
    headings = [("model", "that of the last phase"), *((names[key], key) for key in keys), ("runs", "complete ones")]
    headings += [(figure.name, figure.meaning) for figure in FIGURES]
    baselines = _baselines(groups)
    several = len({benchmark for _, benchmark, _ in baselines}) > 1
    rows: list[list[Cell]] = []
    for scale, benchmark, scores in baselines:
        known = {"PSNR": scores.psnr, "SSIM": scores.ssim, "LPIPS": scores.lpips, "LR PSNR": scores.lr_psnr}
        rows.append(
            [
                Cell(f"{BICUBIC}, {benchmark}" if several else BICUBIC, BICUBIC),
                *(_text_cell(scale if key == "scale" else "") for key in keys),
                Cell(DASH),
                *(_figure_cell(known.get(figure.name), figure.pattern) for figure in FIGURES),
            ]
        )
    for group, colour, _ in _coloured(groups):
        complete = [run for run in group.runs if run.complete]
        count = str(len(complete)) + ("" if len(complete) == len(group.runs) else f" of {len(group.runs)}")
        model = next((run.model for run in complete), "")
        rows.append(
            [
                Cell(model or DASH, model or None, colour),
                *(_text_cell(value) for value in group.values.values()),
                Cell(count, len(complete), title="seeds " + ", ".join(run.value("seed") for run in complete)),
                *(_mean_cell(group.mean(figure.of), figure.pattern) for figure in FIGURES),
            ]
        )
    return Table(headings, rows)


def _baselines(groups: Sequence[Configuration]) -> list[tuple[str, str, Scores]]:
    """(scale, benchmark, bicubic's mean scores), each once."""
    found: dict[tuple[str, str, str], Scores] = {}
    for run in (run for group in groups for run in group.runs):
        if BICUBIC in run.models:
            scores = run.models[BICUBIC].mean
            found.setdefault((run.scale, run.benchmark, f"{scores.psnr:.4f}"), scores)
    return [(scale, benchmark, scores) for (scale, benchmark, _), scores in found.items()]


def runs_table(groups: Sequence[Configuration], runs: Sequence[Run]) -> Table:
    """Every run with its seed, status, steps and figures."""
    keys = list(groups[0].values)
    names = short_names(keys)
    headings = [("run", "its folder"), *((names[key], key) for key in keys), ("seed", ""), ("status", "")]
    headings += [("steps", "done of those planned"), *((figure.name, figure.meaning) for figure in FIGURES)]
    colours = {run.folder: colour for group, colour, _ in _coloured(groups) for run in group.runs}
    rows: list[list[Cell]] = []
    for run in runs:
        planned = f"{sum(run.steps.values()):,}" if run.steps else "?"
        number = float(run.label) if run.label.isdecimal() else run.label
        rows.append(
            [
                Cell(run.label, number, colours[run.folder], str(run.folder)),
                *(_text_cell(run.value(key)) for key in keys),
                _text_cell(run.value("seed")),
                Cell(run.status, run.status),
                Cell(f"{run.steps_done:,} of {planned}", run.steps_done),
                *(_figure_cell(figure.of(run), figure.pattern) for figure in FIGURES),
            ]
        )
    return Table(headings, rows)


def _text_cell(text: str) -> Cell:
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text or DASH, text or None)


def _figure_cell(value: float | None, pattern: str) -> Cell:
    return Cell(DASH) if value is None else Cell(format(value, pattern), value)


def _mean_cell(mean: tuple[float, float | None] | None, pattern: str) -> Cell:
    if mean is None or mean[1] is None:
        return _figure_cell(mean[0] if mean else None, pattern)
    return Cell(f"{mean[0]:{pattern}} ± {mean[1]:{pattern.lstrip('+')}}", mean[0])


def curves_chart(groups: Sequence[Configuration]) -> dict[str, Any] | None:
    """Traces for plotly, one for each run and metric, and the metrics to choose from; None if nothing was logged."""
    runs = [run for group in groups for run in group.runs]
    logged = sorted({name for run in runs for name in run.curves if not name.endswith("_bicubic")})
    names = [name for name in CURVES if name in logged] + [name for name in logged if name not in CURVES]
    traces: list[dict[str, Any]] = []
    for name in names:
        for group, colour, stroke in _coloured(groups):
            for run in (run for run in group.runs if name in run.curves):
                curve = _thinned(run.curves[name])
                traces.append(
                    {
                        "type": "scatter",
                        "mode": "lines" if len(curve) > 1 else "markers",
                        "meta": name,
                        "x": [step for step, _ in curve],
                        "y": [float(f"{value:.6g}") for _, value in curve],
                        "name": escape(f"run {run.label}, seed {run.value('seed')}", quote=False),
                        "line": {"color": colour, "dash": stroke, "width": 1.5},
                        **_legend_group(group),
                    }
                )
    metrics = [
        {
            "name": name,
            "title": CURVES.get(name, name),
            "log": name == "train/loss" and all(min(trace["y"]) > 0 for trace in traces if trace["meta"] == name),
        }
        for name in names
    ]
    return {"traces": traces, "metrics": metrics} if traces else None


def _thinned(curve: Curve) -> Curve:
    """At most CURVE_POINTS of its points, evenly, the last one among them."""
    return curve[:: -max(1, -(-len(curve) // CURVE_POINTS))][::-1]


def _legend_group(group: Configuration) -> dict[str, Any]:
    lines = [escape(line, quote=False) for line in textwrap.wrap(group.label, 36)]
    return {"legendgroup": " ".join(lines), "legendgrouptitle": {"text": "<br>".join(lines)}}


def plane_chart(groups: Sequence[Configuration]) -> dict[str, Any] | None:
    """Traces for plotly, one for each configuration and model, LPIPS over PSNR; None if no LPIPS was measured."""
    traces = [
        _points(
            BICUBIC,
            "#8c8c8c",
            [(f"bicubic ×{scale}, {benchmark}", scores) for scale, benchmark, scores in _baselines(groups)],
        )
    ]
    for group, colour, _ in _coloured(groups):
        for model in dict.fromkeys(name for run in group.runs for name in run.models if name != BICUBIC):
            scored = [
                (f"run {run.label}: {model}<br>{group.label}, seed {run.value('seed')}", run.models[model].mean)
                for run in group.runs
                if model in run.models
            ]
            traces.append(_points(model, colour, scored) | _legend_group(group))
    traces = [trace for trace in traces if trace["x"]]
    return {"traces": traces} if traces else None


def _points(model: str, colour: str, scored: Sequence[tuple[str, Scores]]) -> dict[str, Any]:
    shown = [(text, scores) for text, scores in scored if scores.psnr is not None and scores.lpips is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": escape(model, quote=False),
        "x": [scores.psnr for _, scores in shown],
        "y": [scores.lpips for _, scores in shown],
        "text": ["<br>".join(escape(line, quote=False) for line in text.split("<br>")) for text, _ in shown],
        "hovertemplate": "%{text}<br>PSNR %{x:.2f} dB, LPIPS %{y:.4f}<extra></extra>",
        "marker": {"color": colour, "symbol": SYMBOLS.get(model, "square"), "size": 11},
    }


def sample_pictures(groups: Sequence[Configuration], limit: int | None = None) -> dict[str, Any] | None:
    """What the slider shows: image names, sources (who made pictures of them), each picture once: URI, width, height.

    A source gives its pictures by image name as indices into `files`, the factor they are to be enlarged by, and
    each image's figures. `left` and `right` are the two sources to begin with. None if no run left pictures.
    """
    runs = [(run, group) for group in groups for run in group.runs]
    names = sorted({image for run, _ in runs for images in run.pictures.values() for image in images})[:limit]
    files: list[tuple[str, int, int]] = []
    known: dict[bytes, int | None] = {}

    def embedded(path: Path) -> int | None:
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        if digest not in known:
            file = _file(data)
            known[digest] = len(files) if file else None
            files.extend([file] if file else [])
        return known[digest]

    def source(run: Run, model: str, label: str) -> dict[str, Any]:
        paths = run.pictures.get(model, {})
        pictures = {name: embedded(paths[name]) for name in names if name in paths}
        scores = run.models[model].images if model in run.models else {}
        return {
            "label": label,
            "model": model,
            "scale": run.scale,
            "factor": int(run.scale) if model == "lr" and run.scale.isdecimal() else 1,
            "pictures": {name: file for name, file in pictures.items() if file is not None},
            "figures": {name: _image_figures(scores.get(name, Scores())) for name in names},
        }

    sources: list[dict[str, Any]] = []
    scales, benchmarks = ({getattr(run, name) for run, _ in runs if run.pictures} for name in ("scale", "benchmark"))
    for model, label in (("hr", "HR"), (BICUBIC, BICUBIC), ("lr", "LR")):
        for run, _ in runs:
            scale = f" ×{run.scale}" if len(scales) > 1 else ""
            benchmark = f", {run.benchmark}" if len(benchmarks) > 1 else ""
            new = source(run, model, label + scale + benchmark)
            if new["pictures"] and all(new["pictures"] != old["pictures"] for old in sources):
                sources.append(new)
    for run, group in runs:
        for model in (name for name in run.pictures if name not in ("hr", BICUBIC, "lr")):
            seed = f" seed={run.value('seed')}" if len(group.runs) > 1 else ""
            settings = f" · {group.label}{seed}" if len(runs) > 1 else ""
            new = source(run, model, f"{run.label} · {model}{settings}")
            sources += [new] if new["pictures"] else []
    if not sources:
        return None
    names = [name for name in names if any(name in old["pictures"] for old in sources)]
    right = sources[-1]
    same = [index for index, old in enumerate(sources) if old["model"] == BICUBIC and old["scale"] == right["scale"]]
    left = same[0] if same else 0
    return {"images": names, "sources": sources, "files": files, "left": left, "right": len(sources) - 1}


def _image_figures(scores: Scores) -> list[str]:
    figures = ((scores.psnr, ".2f"), (scores.ssim, ".4f"), (scores.lpips, ".4f"))
    return [_figure_cell(value, pattern).text for value, pattern in figures]


def _file(png: bytes) -> tuple[str, int, int] | None:
    """A picture as data URI, width and height: lossless WebP or as it is, whichever is smaller; None if unreadable."""
    try:
        with Image.open(io.BytesIO(png)) as image:
            width, height = image.size
            image.load()
            webp = io.BytesIO()
            if image.mode == "RGB":
                image.save(webp, "WEBP", lossless=True)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    kind, data = ("webp", webp.getvalue()) if 0 < len(webp.getvalue()) < len(png) else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}" if folder.name.isdecimal() else folder.name


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m srgan.report",
        description="Make one HTML page about the runs of a sweep: tables over seeds, learning curves, perception "
        "against distortion, sample pictures to compare. The page is self-contained: it loads nothing.",
        epilog="Example: python -m srgan.report outputs/sweeps/2026-01-31_12-00-00",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="of a sweep (outputs/sweeps/TIME), of a run (outputs/NAME/TIME), or any whose subfolders are runs",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: report.html in the first FOLDER")
    parser.add_argument("--images", type=int, metavar="N", help="embed at most N sample images (default: all)")
    options = parser.parse_args(arguments)
    folders: list[Path] = options.folders
    output: Path = options.output or folders[0] / "report.html"
    try:
        html = page(find(folders), ", ".join(_name(folder.resolve()) for folder in folders), options.images)
        try:
            output.write_text(html, encoding="utf-8", errors="backslashreplace")  # names of files may be any bytes
        except OSError as error:
            raise UserError(f"{output}: can't be written ({error.strerror}); name another file by -o FILE") from error
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(output)


if __name__ == "__main__":
    main()
