"""The command that makes the page about runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from srgan import report


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of two runs that failed at once, in the current folder."""
    for run in (tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"):
        run.mkdir(parents=True)
        (run / "error.txt").write_text("no data")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "sweep"


def test_the_page_is_written_beside_the_runs_or_where_asked(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(sweep)])
    assert capsys.readouterr().out == f"{sweep / 'report.html'}\n"
    assert "<title>sweep – srgan</title>" in (sweep / "report.html").read_text(encoding="utf-8")
    report.main(["sweep/0", "sweep/1", "-o", "other.html"])
    html = Path("other.html").read_text(encoding="utf-8")
    assert "2 runs:" in html and "<title>sweep/0, sweep/1 – srgan</title>" in html


def test_a_users_error_is_one_line(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        ("absent", "no such folder"),
        (".", "no run in it"),
        ("sweep -o absent/x.html", "can't be written"),
    ):
        with pytest.raises(SystemExit, match="1"):
            report.main(arguments.split())
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_it_starts_without_the_frameworks() -> None:
    code = "import sys, srgan.report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "jinja2" in loaded
    assert not {"torch", "lightning", "hydra", "wandb", "pandas"} & set(loaded)
