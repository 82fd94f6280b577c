"""Whole evaluations through the real configuration: the published figures, what is left behind, and mistakes."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from PIL import Image

from srgan import config, evaluate, train
from srgan.errors import UserError
from srgan.metrics import fid, networks
from srgan.models import checkpoints

PLAIN = ("lpips=null", "niqe=false", "dists=false", "device=cpu")
ONE = "protocols=[matlab]"  # where more would show nothing
FIGURES = {"psnr", "ssim"}


def composed(name: str, *overrides: str) -> DictConfig:
    config.register()
    try:
        with initialize_config_dir(str(config.CONF), version_base="1.3"):
            return compose(name, overrides=list(overrides))
    finally:
        GlobalHydra.instance().clear()


Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Evaluate:
    """run("scale=2", …, folder="a"): evaluate by the configuration; what is in metrics.json."""

    def do(*overrides: str, folder: str = "evaluation") -> dict[str, Any]:
        run_dir = tmp_path / folder
        content = evaluate.evaluate(composed("evaluate", *PLAIN, *overrides, f"run_dir={run_dir}"))
        assert json.loads((run_dir / "metrics.json").read_text()) == content
        return content

    return do


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four smooth 72×64 pictures."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    generator = torch.Generator().manual_seed(5)
    for index in range(4):
        small = torch.rand(1, 3, 9, 8, generator=generator)
        picture = torch.nn.functional.interpolate(small, scale_factor=8, mode="bilinear")[0]
        Image.fromarray(picture.mul(255).byte().permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three tiny trainings at ×4: `one` and `two` differ by their seed, `longer` by its steps."""
    folder = tmp_path_factory.mktemp("outputs")
    tiny = (
        *("data=folder", f"data.root={photos}", "data.crop=32", "batch_size=2", "generator=compact"),
        *("generator.channels=4", "generator.blocks=1", "loss=srresnet_mse", "trainer=cpu", "lpips=null"),
        *("niqe=false", "dists=false"),
        *("trainer.precision=32-true", "trainer.enable_progress_bar=false"),
    )
    for name, overrides in (
        ("one", ("seed=1", "trainer.max_steps=2")),
        ("two", ("seed=2", "trainer.max_steps=2")),
        ("longer", ("seed=1", "trainer.max_steps=3")),
    ):
        train.train(composed("train", *tiny, *overrides, f"run_dir={folder / name}"))
    return folder


class Finished(NamedTuple):
    """What an evaluation through the command line left behind."""

    metrics: dict[str, Any]
    log: str


@pytest.fixture(scope="module")
def set5_x4(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Set5 ×4 through the command line, beside the paper's figures, with LPIPS where its weights are."""
    folder = tmp_path_factory.mktemp("set5")
    arguments = [f"benchmark.root={set5(shared)}", "scale=4", "models=[nearest]", "reference=paper", "device=cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TORCH_HOME", str(shared / "weights/torch_home"))
        patch.setattr(sys, "argv", [str(Path(evaluate.__file__)), *arguments])
        evaluate.main()
    (run_dir,) = folder.glob("outputs/evaluate/*")
    yield Finished(json.loads((run_dir / "metrics.json").read_text()), (run_dir / "evaluate.log").read_text())
    GlobalHydra.instance().clear()


def set5(shared: Path) -> Path:
    root = shared / "data/benchmarks/Set5"
    if not root.is_dir():
        pytest.skip(f"needs {root}, which is not here")
    return root


def printed(figures: dict[str, float]) -> tuple[str, str]:
    return f"{figures['psnr']:.3f}", f"{figures['ssim']:.4f}"


# --- the published figures --------------------------------------------------------------------------------------------


def test_bicubic_on_set5_has_its_published_figures(run: Evaluate, shared: Path, set5_x4: Finished) -> None:
    content = run(f"benchmark.root={set5(shared)}", "scale=3", ONE)
    assert printed(content["models"]["bicubic"]["mean"]["matlab"]) == ("30.386", "0.8678")
    assert (content["benchmark"], content["scale"], content["degradation"]) == ("Set5", 3, "as given")
    mean = set5_x4.metrics["models"]["bicubic"]["mean"]
    assert [printed(mean[name]) for name in ("paper", "matlab", "rgb")] == [
        ("28.430", "0.8211"),
        ("28.418", "0.8101"),
        ("26.693", "0.7731"),
    ]


def test_lpips_on_set5_x4_is_measured_where_its_weights_are(set5_x4: Finished, shared: Path) -> None:
    if not (shared / "weights/torch_home/hub/checkpoints").is_dir():
        pytest.skip("needs the weights of AlexNet")
    assert f"{set5_x4.metrics['models']['bicubic']['mean']['lpips_alex']:.3f}" == "0.340"
    assert "Measured beside PSNR and SSIM: LPIPS (alex)" in set5_x4.log


def test_the_papers_rows_are_printed_below_our_own(set5_x4: Finished) -> None:
    lines = [line.split() for line in set5_x4.log.splitlines()]
    ours = next(line for line in lines if line[:1] == ["bicubic"])
    theirs = next(line for line in lines if line[:2] == ["bicubic", "(Ledig"])
    assert ours[1:5] == ["28.430", "0.8211", "28.418", "0.8101"]
    assert theirs[-2:] == ["28.43", "0.8211"]
    srgan = next(line for line in lines if line[:2] == ["SRGAN", "(Ledig"])
    assert srgan[-2:] == ["29.40", "0.8472"]
    assert lines.index(ours) < lines.index(theirs)
    assert set5_x4.metrics["reference"]["rows"]["SRResNet"] == [32.05, 0.9019]


def test_metrics_json_has_its_schema(set5_x4: Finished) -> None:
    metrics = set5_x4.metrics
    assert {"scale", "benchmark", "models", "versions"} <= set(metrics)
    assert (metrics["scale"], metrics["benchmark"], list(metrics["models"])) == (4, "Set5", ["bicubic", "nearest"])
    for model in metrics["models"].values():
        assert {"mean", "images"} <= set(model)
        assert list(model["images"]) == [f"img_00{number}" for number in range(1, 6)]
        for figures in (model["mean"], *model["images"].values()):
            assert set(figures) - {"lpips_alex", "niqe"} == {"paper", "matlab", "rgb", "grid", "colour", "lr_psnr"}
            assert all(set(figures[protocol]) == FIGURES for protocol in ("paper", "matlab", "rgb"))
        for protocol in ("paper", "matlab", "rgb"):
            images = [image[protocol]["psnr"] for image in model["images"].values()]
            assert model["mean"][protocol]["psnr"] == pytest.approx(fmean(images))
    assert metrics["versions"]["torch"] == version("torch")
    command = metrics["command"].split()
    assert command[:3] == ["python", "-m", "srgan.evaluate"] and "scale=4" in command


def test_a_command_without_a_benchmark_is_one_line_and_loads_nothing_that_only_training_needs(tmp_path: Path) -> None:
    code = """import sys
from srgan import evaluate
sys.argv = ["evaluate.py"]
try:
    evaluate.main()
finally:
    print([name for name in ("lightning", "wandb", "spandrel") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (1, "[]")
    assert done.stderr.startswith("error: a benchmark is needed: benchmark.root=PATH")
    assert len(done.stderr.splitlines()) == 1


# --- other benchmarks -------------------------------------------------------------------------------------------------


def test_celebas_test_split_is_a_benchmark(run: Evaluate, shared: Path) -> None:
    root = shared / "data/celeba"
    if not root.is_dir():
        pytest.skip(f"needs {root}, which is not here")
    content = run("benchmark=celeba", f"data.root={root}", ONE, "shown=1")
    rows = [line.split() for line in (root / "list_eval_partition.txt").read_text().splitlines()]
    there = {file.name for file in (root / "img_align_celeba").rglob("*.jpg")}
    expected = {Path(name).stem for name, part in rows if part == "2" and name in there}
    assert len(expected) == 32
    assert set(content["models"]["bicubic"]["images"]) == expected
    assert content["degradation"] == "by bicubic degradation"


def test_a_split_of_a_folder_is_a_benchmark(run: Evaluate, photos: Path) -> None:
    data = ("benchmark=split", "data=folder", f"data.root={photos}", "data.held_out=0.5")
    images = [
        set(run(*data, f"benchmark.split={split}", ONE, folder=split)["models"]["bicubic"]["images"])
        for split in ("train", "validation", "test")
    ]
    assert [len(names) for names in images] == [2, 1, 1]
    assert set.union(*images) == set("0123")


def test_a_limit_a_name_and_the_protocols_of_a_folder(run: Evaluate, photos: Path) -> None:
    content = run(f"benchmark.root={photos}", "benchmark.images=2", "benchmark.name=Mine", "protocols=[rgb,paper]")
    assert content["benchmark"] == "Mine" and set(content["models"]["bicubic"]["images"]) == {"0", "2"}
    assert list(content["models"]["bicubic"]["mean"]) == ["rgb", "paper", "grid", "colour", "lr_psnr"]


def test_the_smallest_images_that_are_taken_are_scored(run: Evaluate, tmp_path: Path) -> None:
    for scale in (2, 8):
        folder = tmp_path / f"images{scale}"
        folder.mkdir()
        side = 11 + 3 * scale
        pixels = np.random.default_rng(scale).integers(256, size=(side, side + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "a.png")
        mean = run(f"benchmark.root={folder}", f"scale={scale}")["models"]["bicubic"]["mean"]
        assert all(np.isfinite(mean[protocol][figure]) for protocol in ("paper", "matlab", "rgb") for figure in FIGURES)


# --- trained generators -----------------------------------------------------------------------------------------------


def test_runs_checkpoints_and_weights_of_one_training_have_the_same_figures(
    run: Evaluate, runs: Path, photos: Path, tmp_path: Path
) -> None:
    best = runs / "one/checkpoints/best.ckpt"
    node = checkpoints.read(best)["config"]["generator"]
    checkpoints.save_weights(tmp_path / "net.safetensors", checkpoints.load(best), node)
    models = {"run": runs / "one", "checkpoint": best, "weights": tmp_path / "net.safetensors", "other": runs / "two"}
    named = ",".join(f"{name}:{path}" for name, path in models.items())
    models_scored = run(f"models={{{named}}}", f"benchmark.root={photos}", ONE)["models"]
    assert list(models_scored) == ["bicubic", *models]
    mean = {name: model["mean"] for name, model in models_scored.items()}
    assert mean["run"] == mean["checkpoint"] == mean["weights"]
    assert mean["other"] != mean["run"] != mean["bicubic"]


def test_seeds_of_one_configuration_are_put_together(
    run: Evaluate, runs: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        content = run(f"models=[{runs}/*]", f"benchmark.root={photos}", ONE)
    names = [str(runs / name) for name in ("longer", "one", "two")]
    assert list(content["models"]) == ["bicubic", *names]
    (group,) = content["seeds"]
    assert (group["models"], group["seeds"], group["label"]) == (names[1:], [1, 2], "one, two")
    values = [content["models"][name]["mean"]["matlab"]["psnr"] for name in names[1:]]
    assert values[0] != values[1]
    assert group["mean"]["matlab"]["psnr"] == pytest.approx(fmean(values))
    assert group["std"]["matlab"]["psnr"] == pytest.approx(stdev(values))
    row = next(line for line in caplog.text.splitlines() if line.startswith("one, two (2 seeds)"))
    assert f"{fmean(values):.3f} ± {stdev(values):.3f}" in row


def test_a_training_and_an_evaluation_agree_on_its_test_images(run: Evaluate, runs: Path, photos: Path) -> None:
    trained = json.loads((runs / "one/metrics.json").read_text())
    content = run(
        *(f"models={{content: {runs / 'one/checkpoints/last.ckpt'}}}", "benchmark=split", "data=folder"),
        f"data.root={photos}",
    )
    for model in ("bicubic", "content"):
        for figure in FIGURES:
            expected = trained["models"][model]["mean"]["matlab"][figure]
            assert content["models"][model]["mean"]["matlab"][figure] == pytest.approx(expected, abs=1e-4)


def test_pictures_are_written_and_score_as_the_method_that_made_them(
    run: Evaluate, runs: Path, photos: Path, tmp_path: Path
) -> None:
    first = run(f"models={{ours: {runs / 'one'}}}", f"benchmark.root={photos}", "pictures=true", ONE, folder="first")
    pictures = tmp_path / "first/pictures"
    assert {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")} == {
        f"{label}/{index}.png" for label in ("lr", "bicubic", "ours", "hr") for index in range(4)
    }
    second = run(f"models={{again: {pictures / 'ours'}}}", f"benchmark.root={photos}", ONE, folder="second")
    assert second["models"]["again"]["images"] == first["models"]["ours"]["images"]
    assert not (tmp_path / "second/pictures").exists()


def test_a_comparison_is_drawn_of_the_images_shown(run: Evaluate, photos: Path, tmp_path: Path) -> None:
    run(f"benchmark.root={photos}", "models=[nearest]", "shown=1", ONE, folder="one")
    with Image.open(tmp_path / "one/comparison.png") as picture:
        assert picture.width == 8 + 4 * (256 + 8)  # LR, bicubic, nearest, HR
        picture.load()
    run(f"benchmark.root={photos}", "shown=0", ONE, folder="none")
    assert not (tmp_path / "none/comparison.png").exists()


def test_without_weights_lpips_is_left_out_and_the_log_says_why(
    run: Evaluate, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(networks, "URL", f"{tmp_path.as_uri()}/absent/")
    with caplog.at_level(logging.INFO):
        content = run(f"benchmark.root={photos}", "lpips=[squeeze,alex]", "benchmark.images=1")
    assert not [figure for figure in content["models"]["bicubic"]["mean"] if "lpips" in figure]
    for net in ("squeeze", "alex"):
        assert f"LPIPS ({net}) is not measured: " in caplog.text and str(networks.weights_file(net)) in caplog.text


def test_fid_of_a_few_images_is_left_out_and_of_many_needs_its_weights(
    run: Evaluate, photos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        content = run(f"benchmark.root={photos}", ONE)
        assert "FID" not in caplog.text
        monkeypatch.setattr(fid, "FEATURES", 4)
        assert "fid" not in run(f"benchmark.root={photos}", ONE)["models"]["bicubic"]["mean"]
    assert "fid" not in content["models"]["bicubic"]["mean"]
    assert f"FID is not measured: put {fid.URL} at {fid.weights_file()}" in caplog.text


def test_a_reference_without_this_benchmark_says_what_it_has(
    run: Evaluate, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(f"benchmark.root={photos}", "reference=paper", ONE)["reference"]["rows"] == {}
    assert "The reference has no rows for photos ×4; it has Set5, Set14, BSD100 at ×4" in caplog.text
    caplog.clear()
    content = run(f"benchmark.root={photos}", "reference=paper", "benchmark.name=BSD100")
    assert content["reference"]["rows"]["SRGAN"] == [25.16, 0.6688]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# --- the command line -------------------------------------------------------------------------------------------------

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """command("key=value", …): `python -m srgan.evaluate` in this process; exit code and what went to stderr."""

    def do(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(Path(evaluate.__file__)), *arguments])
        try:
            evaluate.main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    yield do
    GlobalHydra.instance().clear()


MISTAKES = {
    "no benchmark": (["benchmark.root=null"], ["benchmark.root=PATH", "benchmark=celeba"]),
    "no such folder": (["benchmark.root=/nowhere"], ["benchmark.root=/nowhere: no such folder"]),
    "no such scale": (["scale=1"], ["scale 1", "try scale=4"]),
    "another scale": (["models=[RUNS/one]", "scale=2"], ["best.ckpt enlarges ×4", "evaluate it with scale=4"]),
    "no such model": (["models=[bicubik]"], ["bicubik", "nearest, bicubic"]),
    "no such protocol": (["protocols=[nix]"], ["nix", "choose from paper, matlab, rgb"]),
    "no protocol": (["protocols=[]"], ["choose from paper, matlab, rgb"]),
    "no such lpips": (["lpips=resnet"], ["lpips=resnet", "alex, squeeze or vgg"]),
    "no such device": (["device=nix"], ["device=nix: expected auto, cpu, cuda"]),
    "no cuda": (["device=cuda"], ["device=cuda", "no CUDA device", "device=cpu"]),
    "fid maybe": (["fid=maybe"], ["fid=maybe: expected auto, true or false"]),
    "fid of one": (["fid=true", "benchmark.images=1"], ["at least 2 images"]),
    "fid of none": (["fid=true"], ["Inception's weights can't be had", fid.URL]),
    "split of nothing": (["benchmark=split"], ["data=celeba, data=folder or data=photos"]),
    "split without root": (["benchmark=split", "data=folder"], ["data.root is needed"]),
    "no celeba": (["benchmark=celeba", "data.root=/nowhere"], ["/nowhere", "data.download=true"]),
    "no such split": (
        ["benchmark=split", "data=photos", "benchmark.split=tset"],
        ["tset", "train, validation or test"],
    ),
    "mistyped key": (["+benchmark.imges=3"], ["benchmark.imges", "did you mean images?"]),
    "no image left": (["benchmark.images=0"], ["images"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_1(
    mistake: str, command: Command, photos: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mistake == "no cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    overrides, expected = MISTAKES[mistake]
    root = [] if any(word.startswith("benchmark=") for word in overrides) else [f"benchmark.root={photos}"]
    arguments = [word.replace("RUNS", str(runs)) for word in overrides]
    code, stderr = command(*PLAIN, *root, *arguments)
    assert code == 1
    assert stderr.startswith("error: ") and "Traceback" not in stderr
    assert len(stderr.splitlines()) == 1 or mistake == "no celeba", "only where it looked is a list"
    assert all(words in stderr for words in expected), stderr


def test_a_mistyped_override_is_refused(command: Command) -> None:
    for override in ("benchmark.rot=x", "benchmark=nix", "scal=2", "batch_size=2"):
        code, stderr = command(override)
        assert code == 1 and "Traceback" not in stderr
        assert override.split("=")[0].split(".")[0] in stderr


@pytest.mark.parametrize("benchmark", ["folder", "split"])
def test_a_damaged_image_is_one_line(benchmark: str, command: Command, tmp_path: Path) -> None:
    images, training = tmp_path / "images", tmp_path / "training"
    for folder in (images, training):
        folder.mkdir()
        Image.new("RGB", (64, 64), "red").save(folder / "1.png")
    split = ("benchmark=split", "data=folder", f"data.root={training}", f"data.validation_root={images}")
    where = (f"benchmark.root={images}",) if benchmark == "folder" else split
    Image.new("RGB", (22, 22), "red").save(images / "3.png")
    for words in ("3.png is 22×22", "3.png: not a readable image"):
        code, stderr = command(*PLAIN, *where)
        assert code == 1
        assert stderr.startswith("error: ") and len(stderr.splitlines()) == 1 and words in stderr
        (images / "3.png").write_text("not an image")


def test_what_does_not_work_raises_before_anything_is_written(run: Evaluate, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bicubik"):
        run(f"benchmark.root={photos}", "models=[bicubik]")
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_gives_the_same_figures(run: Evaluate, runs: Path, photos: Path) -> None:
    arguments = (f"models={{ours: {runs / 'one'}}}", f"benchmark.root={photos}")
    host, device = (run(*arguments, f"device={name}")["models"]["ours"]["mean"] for name in ("cpu", "cuda"))
    for protocol in ("paper", "matlab", "rgb"):
        assert device[protocol]["psnr"] == pytest.approx(host[protocol]["psnr"], abs=1e-3)
