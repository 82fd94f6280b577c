"""Weights & Biases without a server: offline at once, with one line that says why and how to upload."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf
from wandb.errors import CommError, UsageError

from srgan import config
from srgan.errors import UserError
from srgan.training import loggers

OPTIONS = {
    "project": "p",
    "name": "n",
    "group": None,
    "entity": "team",
    "tags": ["1_0"],
    "id": "abc",
    "resume": "allow",
}


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """answering(code): the address of a server that answers so."""
    servers: list[HTTPServer] = []

    def start(code: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(code)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_what_answers_is_told_from_what_does_not(
    answering: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "no answer from http" in str(loggers.unreachable(f"http://127.0.0.1:{port}"))
    assert "Connection refused" in str(loggers.unreachable(f"http://127.0.0.1:{port}"))
    assert "503" in str(loggers.unreachable(answering(503))) and loggers.unreachable(answering(404)) is None
    assert "is no address" in str(loggers.unreachable("nonsense"))


@pytest.mark.parametrize("mode", [None, "online"])
def test_a_key_without_a_server_gives_a_run_offline(
    mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for key, value in {"API_KEY": "0" * 40, "BASE_URL": "http://127.0.0.1:9", "MODE": mode, "SILENT": "true"}.items():
        monkeypatch.delenv(f"WANDB_{key}", raising=False)
        if value is not None:
            monkeypatch.setenv(f"WANDB_{key}", value)
    caplog.set_level(logging.INFO)
    logger = loggers.wandb_logger(save_dir=str(tmp_path), **OPTIONS)
    run = logger.experiment
    wandb.finish()
    assert (run.offline, run.entity, run.tags, run.id) == (True, "team", ("1_0",), "abc")
    (line,) = [record.getMessage() for record in caplog.records if "W&B" in record.getMessage()]
    assert "offline, no answer from http://127.0.0.1:9 (" in line and f"wandb sync {tmp_path}" in line
    assert os.environ.get("WANDB_MODE") == mode


@pytest.mark.parametrize(("name", "value"), [("BASE_URL", "wandb.company.example"), ("MODE", "off")])
def test_a_setting_that_wandb_refuses_is_one_line(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("API_KEY", "BASE_URL", "MODE"):
        monkeypatch.delenv(f"WANDB_{key}", raising=False)
    monkeypatch.setenv(f"WANDB_{name}", value)
    with pytest.raises(UserError, match=f"W&B: a setting .* is wrong: (?s:.*){value}"):
        loggers.wandb_logger(save_dir=str(tmp_path), **OPTIONS)


def test_a_login_to_a_server_of_ones_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`wandb login --host` writes the address to W&B's settings and the key to netrc under it."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine wandb.company.example login user password secret\n")
    assert not loggers.logged_in()
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.company.example\n")
    assert loggers.logged_in()


def test_what_the_server_refuses_goes_offline_and_what_cannot_be_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loggers, "logged_in", lambda: True)
    monkeypatch.setattr(loggers, "unreachable", lambda server: None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    errors: list[Exception] = [CommError("no such\nkey"), UsageError("resume and id")]

    class Run:
        dir, id = str(tmp_path / "run" / "files"), "abc"

        def define_metric(self, *_: object, **__: object) -> None: ...

    class Logger:
        experiment = Run()

        def __init__(self, offline: bool, **_: Any) -> None:
            if not offline:
                raise errors.pop(0)

    monkeypatch.setattr(loggers, "WandbLogger", Logger)
    caplog.set_level(logging.INFO)
    loggers.wandb_logger(save_dir=str(tmp_path), **OPTIONS)
    assert f"W&B: offline, no such key. To upload this run later: wandb sync {tmp_path / 'run'}" in caplog.text
    with pytest.raises(UserError, match=r"^logger.wandb: resume and id$"):
        loggers.wandb_logger(save_dir=str(tmp_path), **OPTIONS)
    assert set(OPTIONS) <= set(OmegaConf.load(config.CONF / "logger" / "wandb.yaml").wandb)
