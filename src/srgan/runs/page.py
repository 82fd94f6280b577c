"""The report on runs: one self-contained HTML page with tables, curves and pictures."""

import base64
import io
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from plotly.offline import get_plotlyjs

from srgan.metrics import names
from srgan.runs.compare import Configuration, common_choices, common_config, configurations, short_names
from srgan.runs.read import BICUBIC, PROTOCOL, UNKNOWN, Curve, Run, Scores

DASH = "–"
LONGEST_WEBP = 16383  # pixels of a side
COLOURS = ("#1f77d0", "#e8710a", "#2a9d4a", "#d0383f", "#8a63d2", "#a0694f", "#d6569e", "#7f8a1f", "#12a3b4", "#8c8c8c")
STROKES = ("solid", "dash", "dot", "dashdot")  # line styles of curves once the colours are used up
SYMBOLS = {BICUBIC: "x", "content": "circle", "gan": "diamond"}
CURVE_POINTS = 1000
PERCEPTUAL = {  # scores that no protocol defines, with their formats; shown if any run has them
    **{names.lpips(net): ".4f" for net in names.LPIPS_NETWORKS},
    names.DISTS: ".4f",
    names.NIQE: ".2f",
    names.GRID: ".2f",
    names.COLOUR: ".2f",
}
PLANE = [score for score in PERCEPTUAL if score not in (names.GRID, names.COLOUR)]  # plotted over PSNR
CURVES = {  # shown first, in this order; other logged values follow
    names.validation(names.PSNR): f"Validation PSNR, dB ({PROTOCOL})",
    names.validation_gain(names.PSNR): "Validation PSNR above bicubic, dB",
    names.validation(names.SSIM): f"Validation SSIM ({PROTOCOL})",
    **{names.validation(score): f"Validation {names.TITLES[score]} (lower is better)" for score in PERCEPTUAL},
    names.TOTAL_LOSS: "Training loss",
    names.DISCRIMINATOR_ACCURACY: "Discriminator accuracy",
    names.REAL_LOGIT: "Discriminator's logit of real images",
    names.FAKE_LOGIT: "Discriminator's logit of generated images",
    names.LEARNING_RATE: "Learning rate",
    names.IMAGES_PER_S: "Training speed, images/s",
    names.PEAK_MIB: "Peak memory, MiB",
}
_CONSTANT = {names.validation_bicubic(score) for score in names.BEST}  # constant over the steps, so not plotted
_ORIGINS = {"started": "Started", "git_commit": "Commit", "accelerator": "Device", "precision": "Precision"}


@dataclass(frozen=True)
class Figure:
    """A numeric column: heading, meaning, format, and functions for the value of a run and of bicubic."""

    name: str
    meaning: str
    pattern: str
    of_run: Callable[[Run], float | None]
    of_bicubic: Callable[[Scores], float | None] = lambda scores: None
    optional: bool = False  # omitted if no row has it


def _score(score: str, meaning: str, pattern: str, optional: bool = False) -> Figure:
    return Figure(
        names.TITLES[score],
        meaning,
        pattern,
        lambda run: getattr(run.result, score, None),
        lambda scores: getattr(scores, score),
        optional,
    )


FIGURES = (
    _score(names.PSNR, f"dB, protocol {PROTOCOL}", ".2f"),
    _score(names.SSIM, f"protocol {PROTOCOL}", ".4f"),
    *(_score(score, "lower is better", pattern, optional=True) for score, pattern in PERCEPTUAL.items()),
    Figure("gain", "PSNR above bicubic's, dB", "+.2f", lambda run: run.gain),
    _score(names.LR_PSNR, "of the result brought down to LR, dB", ".2f"),
    Figure("img/s", "median training speed in the last phase, images/s", ",.1f", lambda run: run.images_per_s),
    Figure("MiB", "peak memory in training", ",.0f", lambda run: run.peak_mib),
)


@dataclass(frozen=True)
class Cell:
    """A table cell: its text and its sort key; None for a missing value, which sorts last."""

    text: str
    sort: float | str | None = None
    colour: str = ""
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Headings with their meanings, and rows with one cell per heading."""

    headings: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]

    def is_numeric(self, column: int) -> bool:
        """True if a column holds only numbers or missing values; False for the first, which names the row."""
        return column > 0 and not any(isinstance(row[column].sort, str) for row in self.rows)


def page(runs: Sequence[Run], title: str, images: int | None = None) -> str:
    """Build the report on `runs` as self-contained HTML with at most `images` sample images; None for all."""
    groups = configurations(runs)
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.jinja")
    charts = {"curves": curves_chart(groups), "plane": plane_chart(groups)}
    values = {key: list(dict.fromkeys(run.value(key) for run in runs)) for key in [*groups[0].values, "seed"]}
    return template.render(
        title=title,
        statuses=Counter(run.status for run in runs),
        runs=runs,
        varied={key: texts for key, texts in values.items() if len({*texts} - {UNKNOWN}) > 1},
        chosen=common_choices(runs),
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
    """Dates, versions and machines of the runs, from run.json; each value once."""
    origins: dict[str, list[str]] = {}
    for key, name in _ORIGINS.items():
        values = sorted({str(run.made_with[key]) for run in runs if run.made_with.get(key)})
        if key == "started":
            values = [value[:16].replace("T", " ") for value in dict.fromkeys([*values[:1], *values[-1:]])]
        if values:
            origins[name] = [value[:12] if key == "git_commit" else value for value in values]
    return origins


def _coloured(groups: Sequence[Configuration]) -> Iterator[tuple[Configuration, str, str]]:
    """Each configuration with its colour and line style."""
    for index, group in enumerate(groups):
        turn, colour = divmod(index, len(COLOURS))
        yield group, COLOURS[colour], STROKES[turn % len(STROKES)]


# --- tables -----------------------------------------------------------------------------------------------------------


def configurations_table(groups: Sequence[Configuration]) -> Table:
    """Rows: bicubic on each benchmark, then each configuration as mean ± deviation over its complete runs."""
    keys = short_names(groups[0].values)
    headings = [("model", "that of the last phase"), *((name, key) for key, name in keys.items())]
    shown = _shown(groups)
    headings += [("runs", "complete ones"), *((figure.name, figure.meaning) for figure in shown)]
    baselines = _baselines(groups)
    several = len({baseline.benchmark for baseline in baselines}) > 1
    rows: list[list[Cell]] = []
    for baseline in baselines:
        name = Cell(f"{BICUBIC}, {baseline.benchmark}" if several else BICUBIC, BICUBIC)
        settings = [_text_cell(baseline.common(key)) for key in keys]
        figures = [_figure_cell(figure.of_bicubic(baseline.scores), figure.pattern) for figure in shown]
        rows.append([name, *settings, Cell(DASH), *figures])
    for group, colour, _ in _coloured(groups):
        complete = group.complete
        model = next((run.model for run in complete), "")
        unfinished = sum(not run.complete for run in group.runs)
        count = str(len(complete)) + (f" of {len(complete) + unfinished}" if unfinished else "")
        seeds = "seeds " + ", ".join(run.value("seed") for run in complete)
        settings = [_text_cell(value) for value in group.values.values()]
        figures = [_mean_cell(group.mean(figure.of_run), figure.pattern) for figure in shown]
        rows.append(
            [Cell(model or DASH, model or None, colour), *settings, Cell(count, len(complete), title=seeds), *figures]
        )
    return Table(headings, rows)


def _shown(groups: Sequence[Configuration]) -> list[Figure]:
    """The columns to show: those that aren't optional and those that any run has."""
    runs = [run for group in groups for run in group.runs]
    return [figure for figure in FIGURES if not figure.optional or any(figure.of_run(run) is not None for run in runs)]


def _known(scores: Scores) -> dict[str, float]:
    """The scores that were measured, by name."""
    return {name: value for name, value in vars(scores).items() if value is not None}


@dataclass(frozen=True)
class Baseline:
    """Bicubic's mean scores on the images and LR that some runs were scored on."""

    runs: Sequence[Run]
    scores: Scores

    @property
    def benchmark(self) -> str:
        return self.runs[0].benchmark

    @property
    def scale(self) -> str:
        return self.runs[0].scale

    def common(self, key: str) -> str:
        """The value of a setting of images or LR that all these runs share; empty for other settings."""
        values = {run.value(key) for run in self.runs if key.split(".")[0] in ("data", "degradation", "scale")}
        return values.pop() if len(values) == 1 else ""


def _baselines(groups: Sequence[Configuration]) -> list[Baseline]:
    """Bicubic's mean scores on each scale and benchmark, each once."""
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in (run for group in groups for run in group.runs):
        if BICUBIC in run.models:
            key = (run.scale, run.benchmark, run.hr_sha256, f"{run.models[BICUBIC].mean.psnr:.4f}")
            found.setdefault(key, []).append(run)
    baselines: list[Baseline] = []
    for runs in found.values():
        known: dict[str, float] = {}
        for run in reversed(runs):  # not all runs measured all scores
            known |= _known(run.models[BICUBIC].mean)
        baselines.append(Baseline(runs, Scores(**known)))
    return baselines


def runs_table(groups: Sequence[Configuration], runs: Sequence[Run]) -> Table:
    """Rows: every run with its seed, status, steps and figures."""
    keys = short_names(groups[0].values)
    headings = [("run", "its folder"), *((name, key) for key, name in keys.items()), ("seed", ""), ("status", "")]
    shown = _shown(groups)
    headings += [("steps", "done of those planned"), *((figure.name, figure.meaning) for figure in shown)]
    colours = {run.folder: colour for group, colour, _ in _coloured(groups) for run in group.runs}
    rows: list[list[Cell]] = []
    for run in runs:
        planned = f"{sum(run.steps.values()):,}" if run.steps else "?"
        number = float(run.label) if run.label.isdecimal() else run.label
        rows.append(
            [
                Cell(run.label, number, colours[run.folder], str(run.folder)),
                *(_text_cell(run.value(key)) for key in (*keys, "seed")),
                Cell(run.status, run.status),
                Cell(f"{run.steps_done:,} of {planned}", run.steps_done),
                *(_figure_cell(figure.of_run(run), figure.pattern) for figure in shown),
            ]
        )
    return Table(headings, rows)


def _text_cell(text: str) -> Cell:
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text or DASH, None if text in ("", UNKNOWN) else text)


def _figure_cell(value: float | None, pattern: str) -> Cell:
    return Cell(DASH) if value is None else Cell(format(value, pattern), value)


def _mean_cell(mean: tuple[float, float | None] | None, pattern: str) -> Cell:
    if mean is None or mean[1] is None:
        return _figure_cell(mean[0] if mean else None, pattern)
    return Cell(f"{mean[0]:{pattern}} ± {mean[1]:{pattern.lstrip('+')}}", mean[0])


# --- charts -----------------------------------------------------------------------------------------------------------


def curves_chart(groups: Sequence[Configuration]) -> dict[str, Any] | None:
    """Plotly traces, one per run and metric, and the metrics to choose from; None if nothing was logged."""
    logged = {name for group in groups for run in group.runs for name in run.curves} - _CONSTANT
    metrics = [name for name in CURVES if name in logged] + sorted(logged - {*CURVES})
    traces = [
        _curve(name, run, group, colour, stroke)
        for name in metrics
        for group, colour, stroke in _coloured(groups)
        for run in group.runs
        if name in run.curves
    ]
    on_log_axis = {names.TOTAL_LOSS} - {trace["meta"] for trace in traces if min(trace["y"]) <= 0}
    choice = [{"name": name, "title": CURVES.get(name, name), "log": name in on_log_axis} for name in metrics]
    return {"traces": traces, "metrics": choice} if traces else None


def _curve(metric: str, run: Run, group: Configuration, colour: str, stroke: str) -> dict[str, Any]:
    curve = _thinned(run.curves[metric])
    return go.Scatter(
        meta=metric,
        mode="lines" if len(curve) > 1 else "markers",
        x=[step for step, _ in curve],
        y=[float(f"{value:.6g}") for _, value in curve],
        name=_literal(f"run {run.label}, seed {run.value('seed')}"),
        line={"color": colour, "dash": stroke, "width": 1.5},
        **_legend_group(group),
    ).to_plotly_json()


def _thinned(curve: Curve) -> Curve:
    """Thin a curve to at most CURVE_POINTS points at even intervals, including the last."""
    return curve[:: -max(1, -(-len(curve) // CURVE_POINTS))][::-1]


def plane_chart(groups: Sequence[Configuration]) -> dict[str, Any] | None:
    """Plotly traces of perceptual scores over PSNR, one per score, configuration and model, and the scores' names.

    None if none was measured.
    """
    bicubic = [(_literal(f"bicubic ×{base.scale}, {base.benchmark}"), base.scores) for base in _baselines(groups)]
    traces = [_points(BICUBIC, "#8c8c8c", bicubic, measure) for measure in PLANE]
    for group, colour, _ in _coloured(groups):
        for model in dict.fromkeys(name for run in group.runs for name in run.models if name != BICUBIC):
            scored: list[tuple[str, Scores]] = []
            for run in (run for run in group.runs if model in run.models):
                lines = (f"run {run.label}: {model}", f"{group.label}, seed {run.value('seed')}")
                scored.append(("<br>".join(map(_literal, lines)), run.models[model].mean))
            traces += [_points(model, colour, scored, measure) | _legend_group(group) for measure in PLANE]
    traces = [trace for trace in traces if trace["x"]]
    measured = [measure for measure in PLANE if any(trace["meta"] == measure for trace in traces)]
    choice = [{"name": measure, "title": names.TITLES[measure]} for measure in measured]
    return {"traces": traces, "measures": choice} if traces else None


def _points(model: str, colour: str, scored: Sequence[tuple[str, Scores]], measure: str) -> dict[str, Any]:
    shown = [(text, scores, getattr(scores, measure)) for text, scores in scored]
    shown = [(text, scores, value) for text, scores, value in shown if None not in (scores.psnr, value)]
    value_text = f"{names.TITLES[measure]} %{{y:{PERCEPTUAL[measure]}}}"
    return go.Scatter(
        meta=measure,
        mode="markers",
        name=_literal(model),
        x=[scores.psnr for _, scores, _ in shown],
        y=[value for _, _, value in shown],
        text=[text for text, _, _ in shown],
        hovertemplate=f"%{{text}}<br>PSNR %{{x:.2f}} dB, {value_text}<extra></extra>",
        marker={"color": colour, "symbol": SYMBOLS.get(model, "square"), "size": 11},
    ).to_plotly_json()


def _legend_group(group: Configuration) -> dict[str, Any]:
    lines = [_literal(line) for line in textwrap.wrap(group.label, 36)]
    return {"legendgroup": " ".join(lines), "legendgrouptitle": {"text": "<br>".join(lines)}}


def _literal(text: str) -> str:
    """Escape a text for plotly, which interprets some HTML."""
    return escape(text, quote=False)


# --- pictures ---------------------------------------------------------------------------------------------------------

File = tuple[str, int, int]  # a picture as data URI, width, height


def sample_pictures(groups: Sequence[Configuration], limit: int | None = None) -> dict[str, Any] | None:
    """The slider's data: names of images, sources (methods with pictures), and `files`, each (URI, width, height).

    A source has, by image name, an index into `files` and the image's scores, and a factor for enlarging. `left` and
    `right` are the sources shown first. None if no run left pictures.
    """
    runs = [(run, group) for group in groups for run in group.runs if run.pictures]
    images = sorted({image for run, _ in runs for paths in run.pictures.values() for image in paths})[:limit]
    files: dict[File, int] = {}
    encode = cache(_file)  # cached, since many runs have the same HR and LR
    measured = {
        score: pattern
        for score, pattern in PERCEPTUAL.items()
        if any(getattr(result.mean, score) is not None for run, _ in runs for result in run.models.values())
    }
    patterns = {names.PSNR: ".2f", names.SSIM: ".4f"} | measured
    several_scales = len({run.scale for run, _ in runs}) > 1
    several_benchmarks = len({run.benchmark for run, _ in runs}) > 1
    sources: list[dict[str, Any]] = []
    for model, label in (("hr", "HR"), (BICUBIC, BICUBIC), ("lr", "LR")):
        for run, _ in runs:
            scale = f" ×{run.scale}" if several_scales else ""
            benchmark = f", {run.benchmark}" if several_benchmarks else ""
            source = _source(run, model, label + scale + benchmark, images, encode, files, patterns)
            same = next((other for other in sources if source["pictures"] == other["pictures"]), None)
            if same is not None:  # what one run hasn't measured another may have
                same["figures"] = {
                    name: [
                        old if old != DASH else new for old, new in zip(figures, source["figures"][name], strict=True)
                    ]
                    for name, figures in same["figures"].items()
                }
            elif source["pictures"]:
                sources.append(source)
    several_runs = sum(len(group.runs) for group in groups) > 1
    for run, group in runs:
        for model in (name for name in run.pictures if name not in ("hr", BICUBIC, "lr")):
            seed = f" seed={run.value('seed')}" if len(group.runs) > 1 else ""
            settings = f" · {group.label}{seed}" if several_runs else ""
            source = _source(run, model, f"{run.label} · {model}{settings}", images, encode, files, patterns)
            sources += [source] if source["pictures"] else []
    if not sources:
        return None
    return {
        "images": [name for name in images if any(name in source["pictures"] for source in sources)],
        "sources": sources,
        "files": [*files],
        "figures": [names.TITLES[score] for score in patterns],
        "left": _opposite(sources),
        "right": len(sources) - 1,
    }


def _source(
    run: Run,
    model: str,
    label: str,
    images: Sequence[str],
    encode: Callable[[bytes], File | None],
    files: dict[File, int],
    patterns: Mapping[str, str],
) -> dict[str, Any]:
    paths = run.pictures.get(model, {})
    embedded = {name: encode(paths[name].read_bytes()) for name in images if name in paths}
    scores = run.models[model].images if model in run.models else {}
    return {
        "label": label,
        "model": model,
        "scale": run.scale,
        "factor": int(run.scale) if model == "lr" and run.scale.isdecimal() else 1,
        "pictures": {name: files.setdefault(file, len(files)) for name, file in embedded.items() if file},
        "figures": {name: _image_figures(scores.get(name, Scores()), patterns) for name in images},
    }


def _opposite(sources: Sequence[dict[str, Any]]) -> int:
    """The index of the bicubic pictures that belong to the last source; 0 if there are none."""
    scale = sources[-1]["scale"]
    alike = (index for index, other in enumerate(sources) if (other["model"], other["scale"]) == (BICUBIC, scale))
    return next(alike, 0)


def _image_figures(scores: Scores, patterns: Mapping[str, str]) -> list[str]:
    return [_figure_cell(getattr(scores, score), pattern).text for score, pattern in patterns.items()]


def _file(png: bytes) -> File | None:
    """A picture as data URI, width and height: lossless WebP or the file itself, if smaller. None if unreadable."""
    try:
        with Image.open(io.BytesIO(png)) as image:
            width, height = image.size
            image.load()
            webp = io.BytesIO()
            if image.mode == "RGB" and max(image.size) <= LONGEST_WEBP:
                image.save(webp, "WEBP", lossless=True)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    kind, data = ("webp", webp.getvalue()) if 0 < len(webp.getvalue()) < len(png) else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height
