"""`python -m srgan.dashboard`: save a view of the W&B project: quality, balance of the GAN, samples, speed."""

import argparse
import sys
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import wandb

from srgan.errors import UserError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


class Panel(NamedTuple):
    """Metrics in one panel: over the steps ("line", "log" with a logarithmic y axis), of each run, or pictures."""

    title: str
    metrics: tuple[str, ...]
    kind: Literal["line", "log", "bar", "media"] = "line"


X_AXIS = "trainer/global_step"  # a batch is one step, in the generator's and the discriminator's counts alike
COLUMNS = ("val/psnr.max", "val/ssim.max", "val/lpips.min")  # beside the runs' names, to sort by
LOSSES = ("mse", "l1", "vgg", "grid", "vgg22", "vgg54", "total_variation", "adversarial")

SECTIONS = {
    "Quality": (  # by row: over the steps, less bicubic's, the best of each run, of the test images
        Panel("PSNR (dB)", ("val/psnr", "val/psnr_bicubic")),
        Panel("SSIM", ("val/ssim", "val/ssim_bicubic")),
        Panel("LPIPS (lower is better)", ("val/lpips", "val/lpips_bicubic")),
        Panel("PSNR, gain over bicubic (dB)", ("val/psnr_gain",)),
        Panel("SSIM, gain over bicubic", ("val/ssim_gain",)),
        Panel("LPIPS less bicubic's (below 0 is better)", ("val/lpips_gain",)),
        Panel("Best PSNR (dB)", ("val/psnr.max",), "bar"),
        Panel("Best SSIM", ("val/ssim.max",), "bar"),
        Panel("Best LPIPS", ("val/lpips.min",), "bar"),
        Panel("Test PSNR (dB)", ("test/psnr",), "bar"),
        Panel("Test SSIM", ("test/ssim",), "bar"),
        Panel("Test LPIPS", ("test/lpips",), "bar"),
    ),
    "Balance": (
        Panel("Discriminator: accuracy", ("train/d_accuracy",)),
        Panel("Discriminator: mean logit of HR and of SR", ("train/d_real", "train/d_fake")),
        Panel("Discriminator: loss", ("train/discriminator",)),
        Panel("Gradient norm at the SR image, by loss", tuple(f"grad_at_sr/{name}" for name in LOSSES), "log"),
        Panel("Gradient norm, by network", ("grad_norm/generator", "grad_norm/discriminator"), "log"),
        Panel("Generator: loss, weighted sum", ("train/loss",), "log"),
        Panel("Generator: losses, unweighted", tuple(f"train/{name}" for name in LOSSES), "log"),
    ),
    "Samples": (
        Panel("Validation: LR, bicubic, SR, HR", ("samples",), "media"),
        Panel("Test: LR, bicubic, each phase, HR", ("test",), "media"),
    ),
    "Speed": (
        Panel("Images a second", ("train/images_per_s",)),
        Panel("Peak memory (MiB)", ("train/peak_mib",)),
        Panel("Learning rate", ("train/learning_rate",), "log"),
    ),
}


def workspace(project: str, entity: str, name: str) -> "Workspace":
    """The view as W&B's objects, on this machine only. Raises UserError without the extra `dashboard`."""
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
        return wr.LinePlot(title=panel.title, x=X_AXIS, y=[*panel.metrics], log_y=panel.kind == "log")

    def section(title: str, panels: tuple[Panel, ...]) -> ws.Section:
        columns = min(3, len(panels))
        return ws.Section(
            name=title,
            panels=[build(panel) for panel in panels],
            is_open=True,
            layout_settings=ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns)),
            panel_settings=ws.SectionPanelSettings(x_axis=X_AXIS),
        )

    try:
        return ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=[section(title, panels) for title, panels in SECTIONS.items()],
            settings=ws.WorkspaceSettings(x_axis=X_AXIS),
            runset_settings=ws.RunsetSettings(
                # By group alone a panel would draw one mean line for a sweep, and one for all runs outside of sweeps.
                groupby=[ws.Metric("Group"), ws.Metric("Name")],
                pinned_columns=[f"summary:{column}" for column in COLUMNS],
            ),
        )
    except ValueError as error:  # emoji in the name, for example
        raise UserError(f"W&B takes no such view: {_line(error)}") from error


def describe(view: "Workspace") -> str:
    """What saving it would send, read from W&B's objects."""
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
            of = vars(panel)
            metrics = next(of[field] for field in ("y", "metrics", "media_keys") if field in of)
            lines.append(f"  {type(panel).__name__:<13} {of['title']:<43} {', '.join(metrics)}")
    return "\n".join(lines)


def save(view: "Workspace") -> str:
    """Save it as a new view, of the default entity if it names none; its URL. Raises UserError with W&B's reason."""
    from srgan.training.loggers import logged_in  # brings Lightning, which takes seconds

    if not logged_in():
        raise UserError("this machine is not logged in to W&B: run `wandb login` or set WANDB_API_KEY")
    try:
        if not view.entity:
            api = wandb.Api()
            view.entity = api.settings["entity"] or api.default_entity or ""
        view.save()
        return str(view.url)
    except Exception as error:  # whatever the transport of the day raises
        where = "/".join(filter(None, (view.entity, view.project)))
        raise UserError(
            f"W&B did not save the view of {where}: {_line(error)}. --entity names the user or team of the project,"
            " which its first run with logger=wandb makes"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m srgan.dashboard",
        description="Save a view of a W&B project: quality beside bicubic's, balance of the GAN, samples and speed,"
        " with the runs of a sweep together. Each call makes a new view; earlier ones stay."
        " Needs pip install 'srgan[dashboard]'.",
    )
    parser.add_argument("--project", default="srgan", help="where the runs are (default: %(default)s)")
    parser.add_argument("--entity", default="", help="user or team that the project belongs to (default: W&B's)")
    parser.add_argument("--name", default="SRGAN", help="the view's title (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print sections, panels and metrics; send nothing")
    given = parser.parse_args()
    try:
        view = workspace(given.project, given.entity, given.name)
        print(describe(view) if given.dry_run else save(view))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
