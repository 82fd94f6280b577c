"""The saved W&B view: every panel shows what runs log, and what is sent is what was meant."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import wandb
from omegaconf import DictConfig

from srgan import dashboard
from srgan.metrics import names, networks
from srgan.train import train
from test_train_command import read_wandb

PANELS = [panel for panels in dashboard.SECTIONS.values() for panel in panels]
SHOWN = [metric for panel in PANELS for metric in panel.metrics]
LEFT_OUT = {names.STEP, "val/psnr_gain.max"}  # the x axis; as good as val/psnr.max

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """command("--option", …): the exit code, stdout and stderr, logged out and without any connection."""
    pytest.importorskip("wandb_workspaces.workspaces", reason="needs pip install 'srgan[dashboard]'")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for place, name in ((socket.socket, "connect"), (subprocess, "Popen")):
        monkeypatch.setattr(place, name, Mock(side_effect=AssertionError("reached out")))

    def do(*arguments: str) -> tuple[int, str, str]:
        try:
            dashboard.main(arguments)
        except SystemExit as end:
            return int(end.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    return do


@pytest.fixture
def server(command: Command, monkeypatch: pytest.MonkeyPatch) -> Mock:
    """W&B's server, which takes any view; the command is logged in to it."""
    mock = Mock(app_url="https://wandb.example")
    mock.execute_graphql.return_value = {"upsertView": {"view": {"name": "nw-x", "id": "1"}}}
    api = SimpleNamespace(settings={"entity": None}, default_entity="somebody", _service_api=mock)
    monkeypatch.setattr(wandb, "Api", lambda: api)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    return mock


def logged(file: Path) -> set[str]:
    """The names under which W&B knows what an offline run holds; of a picture its key, of a best value `name.max`."""
    records = read_wandb(file)
    history, summary = {name for row in records["history"] for name in row}, records["summary"]
    media = {name.removesuffix("/filenames") for name in history if name.endswith("/filenames")}
    of_media = {name for name in history if name.rpartition("/")[0] in media}
    dicts = {name: value for name, value in summary.items() if isinstance(value, dict)}
    best = {f"{name}.{part}" for name, value in dicts.items() for part in ("max", "min") if part in value}
    return {name for name in (history | {*summary} | best | media) - of_media if not name.startswith("_")}


@pytest.mark.slow
def test_the_panels_show_what_runs_log_and_nothing_else(
    tmp_path: Path, tiny: list[str], compose_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch_home = Path(__file__).parents[2] / "shared" / "weights" / "torch_home"
    if torch_home.is_dir():
        monkeypatch.setenv("TORCH_HOME", str(torch_home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    to_wandb = ["logger=wandb", "logger.wandb.name=x", "logger.wandb.group=x", "lpips=squeeze", "niqe=false"]
    short = ["dists=false", "trainer.max_steps=4", "trainer.val_check_interval=1.0", "loss=srgan_mse"]
    short += ["adversarial.r1=1", "adversarial_ramp=2"]
    train(compose_config(*tiny, *to_wandb, *short, run_dir=tmp_path))
    found = logged(next(tmp_path.glob("**/offline-run-*/run-*.wandb")))
    measured = [names.lpips("squeeze")] if networks.weights_file("squeeze").is_file() else []
    missing = {names.NIQE, names.DISTS, *map(names.lpips, names.LPIPS_NETWORKS)} - {*measured}
    expected = {name for name in SHOWN if not any(score in name for score in missing)}
    prefixes = tuple(name for name in SHOWN if name.endswith("/"))
    of_losses = {name for name in found if name.startswith(prefixes)}
    assert of_losses == {f"{prefix}{loss}" for prefix in prefixes for loss in ("mse", "adversarial")} - {"weight/mse"}
    assert found - of_losses == expected - {*prefixes} | LEFT_OUT


def test_a_dry_run_prints_all_and_reaches_out_to_nobody(command: Command) -> None:
    code, stdout, stderr = command("--dry-run", "--project", "faces", "--entity", "team", "--name", "Faces")
    assert (code, stderr) == (0, "")
    assert "'Faces' of project team/faces" in stdout
    assert "x axis: trainer/global_step" in stdout and "grouped by: Group, then Name" in stdout
    assert [line for line in stdout.splitlines() if line in dashboard.SECTIONS] == list(dashboard.SECTIONS)
    rows = [re.split(" {2,}", line)[2:] for line in stdout.splitlines() if line.startswith("  ")]
    assert [[title, shown.removeprefix("^")] for title, shown in rows] == [
        [panel.title, ", ".join(panel.metrics)] for panel in PANELS
    ]
    assert len(SHOWN) == len(set(SHOWN)), "a metric is shown twice"


def test_what_is_saved_is_what_is_meant(command: Command, server: Mock) -> None:
    code, stdout, stderr = command("--project", "faces")
    assert code == 0, stderr
    server.execute_graphql.assert_called_once()
    sent = server.execute_graphql.call_args.kwargs["variables"]
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("somebody", "faces", "SRGAN")
    assert stdout.startswith("https://wandb.example/somebody/faces?nw=")

    spec = json.loads(sent["spec"])["section"]
    assert spec["settings"]["xAxis"] == names.STEP and spec["settings"]["xAxisActive"]
    (runs,) = spec["runSets"]
    assert runs["grouping"] == [{"section": "run", "name": "group"}, {"section": "run", "name": "displayName"}]
    assert {"summary:val/psnr.max", "summary:val/lpips_alex.min", "summary:val/niqe.min"} < set(
        runs["runFeed"]["columnPinned"]
    )
    sections = spec["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == list(dashboard.SECTIONS)
    for section, panels in zip(sections, dashboard.SECTIONS.values(), strict=True):
        layout = section["flowConfig"]
        assert layout["columnsPerPage"] * layout["rowsPerPage"] >= len(panels)
        for sent_panel, panel in zip(section["panels"], panels, strict=True):
            shown = sent_panel["config"]
            assert shown["chartTitle"] == panel.title
            if panel.metrics[0].endswith("/"):
                assert (shown["useMetricRegex"], shown["metricRegex"]) == (True, f"^{panel.metrics[0]}")
            else:
                assert tuple(shown["mediaKeys" if panel.kind == "media" else "metrics"]) == panel.metrics
            assert shown.get("xAxis") == (names.STEP if panel.kind in ("line", "log") else None)
            assert shown.get("yLogScale", False) == (panel.kind == "log")


def test_what_goes_wrong_is_one_line(command: Command, server: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(*arguments: str) -> str:
        code, stdout, stderr = command(*arguments)
        assert (code, stdout, len(stderr.splitlines())) == (1, "", 1)
        return stderr

    assert "Emojis are not allowed" in error("--name", "\N{ROCKET}", "--dry-run")
    server.execute_graphql.side_effect = RuntimeError("no such\nproject.")
    assert "somebody/faces: no such project. " in error("--project", "faces")
    monkeypatch.delenv("WANDB_API_KEY")
    assert "wandb login" in error() and "WANDB_API_KEY" in error()
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert "pip install 'srgan[dashboard]'" in error("--dry-run")
