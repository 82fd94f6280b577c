"""`python -m srgan.dashboard`: save a view of the W&B project: quality, balance of the GAN, samples, speed."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import wandb

from srgan import cli
from srgan.errors import UserError
from srgan.metrics import names

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


class Panel(NamedTuple):
    """Metrics in one panel: over the steps ("line", "log" with a logarithmic y axis), of each run, or pictures.

    A name that ends in "/" stands for all metrics that begin with it, whatever runs call them.
    """

    title: str
    metrics: tuple[str, ...]
    kind: Literal["line", "log", "bar", "media"] = "line"

    @property
    def pattern(self) -> str | None:
        """The regular expression of the metrics that share a beginning; None if they are listed."""
        return f"^{re.escape(self.metrics[0])}" if self.metrics[0].endswith("/") else None


BEST = {score: f"{names.validation(score)}.{best}" for score, best in names.BEST.items()}  # of each run
COLUMNS = tuple(BEST.values())  # beside the runs' names, to sort by
TITLES = {names.PSNR: "PSNR", names.SSIM: "SSIM", names.LPIPS: "LPIPS"}
UNITS = {names.PSNR: " (dB)", names.SSIM: "", names.LPIPS: ""}
GAINS = {
    names.PSNR: "PSNR, gain over bicubic (dB)",
    names.SSIM: "SSIM, gain over bicubic",
    names.LPIPS: "LPIPS less bicubic's (below 0 is better)",
}
