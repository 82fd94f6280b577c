"""`python -m srgan.dashboard`: save a view of the W&B project: quality, balance of the GAN, samples, speed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import wandb

from srgan import cli
from srgan.errors import UserError
from srgan.metrics import names

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


class Panel(NamedTuple):
    """One panel of metrics: over the steps ("line"; "log" with a logarithmic y axis), one value per run, or pictures.

    A name ending in "/" stands for all metrics that begin with it, so losses that a user adds are shown.
    """

    title: str
    metrics: tuple[str, ...]
    kind: Literal["line", "log", "bar", "media"] = "line"


def _best(score: str) -> str:
    """W&B's name of the best value that a run reached in validation."""
    return f"{names.validation(score)}.{names.BEST[score]}"


COLUMNS = tuple(_best(score) for score in names.BEST)  # shown beside the runs' names, for sorting
LPIPS = tuple(map(names.lpips, names.LPIPS_NETWORKS))
ARTEFACTS = {
    names.NIQE: "NIQE",
    names.DISTS: "DISTS",
    names.GRID: "Grid (grey levels)",
    names.COLOUR: "Colour drift (grey levels)",
}


def _beside_bicubic(title: str, *scores: str) -> Panel:
    """A panel of scores over the steps, each with bicubic's."""
    return Panel(title, tuple(name(score) for score in scores for name in (names.validation, names.validation_bicubic)))


def _each(title: str, name: Callable[[str], str], *scores: str) -> Panel:
    """A panel with one value per run for each score."""
    return Panel(title, tuple(map(name, scores)), "bar")


SECTIONS = {
    "Quality": (  # by row: over the steps, less bicubic's, the best of each run, of the test images
        _beside_bicubic("PSNR (dB)", names.PSNR),
        _beside_bicubic("SSIM", names.SSIM),
        _beside_bicubic("LPIPS by network (lower is better)", *LPIPS),
        Panel("PSNR, gain over bicubic (dB)", (names.validation_gain(names.PSNR),)),
        Panel("SSIM, gain over bicubic", (names.validation_gain(names.SSIM),)),
        Panel("LPIPS less bicubic's (below 0 is better)", tuple(map(names.validation_gain, LPIPS))),
        _each("Best PSNR (dB)", _best, names.PSNR),
        _each("Best SSIM", _best, names.SSIM),
        _each("Best LPIPS by network", _best, *LPIPS),
        _each("Test PSNR (dB)", names.test, names.PSNR),
        _each("Test SSIM", names.test, names.SSIM),
        _each("Test LPIPS by network", names.test, *LPIPS),
    ),
    "Perception and artefacts": tuple(  # lower is better; by row: over the steps, less bicubic's, by run
        panel
        for score, title in ARTEFACTS.items()
        for panel in (
            _beside_bicubic(title, score),
            Panel(f"{title}, less bicubic's", (names.validation_gain(score),)),
            Panel(f"{title}: best, test", (_best(score), names.test(score)), "bar"),
        )
    ),
    "Balance": (
        Panel("Discriminator: accuracy", (names.DISCRIMINATOR_ACCURACY,)),
        Panel("Discriminator: mean logit of HR and of SR", (names.REAL_LOGIT, names.FAKE_LOGIT)),
        Panel("Discriminator: gap between the two", (names.LOGIT_GAP,)),
        Panel("Discriminator: loss and penalty", (names.DISCRIMINATOR_LOSS, names.DISCRIMINATOR_PENALTY)),
        Panel("Content to adversarial gradient at SR", (names.CONTENT_TO_ADVERSARIAL,), "log"),
        Panel("Weights of losses that move", (names.WEIGHT_PREFIX,), "log"),
        Panel("Gradient norm at the SR image, by loss", (names.GRADIENT_AT_SR_PREFIX,), "log"),
        Panel("Gradient norm, by network", (names.GENERATOR_GRADIENT, names.DISCRIMINATOR_GRADIENT), "log"),
        Panel("Generator: loss, weighted sum", (names.TOTAL_LOSS,), "log"),
        Panel("Generator: losses, unweighted", (names.LOSS_PREFIX,), "log"),
    ),
    "Samples": (
        Panel("Validation: LR, bicubic, SR, HR", (names.SAMPLES,), "media"),
        Panel("Test: LR, bicubic, each phase, HR", (names.TEST_PICTURES,), "media"),
    ),
    "Speed": (
        Panel("Images a second", (names.IMAGES_PER_S,)),
        Panel("Peak memory (MiB)", (names.PEAK_MIB,)),
        Panel("Learning rate", (names.LEARNING_RATE,), "log"),
    ),
}


def workspace(project: str, entity: str, name: str) -> "Workspace":
    """Build the view from W&B's objects, without sending it. Raises UserError if the extra `dashboard` is missing."""
    try:
        from wandb_workspaces import workspaces as ws
        from wandb_workspaces.reports import v2 as wr
    except ImportError as error:
        raise UserError(f"{error}; pip install 'srgan[dashboard]'") from error

    def build(panel: Panel) -> Any:
        if panel.kind == "bar":
            return wr.BarPlot(title=panel.title, metrics=[*panel.metrics])
        if panel.kind == "media":
            return wr.MediaBrowser(title=panel.title, media_keys=[*panel.metrics])
        prefix = panel.metrics[0] if panel.metrics[0].endswith("/") else None
        return wr.LinePlot(
            title=panel.title,
            x=names.STEP,
            y=[] if prefix else [*panel.metrics],
            metric_regex=f"^{prefix}" if prefix else None,
            log_y=panel.kind == "log",
        )

    def section(title: str, panels: tuple[Panel, ...]) -> ws.Section:
        columns = min(3, len(panels))
        return ws.Section(
            name=title,
            panels=[build(panel) for panel in panels],
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns)),
            panel_settings=ws.SectionPanelSettings(x_axis=names.STEP),
        )

    try:
        return ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=[section(title, panels) for title, panels in SECTIONS.items()],
            settings=ws.WorkspaceSettings(x_axis=names.STEP),
            runset_settings=ws.RunsetSettings(
                # Grouped only by group, a panel would draw one mean line per sweep, and one for all other runs.
                groupby=[ws.Metric("Group"), ws.Metric("Name")],
                pinned_columns=[f"summary:{column}" for column in COLUMNS],
            ),
        )
    except ValueError as error:  # emoji in the name, for example
        raise UserError(f"W&B doesn't accept this view: {_line(error)}") from error


def describe(view: "Workspace") -> str:
    """Describe what saving the view would send, from W&B's objects; a metric with ^ is a regular expression."""
    runs = view.runset_settings
    lines = [
        f"View {view.name!r} of project {'/'.join(filter(None, (view.entity, view.project)))}",
        f"x axis: {view.settings.x_axis}",
        f"runs grouped by: {', then '.join(group.name for group in runs.groupby)}",
        f"columns: {', '.join(runs.pinned_columns)}",
    ]
    for section in view.sections:
        lines.append(f"\n{section.name}")
        for panel in section.panels:
            fields = vars(panel)
            listed = next(fields[name] for name in ("y", "metrics", "media_keys") if name in fields)
            shown = fields.get("metric_regex") or ", ".join(listed)
            lines.append(f"  {type(panel).__name__:<13} {fields['title']:<43} {shown}")
    return "\n".join(lines)


def save(view: "Workspace") -> str:
    """Save a view as a new one, of the default entity if it names none. Returns its URL.

    Raises UserError with W&B's reason.
    """
    from srgan.training.loggers import logged_in  # imports Lightning, which takes seconds

    if not logged_in():
        raise UserError("this machine is not logged in to W&B: run `wandb login` or set WANDB_API_KEY")
    try:
        if not view.entity:
            api = wandb.Api()
            view.entity = api.settings["entity"] or api.default_entity or ""
        view.save()
        return str(view.url)
    except Exception as error:  # W&B's client may raise anything
        where = "/".join(filter(None, (view.entity, view.project)))
        raise UserError(
            f"W&B did not save the view of {where}: {_line(error)}. --entity names the user or team of the project,"
            " which its first run with logger=wandb makes"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def main(arguments: Sequence[str] | None = None) -> None:
    parser = cli.new_parser(
        "dashboard",
        "Save a view of a W&B project: quality beside bicubic's, balance of the GAN, samples and speed, with the runs"
        " of a sweep together. Each call makes a new view; earlier ones stay. Needs pip install 'srgan[dashboard]'.",
        "--project srgan",
    )
    parser.add_argument("--project", default="srgan", help="where the runs are (default: %(default)s)")
    parser.add_argument("--entity", default="", help="user or team that the project belongs to (default: W&B's)")
    parser.add_argument("--name", default="SRGAN", help="the view's title (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print sections, panels and metrics; send nothing")
    given = parser.parse_args(arguments)

    def work() -> None:
        view = workspace(given.project, given.entity, given.name)
        print(describe(view) if given.dry_run else save(view))

    cli.run(work)


if __name__ == "__main__":
    main()
