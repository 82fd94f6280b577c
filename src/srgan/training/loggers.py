"""Loggers: Weights & Biases, online or offline, with metrics that a dashboard can sort by."""

import logging
import netrc
import os
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from srgan.metrics import names

log = logging.getLogger(__name__)

OFFLINE = ("offline", "dryrun")  # values of WANDB_MODE
SUMMARIES = {names.validation(score): best for score, best in names.BEST.items()}
SUMMARIES[names.validation_gain(names.PSNR)] = "max"


def wandb_logger(project: str, save_dir: str, name: str | None, group: str | None) -> WandbLogger:
    """Make a WandbLogger: online where this machine is logged in, else offline, which one line of the log says.

    Scores are defined metrics: their best value is the run's summary (`val/psnr.max`, `val/lpips_alex.min`).
    WANDB_MODE decides if it is set.
    """
    chosen = os.environ.get("WANDB_MODE")
    mode = chosen or ("online" if logged_in() else "offline")
    title = name[:128] if name else None  # W&B takes no more
    logger = WandbLogger(project=project, save_dir=save_dir, name=title, group=group, offline=mode in OFFLINE)
    run = logger.experiment
    if chosen is None:
        os.environ.pop("WANDB_MODE", None)  # Lightning sets it; the next run of a sweep decides for itself
    for metric, best in SUMMARIES.items():
        run.define_metric(metric, step_metric=names.STEP, summary=f"{best},last")
    if mode in OFFLINE and cast(Any, rank_zero_only).rank == 0:
        reason = "not logged in (wandb login)" if chosen is None else f"WANDB_MODE={chosen}"
        log.info("W&B: offline, %s. To upload this run later: wandb sync %s", reason, Path(run.dir).parent)
    return logger


def logged_in() -> bool:
    """True if W&B finds a key: in the environment, or for its server in a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    chosen = os.environ.get("WANDB_BASE_URL")
    servers = [chosen] if chosen else [wandb.Settings().base_url, "https://api.wandb.ai"]  # W&B's default may move
    hosts = [urlparse(server).netloc for server in servers]
    candidates = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for path in (Path(candidate).expanduser() for candidate in candidates):
        try:
            if path.is_file() and any(map(netrc.netrc(path).authenticators, hosts)):
                return True
        except (netrc.NetrcParseError, OSError) as error:
            log.warning("W&B: %s is not readable (%s)", path, error)
    return False
