"""What comes with the package is what its card says, and examples/tour.ipynb runs and shows what its text says."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from srgan import load_generator, weights
from srgan.images import decode, to_uint8
from srgan.metrics.lpips import LPIPS
from srgan.metrics.protocol import MATLAB
from srgan.metrics.scores import protocol_scores
from srgan.models import checkpoints

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", weights.names())
def test_weights_are_small_and_say_what_they_are_as_their_card_and_the_readme_do(name: str) -> None:
    path = weights.find(name)
    assert path.stat().st_size < 7e6
    description = checkpoints.describe(path)
    about: dict[str, Any] = description["about"]
    assert description["generator"]["scale"] == about["scale"] == int(name[-1]) == checkpoints.load(path).scale
    assert {"architecture", "weights", "steps", "loss", "data", "note", "git_commit", "versions"} <= about.keys()
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    for protocol in ("paper", "matlab", "rgb"):
        own = about["figures"]["Set5"]["own"][protocol]
        assert own.keys() == {"psnr", "ssim"}
        assert f"{own['psnr']:.2f} / {own['ssim']:.4f}" in card
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"[`{name}`](src/srgan/weights/{name}.md)" in readme


@pytest.mark.slow
@pytest.mark.parametrize("name", weights.names())
def test_set5_has_the_figures_of_file_and_card(name: str, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights/torch_home"))
    lpips = LPIPS("alex")
    upscale = load_generator(name, "cpu", "fp32")
    folder = shared / f"data/benchmarks/Set5/x{upscale.scale}"
    decibels: list[float] = []
    distances: list[float] = []
    for path in sorted((folder / "LR").glob("*.png")):
        lr, hr = (decode(file.read_bytes(), file.name)[None] for file in (path, folder / "HR" / path.name))
        sr = to_uint8(upscale(lr))
        decibels.append(float(protocol_scores(sr, hr, upscale.scale, MATLAB)["psnr"]))
        distances.append(float(lpips(sr, hr)))
    assert len(decibels) == 5
    own = checkpoints.describe(weights.find(name))["about"]["figures"]["Set5"]["own"]
    assert sum(decibels) / 5 == pytest.approx(own["matlab"]["psnr"], abs=0.002)
    card = weights.find(name).with_suffix(".md").read_text(encoding="utf-8")
    (row,) = (line for line in card.splitlines() if line.startswith("| Set5 |"))
    assert f" {sum(distances) / 5:.4f} " in row


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:skimage")
def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "examples/tour.ipynb").read_text(encoding="utf-8"))
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
