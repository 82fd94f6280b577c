"""What a run writes into its folder when it starts and when it ends."""

import json
import re
from pathlib import Path

import pytest
import yaml

from srgan.runs import record
from srgan.runs.read import read_run

CONFIG = {"scale": 4, "eps": 1e-5, "name": "1", "none": None, "betas": [0.9, 0.999], "data": {"no": True}}


def start(run_dir: Path) -> record.RunRecord:
    return record.RunRecord.start(run_dir, CONFIG, {"content": 2, "gan": 3}, "python -m srgan.train", "cpu", "32-true")


def test_the_folder_tells_how_a_run_was_made_and_how_it_ended(tmp_path: Path) -> None:
    run_dir = tmp_path / "new" / "run"
    written = start(run_dir)
    text = (run_dir / "config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == CONFIG and [*yaml.safe_load(text)] == [*CONFIG]
    content = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
    assert (content["status"], content["steps"]) == ("running", {"content": 2, "gan": 3})
    assert (content["command"], content["accelerator"]) == ("python -m srgan.train", "cpu")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", content["started"])
    assert {"torch", "lightning", "hydra-core"} <= {name for name, version in content["versions"].items() if version}
    assert {"python", "precision"} < content.keys()
    assert content["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", content["git_commit"])
    assert "still running, or killed" in read_run(run_dir, "0").note
    written.status = "stopped"
    written.write()
    assert json.loads((run_dir / "run.json").read_text(encoding="utf-8")) == content | {"status": "stopped"}


def test_an_earlier_runs_results_are_removed_and_its_curves_put_aside(tmp_path: Path) -> None:
    for number in 1, 2:
        (tmp_path / "pictures" / "gan").mkdir(parents=True)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        for name in ("error.txt", "metrics.json", "comparison.png", "metrics.csv", "pictures/gan/a.png"):
            (tmp_path / name).write_text(f"of run {number}")
        start(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"run.json", "config.yaml", "checkpoints", "metrics-1.csv", "metrics-2.csv"}
    assert (tmp_path / "metrics-2.csv").read_text() == "of run 2"


def test_figures_that_json_has_no_words_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        record.write_json(tmp_path / "metrics.json", {"psnr": float("inf")})
