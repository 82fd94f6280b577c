"""Loggers: metrics.csv, and Weights & Biases, online or offline, with metrics that a dashboard can sort by."""

import csv
import io
import logging
import netrc
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from ssl import SSLError
from threading import Thread
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import urlopen

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from wandb.errors import CommError, UsageError

from srgan.errors import UserError
from srgan.metrics import names
from srgan.runs import record

log = logging.getLogger(__name__)

OFFLINE = ("offline", "dryrun")  # values of WANDB_MODE
PATIENCE = 5  # seconds that a server has to answer
SUMMARIES = {names.validation(score): best for score, best in names.BEST.items()}
SUMMARIES[names.validation_gain(names.PSNR)] = "max"


Row = Mapping[str, Any]


class CSVLogger(Logger):
    """Writes logged values to metrics.csv row by row; new values add columns.

    An existing file is continued. Rows that can't be written are kept and written later; one warning says so.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / record.CURVES
        self._columns: list[str] | None = None  # columns of the file; None: not read yet
        self._pending: list[Row] = []
        self._failing = False

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: they are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._pending.append({**metrics, "step": step})
        self.save()

    @rank_zero_only
    def save(self) -> None:
        if not self._pending:
            return
        try:
            self._write()
        except OSError as error:
            if not self._failing:
                log.warning("%s can't be written (%s); its rows are kept until it can", self.path, error.strerror)
            self._failing = True
        else:
            self._pending.clear()
            self._failing = False

    def _write(self) -> None:
        there = self.path.is_file()
        if self._columns is None or not there:
            self._columns = read_rows(self.path)[0] if there else []
        columns = sorted({*self._columns}.union(*self._pending))
        if columns != self._columns:
            write_rows(self.path, columns, [*(read_rows(self.path)[1] if there else []), *self._pending])
            self._columns = columns
            return
        text = io.StringIO(newline="")
        csv.DictWriter(text, columns).writerows(self._pending)
        size = self.path.stat().st_size
        try:
            with self.path.open("ab") as file:
                file.write(text.getvalue().encode())
        except OSError:
            os.truncate(self.path, size)  # removes a half-written row
            raise


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """The columns and the rows of a metrics.csv, without a last line that was cut off."""
    text = path.read_text(encoding="utf-8")
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return list(reader.fieldnames or []), list(reader)


def write_rows(path: Path, columns: list[str], rows: list[Row]) -> None:
    """Write a new metrics.csv, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def continue_curves(source: Path, target: Path, keep: Callable[[int, bool], bool]) -> None:
    """Start the metrics.csv at `target` with those rows of `source` for which `keep(step, is_validation)` is true."""
    if not source.is_file():
        return

    def kept(row: Row) -> bool:
        step = str(row.get("step") or "")
        validation = any(value and name.startswith(names.VALIDATION_PREFIX) for name, value in row.items() if name)
        return step.isdecimal() and keep(int(step), validation)

    columns, rows = read_rows(source)
    write_rows(target, columns, [row for row in rows if None not in row and kept(row)])


def wandb_logger(
    project: str,
    save_dir: str,
    name: str | None,
    group: str | None,
    entity: str | None,
    tags: Sequence[str] | None,
    id: str | None,  # noqa: A002 -- W&B's word
    resume: str | None,
) -> WandbLogger:
    """Make a WandbLogger: online if this machine is logged in and reaches the server, otherwise offline.

    If it is offline, one line of the log says why. WANDB_MODE, if set, decides, but even then an unreachable server
    means offline. Scores are defined as metrics whose best value is in the run's summary (`val/psnr.max`,
    `val/lpips_alex.min`). The arguments are those of `wandb.init`. Raises UserError for those that don't go together.

    The run's id is stored in its folder, `save_dir`, so that a run resumed there is the same run on W&B.
    """
    kept = Path(save_dir) / record.WANDB_ID
    if id is None and kept.is_file():
        id = kept.read_text(encoding="utf-8").strip()  # noqa: A001
    server = _settings().base_url  # in any mode, since what is wrong in the settings shows here
    chosen = os.environ.get("WANDB_MODE")
    mode = chosen or ("online" if logged_in() else "offline")
    reason = "not logged in (wandb login)" if chosen is None else f"WANDB_MODE={chosen}"
    if mode == "online" and (fault := unreachable(server)):
        mode, reason = "offline", fault
    options = {"entity": entity, "tags": None if tags is None else list(tags), "id": id, "resume": resume}
    options |= {"name": name[:128] if name else None, "group": group}  # W&B's limit
    try:
        logger = _started(offline=mode in OFFLINE, project=project, save_dir=save_dir, **options)
    except (UsageError, ValueError) as error:  # ValueError of pydantic, such as for WANDB_MODE=off
        raise UserError(f"logger.wandb: {_one_line(error)}") from error
    except CommError as error:  # the server doesn't know the key, or breaks off
        mode, reason = "offline", _one_line(error)
        logger = _started(offline=True, project=project, save_dir=save_dir, **options)
    os.environ.pop("WANDB_MODE", None)  # Lightning sets it, but the next run of a sweep must decide for itself
    if chosen is not None:
        os.environ["WANDB_MODE"] = chosen
    run = logger.experiment
    if cast(Any, rank_zero_only).rank == 0:
        kept.write_text(f"{run.id}\n", encoding="utf-8")
    for metric, best in SUMMARIES.items():
        run.define_metric(metric, step_metric=names.STEP, summary=f"{best},last")
    if mode in OFFLINE and cast(Any, rank_zero_only).rank == 0:
        own = Path(run.dir).parent
        parts = sorted({own, *own.parent.glob(f"offline-run-*-{run.id}")})  # a resumed run has several
        log.info("W&B: offline, %s. To upload this run later: wandb sync %s", reason, shlex.join(map(str, parts)))
    return logger


def _settings() -> wandb.Settings:
    """W&B's settings from the environment and its file of settings."""
    settings = wandb.Settings()
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    settings.settings_system = str(folder / "settings")
    try:
        settings.update_from_system_settings()
        settings.update_from_env_vars(dict(os.environ))
    except (ValueError, UsageError) as error:  # a name that isn't known, an address or a key that is none
        raise UserError(f"W&B: a setting in WANDB_… is wrong: {_one_line(error)}") from error
    return settings


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _started(offline: bool, **options: Any) -> WandbLogger:
    """A WandbLogger whose run has begun."""
    mode = {"mode": "offline"} if offline else {}  # otherwise W&B may use the mode of an earlier run in this process
    logger = WandbLogger(offline=offline, **mode, **options)
    _ = logger.experiment
    return logger


def unreachable(server: str) -> str | None:
    """Why a server doesn't answer within `PATIENCE` seconds; None if it does. Uses the environment's proxies.

    W&B itself would try for minutes.
    """
    faults = [f"no answer from {server} in {PATIENCE} s"]

    def ask() -> None:
        try:
            urlopen(server, timeout=PATIENCE).close()
        except HTTPError as error:  # this is an answer too, unless a proxy gives it for a server that is down
            faults[0] = f"{server} answers {error.code} ({error.reason})" if error.code >= 500 else ""
        except OSError as error:
            cause = getattr(error, "reason", error)
            faults[0] = "" if isinstance(cause, SSLError) else f"no answer from {server} ({cause})"
        except ValueError as error:
            faults[0] = f"WANDB_BASE_URL={server} is no address ({error})"
        else:
            faults[0] = ""

    thread = Thread(target=ask, daemon=True)  # since looking up a name has no timeout
    thread.start()
    thread.join(PATIENCE + 1)
    return faults[0] or None


def logged_in() -> bool:
    """True if W&B finds a key: in the environment, or for its server in a netrc file or in W&B's settings."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = _settings()
    if settings.api_key:
        return True
    defaults = [wandb.Settings().base_url, "https://api.wandb.ai"]  # the default may move
    servers = [settings.base_url, *(defaults if settings.base_url in defaults else [])]
    hosts = [urlparse(server).netloc for server in servers]
    candidates = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for path in (Path(candidate).expanduser() for candidate in candidates):
        try:
            if path.is_file() and any(map(netrc.netrc(path).authenticators, hosts)):
                return True
        except (netrc.NetrcParseError, OSError) as error:
            log.warning("W&B: %s is not readable (%s)", path, error)
    return False
