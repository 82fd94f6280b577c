"""The saved W&B view: every panel shows what runs log, and what is sent is what was meant."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import wandb
from omegaconf import DictConfig

from srgan import config, dashboard
from srgan.metrics.lpips import weights_file
from test_train_command import read_wandb

PANELS = [panel for panels in dashboard.SECTIONS.values() for panel in panels]
SHOWN = {metric for panel in PANELS for metric in panel.metrics}
LEFT_OUT = {"trainer/global_step", "val/psnr_gain.max"}  # the x axis; as good as val/psnr.max


@pytest.fixture
def workspaces() -> ModuleType:
    """wandb_workspaces.workspaces; importorskip ignores the warnings that pydantic gives at its import."""
    return pytest.importorskip("wandb_workspaces.workspaces", reason="needs pip install 'srgan[dashboard]'")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a connection nor a process of wandb's own can be made."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"reached out: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.fixture
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


@pytest.fixture
def command(
    logged_out: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """command("--option", …): `python -m srgan.dashboard` in this process; its exit code, stdout and stderr."""

    def do(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dashboard", *arguments])
        code = 0
        try:
            dashboard.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return do


class Server:
    """In the place of wandb.Api: remembers what it is sent, or fails."""

    app_url = "https://wandb.example"

    def __init__(self, failure: Exception | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.failure = failure

    def api(self) -> SimpleNamespace:
        return SimpleNamespace(settings={"entity": None}, default_entity="somebody", _service_api=self)

    def execute_graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if self.failure is not None:
            raise self.failure
        self.sent.append(variables)
        return {"upsertView": {"view": {"name": variables["name"], "id": "1"}}}


# --- the panels against what runs log ---------------------------------------------------------------------------------


def logged(file: Path) -> set[str]:
    """The names under which W&B knows what an offline run holds; of a picture its key, of a best value `name.max`."""
    records = read_wandb(file)
    history = {name for row in records["history"] for name in row if not name.startswith("_")}
    media = {name.removesuffix("/filenames") for name in history if name.endswith("/filenames")}
    series = {name for name in history if not any(name.startswith(f"{key}/") for key in media)}
    summary = {name: value for name, value in records["summary"].items() if not name.startswith("_")}
    single = {name for name, value in summary.items() if not isinstance(value, dict)}
    best = {f"{name}.{kind}" for name, value in summary.items() for kind in ("max", "min") if kind in as_dict(value)}
    return series | media | single | best


def as_dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@pytest.mark.slow
def test_the_panels_show_what_runs_log_and_nothing_else(tmp_path: Path, tiny: list[str]) -> None:
    torch_home = Path(__file__).parents[2] / "shared" / "weights" / "torch_home"
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    measured = weights_file("squeeze").is_file()
    if torch_home.is_dir():
        environment["TORCH_HOME"] = str(torch_home)
        measured = True
    losses = "loss=srgan_vgg54,srgan_vgg22_l1,srresnet_vgg22,srgan_vgg"  # between them every loss
    arguments = [*tiny, "logger=wandb", "lpips=squeeze", "vgg_weights=random", "trainer.max_steps=4"]
    command = [sys.executable, "-m", "srgan.train", "-m", *arguments, losses, "trainer.val_check_interval=1.0"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    files = [*tmp_path.glob("outputs/sweeps/*/*/wandb/offline-run-*/run-*.wandb")]
    assert len(files) == 4
    names = set[str]().union(*map(logged, files))
    expected = SHOWN if measured else {name for name in SHOWN if "lpips" not in name}
    assert names - LEFT_OUT == expected
    assert names >= LEFT_OUT, "the list of what is left out is out of date"


def test_every_configured_loss_is_in_the_panels(compose_config: Callable[..., DictConfig]) -> None:
    names: set[str] = set()
    for path in (config.CONF / "loss").glob("*.yaml"):
        mixes = compose_config(f"loss={path.stem}").loss.values()
        names |= {str(name) for mix in mixes if mix is not None for name in mix.weights}
    assert names == set(dashboard.LOSSES)


def test_no_metric_is_shown_twice() -> None:
    assert len(SHOWN) == sum(len(panel.metrics) for panel in PANELS)


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_all_and_reaches_out_to_nobody(
    workspaces: ModuleType, offline: None, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, stdout, stderr = command("--dry-run", "--project", "faces", "--entity", "team", "--name", "Faces")
    assert (code, stderr) == (0, "")
    assert "'Faces' of project team/faces" in stdout
    assert "x axis: trainer/global_step" in stdout and "grouped by: Group, then Name" in stdout
    assert [line for line in stdout.splitlines() if line in dashboard.SECTIONS] == list(dashboard.SECTIONS)
    rows = [re.split(" {2,}", line)[2:] for line in stdout.splitlines() if line.startswith("  ")]
    assert rows == [[panel.title, ", ".join(panel.metrics)] for panel in PANELS]


def test_what_is_saved_is_what_is_meant(
    workspaces: ModuleType, offline: None, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    monkeypatch.setattr(wandb, "Api", server.api)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    code, stdout, stderr = command("--project", "faces")
    assert code == 0, stderr
    (sent,) = server.sent
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("somebody", "faces", "SRGAN")
    assert stdout.startswith("https://wandb.example/somebody/faces?nw=")

    spec = json.loads(sent["spec"])["section"]
    assert spec["settings"]["xAxis"] == "trainer/global_step" and spec["settings"]["xAxisActive"]
    (runs,) = spec["runSets"]
    assert runs["grouping"] == [{"section": "run", "name": "group"}, {"section": "run", "name": "displayName"}]
    assert {"summary:val/psnr.max", "summary:val/lpips.min"} < set(runs["runFeed"]["columnPinned"])
    sections = spec["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == list(dashboard.SECTIONS)
    for section, panels in zip(sections, dashboard.SECTIONS.values(), strict=True):
        layout = section["flowConfig"]
        assert layout["columnsPerPage"] * layout["rowsPerPage"] >= len(panels)
        for found, panel in zip(section["panels"], panels, strict=True):
            shown = found["config"]
            assert shown["chartTitle"] == panel.title
            assert tuple(shown["mediaKeys" if panel.kind == "media" else "metrics"]) == panel.metrics
            assert shown.get("xAxis") == (dashboard.X_AXIS if panel.kind in ("line", "log") else None)
            assert shown.get("yLogScale", False) == (panel.kind == "log")


def test_without_a_login_one_line_says_what_to_do(
    workspaces: ModuleType, offline: None, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, stdout, stderr = command()
    assert (code, stdout) == (1, "")
    assert len(stderr.splitlines()) == 1 and "wandb login" in stderr and "WANDB_API_KEY" in stderr


def test_a_failure_of_the_server_is_one_line(
    workspaces: ModuleType, offline: None, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb, "Api", Server(RuntimeError("no such\nproject.")).api)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    code, stdout, stderr = command("--project", "faces")
    assert (code, stdout) == (1, "")
    assert len(stderr.splitlines()) == 1 and "somebody/faces: no such project. " in stderr


def test_a_name_that_wandb_refuses_is_one_line(
    workspaces: ModuleType, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, stderr = command("--name", "\N{ROCKET}", "--dry-run")
    assert code == 1
    assert len(stderr.splitlines()) == 1 and "Emojis are not allowed" in stderr


def test_without_the_extra_one_line_says_how_to_install_it(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    code, stdout, stderr = command("--dry-run")
    assert (code, stdout) == (1, "")
    assert len(stderr.splitlines()) == 1 and "pip install 'srgan[dashboard]'" in stderr
