"""A search: its space in Hydra's syntax, trials that are runs, failures said, and what a kill leaves."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srgan import tune
from srgan.errors import UserError
from srgan.runs import record

optuna = pytest.importorskip("optuna", reason="needs pip install 'srgan[tune]'")

Trained = Callable[[list[str], Path], int]
OBJECTIVES = ["val/psnr", "val/lpips_alex"]
SEARCH = ["seed=1", "batch_size=2,4", "balance=interval(0,1)", "generator.blocks=tag(int,log,interval(1,8))"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, str], str]]:
    """The settings and folders of trials; a stand-in for trainings: with more balance less PSNR, and less LPIPS."""
    done: list[tuple[dict[str, str], str]] = []

    def train(settings: list[str], run_dir: Path) -> int:
        given = dict(text.split("=") for text in settings)
        done.append((given, run_dir.name))
        run_dir.mkdir(exist_ok=True)
        if len(done) == 3:
            (run_dir / record.ERROR).write_text("training diverged\n")
            return 1
        if len(done) == 5:
            return 143
        balance = float(given["balance"])
        (run_dir / record.CURVES).write_text(
            f"step,val/psnr,val/lpips_alex\n1,9,9\n2,{30 - balance},{0.4 - balance / 4}\n"
        )
        return 0

    monkeypatch.setattr(tune, "_train", train)
    return done


def test_a_search_that_is_stopped_goes_on_and_reports_the_front_and_what_failed(
    trained: list[tuple[dict[str, str], str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.tune(tmp_path, 8, OBJECTIVES, SEARCH) == 143
    assert tune.tune(tmp_path, 8, OBJECTIVES, SEARCH) == 0
    assert [folder for _, folder in trained] == ["0", "1", "2", "3", "4", "4", "6", "7", "8"]
    assert trained[4] == trained[5]
    for settings, _ in trained:
        assert settings["seed"] == "1" and settings["batch_size"] in ("2", "4")
        assert 0 <= float(settings["balance"]) <= 1 and int(settings["generator.blocks"]) in range(1, 9)
    report = json.loads((tmp_path / "tune.json").read_text())
    assert (report["trials"], report["failed"]) == (8, {"2": "training diverged"})
    assert {row["folder"] for row in report["front"]} == {"0", "1", "3", "4", "6", "7", "8"}  # one trades for the other
    assert all(math.isclose(row["val/psnr"], 30 - row["settings"]["balance"]) for row in report["front"])
    said = capsys.readouterr().out
    assert "8 trials, 1 failed" in said and "2  failed: training diverged" in said
    assert tune.tune(tmp_path, 8, OBJECTIVES, SEARCH) == 0 and len(trained) == 9
    with pytest.raises(UserError, match="holds another search"):
        tune.tune(tmp_path, 8, OBJECTIVES, SEARCH[:-1])


@pytest.mark.parametrize(
    ("objectives", "settings", "words"),
    [
        (["val/psnrr"], SEARCH, r"--objectives val/psnrr: choose from val/psnr, "),
        (OBJECTIVES, ["seed=1"], r"nothing to search: give a setting several values"),
        (OBJECTIVES, ["balance"], r"balance: expected KEY=VALUE as srgan.train takes it"),
    ],
)
def test_a_search_that_cannot_work_is_one_line(
    objectives: list[str], settings: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as raised:
        tune.tune(tmp_path, 1, objectives, settings)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_search_that_is_killed_loses_no_finished_trial(tmp_path: Path, tiny: list[str]) -> None:
    tiny = [text for text in tiny if "hidden" not in text]
    few = ["generator=compact", "loss=srresnet_mse", "trainer.max_steps=4", "trainer.val_check_interval=1"]
    arguments = [*tiny, *few, "phases.content.optimizer.lr=tag(log,interval(1e-5,1e-3))", "seed=1,2"]
    command = [sys.executable, "-m", "srgan.tune", "search", "--trials", "2", "--objectives", "val/psnr,val/ssim"]
    process = subprocess.Popen([*command, *arguments], cwd=tmp_path, start_new_session=True)
    until = tmp_path / "search/1/checkpoints/last.ckpt"
    while not until.is_file():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = (tmp_path / "search/0/metrics.csv").read_text()
    done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((tmp_path / "search/tune.json").read_text())
    assert (report["trials"], report["failed"]) == (2, {})
    assert {path.name for path in (tmp_path / "search").iterdir() if path.is_dir()} == {"0", "1"}
    assert (tmp_path / "search/0/metrics.csv").read_text() == first
    assert "ckpt_path=auto" in json.loads((tmp_path / "search/1/run.json").read_text())["command"]
