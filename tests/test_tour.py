"""examples/tour.ipynb runs from its first cell to its last, and shows what its text says."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:skimage")
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        assert not cell.get("outputs"), "the notebook is kept without outputs"
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    GlobalHydra.instance().clear()
    assert names["sr"].shape == (3, 512, 512)
    assert names["scores"]["srgan_x4"]["psnr"] > names["scores"]["bicubic"]["psnr"] + 1
    models = {name: model["mean"]["matlab"]["psnr"] for name, model in names["metrics"]["models"].items()}
    assert models["content"] > models["bicubic"]
    assert names["steps"][-1] == 100 and names["gains"][-1] > 0
