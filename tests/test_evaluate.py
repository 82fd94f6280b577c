"""Whole evaluations through the real configuration: the published figures, what is left behind, and mistakes."""

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from srgan import evaluate, train
from srgan.errors import UserError
from srgan.metrics import fid, networks

PLAIN = ("lpips=null", "niqe=false", "dists=false", "device=cpu")
ONE = "protocols=[matlab]"  # where more would show nothing
FIGURES = {"psnr", "ssim"}
Evaluate = Callable[..., dict[str, Any]]
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, compose_config: Callable[..., DictConfig]) -> Evaluate:
    """run("scale=2", …, folder="a"): evaluate by the configuration; what is in metrics.json."""

    def do(*overrides: str, folder: str = "evaluation") -> dict[str, Any]:
        run_dir = tmp_path / folder
        content = evaluate.evaluate(compose_config(*PLAIN, *overrides, run_dir=run_dir, command="evaluate"))
        assert json.loads((run_dir / "metrics.json").read_text()) == content
        return content

    return do


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pictures: four smooth ones of 72×64, one too small to be scored, a file that is none."""
    root = tmp_path_factory.mktemp("data")
    for name in ("photos", "small", "damaged"):
        (root / name).mkdir()
    for index in range(4):
        small = np.random.default_rng(index).integers(256, size=(9, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 72), Image.Resampling.BILINEAR).save(root / f"photos/{index}.png")
    Image.new("RGB", (22, 22)).save(root / "small/a.png")
    (root / "damaged/a.png").write_text("not an image")
    return root


@pytest.fixture(scope="module")
def runs(
    data: Path, tiny_on: Callable[[Path], list[str]], compose_config: Callable[..., DictConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """A folder of three tiny trainings at ×4: `one` and `two` differ by their seed, `longer` by its steps."""
    folder, tiny = tmp_path_factory.mktemp("outputs"), (*tiny_on(data / "photos"), "loss=srresnet_mse")
    for name, seed, steps in (("one", 1, 2), ("two", 2, 2), ("longer", 1, 3)):
        overrides = (f"seed={seed}", f"trainer.max_steps={steps}")
        train.train(compose_config(*tiny, *overrides, "generator=compact", run_dir=folder / name))
    return folder


@pytest.fixture
def command(run_main: Command) -> Command:
    """command("key=value", …): `python -m srgan.evaluate` in this process; exit code and what went to stderr."""
    return partial(run_main, evaluate)


def test_set5_by_the_command_has_the_published_figures_beside_the_papers(
    command: Command, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights/torch_home"))
    root = shared / "data/benchmarks/Set5"
    if not root.is_dir():
        pytest.skip(f"needs {root}, which is not here")
    options = ("scale=4", "reference=paper", "device=cpu", "niqe=false")
    assert command(f"benchmark.root={root}", *options)[0] == 0
    (run_dir,) = tmp_path.glob("outputs/evaluate/*")
    metrics, log = json.loads((run_dir / "metrics.json").read_text()), (run_dir / "evaluate.log").read_text()

    assert (metrics["scale"], metrics["benchmark"], metrics["degradation"]) == (4, "Set5", "as given")
    assert list(metrics["models"]) == ["bicubic"]
    mean, images = (metrics["models"]["bicubic"][key] for key in ("mean", "images"))
    assert list(images) == [f"img_00{number}" for number in range(1, 6)]
    for figures in (mean, *images.values()):
        assert set(figures) - {"lpips_alex"} == {"paper", "matlab", "rgb", "grid", "colour", "lr_psnr"}
        assert all(set(figures[protocol]) == FIGURES for protocol in ("paper", "matlab", "rgb"))
    for protocol, published in {"paper": "28.430 0.8211", "matlab": "28.418 0.8101", "rgb": "26.693 0.7731"}.items():
        assert f"{mean[protocol]['psnr']:.3f} {mean[protocol]['ssim']:.4f}" == published
    if (shared / "weights/torch_home/hub/checkpoints").is_dir():
        assert f"{mean['lpips_alex']:.3f}" == "0.340"
        assert "Measured beside PSNR and SSIM: LPIPS (alex)" in log
    assert metrics["versions"]["torch"] == version("torch")
    assert metrics["command"].startswith("python -m srgan.evaluate ") and "scale=4" in metrics["command"]

    lines = [line.split() for line in log.splitlines()]
    ours = next(line for line in lines if line[:1] == ["bicubic"])
    theirs = next(line for line in lines if line[:2] == ["bicubic", "(Ledig"])
    assert ours[1:5] == ["28.430", "0.8211", "28.418", "0.8101"] and theirs[-2:] == ["28.43", "0.8211"]
    assert lines.index(ours) < lines.index(theirs)
    assert metrics["reference"]["rows"]["SRResNet"] == [32.05, 0.9019]


def test_a_trainings_folder_is_refused_and_an_earlier_evaluations_results_are_removed(
    run: Evaluate, data: Path, runs: Path, tmp_path: Path, compose_config: Callable[..., DictConfig]
) -> None:
    before = (runs / "one" / "metrics.json").read_bytes()
    with pytest.raises(UserError, match="one: it holds a training, whose figures would be lost"):
        evaluate.evaluate(
            compose_config(*PLAIN, f"benchmark.root={data / 'photos'}", run_dir=runs / "one", command="evaluate")
        )
    assert (runs / "one" / "metrics.json").read_bytes() == before
    run(f"benchmark.root={data / 'photos'}", ONE, "pictures=true")
    assert (tmp_path / "evaluation/comparison.png").is_file() and (tmp_path / "evaluation/pictures").is_dir()
    with pytest.raises(UserError, match="protocols="):
        run(f"benchmark.root={data / 'photos'}", "protocols=[nix]")
    with pytest.raises(UserError, match="pictures that are to be scored lie in it"):
        run(f"benchmark.root={data / 'photos'}", f"models=[{tmp_path / 'evaluation/pictures/bicubic'}]")
    assert (tmp_path / "evaluation/pictures").is_dir(), "a refused command removes nothing"
    run(f"benchmark.root={data / 'photos'}", ONE, "shown=0")
    assert not (tmp_path / "evaluation/comparison.png").exists() and not (tmp_path / "evaluation/pictures").exists()


def test_published_rows_beside_other_images_or_lr_are_said(
    run: Evaluate, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = f"benchmark.root={data / 'photos'}"
    run(photos, "benchmark.name=set5", "reference=paper", "degradation=pillow", "protocols=[paper]")
    assert "The reference's rows are means over 5 images, these over 4" in caplog.messages
    assert "The reference's rows are for bicubic LR, this is LR by Pillow's bicubic degradation" in caplog.messages


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
    assert done.stderr.startswith("error: a benchmark is needed: benchmark.root=PATH, benchmark=celeba")
    assert len(done.stderr.splitlines()) == 1


def test_celebas_test_split_is_a_benchmark(run: Evaluate, shared: Path) -> None:
    root = shared / "data/celeba"
    if not root.is_dir():
        pytest.skip(f"needs {root}, which is not here")
    content = run("benchmark=celeba", f"data.root={root}", ONE, "shown=1")
    assert len(content["models"]["bicubic"]["images"]) == 32
    assert (content["benchmark"], content["degradation"]) == ("CelebA test", "by bicubic degradation")


def test_a_training_and_an_evaluation_agree_and_seeds_of_one_configuration_are_put_together(
    run: Evaluate, runs: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    content = run(
        f"models=[{runs}/*/checkpoints/last.ckpt]", "benchmark=split", "data=folder", f"data.root={data}/photos"
    )
    names = {name: f"{runs / name}/checkpoints/last.ckpt" for name in ("longer", "one", "two")}
    assert list(content["models"]) == ["bicubic", *names.values()]
    means = {name: model["mean"]["matlab"] for name, model in content["models"].items()}
    for name, path in names.items():
        trained = json.loads((runs / name / "metrics.json").read_text())["models"]
        for figure in FIGURES:
            assert means[path][figure] == pytest.approx(trained["content"]["mean"]["matlab"][figure], abs=1e-4)
            assert means["bicubic"][figure] == pytest.approx(trained["bicubic"]["mean"]["matlab"][figure], abs=1e-4)
    (group,) = content["seeds"]
    assert (group["models"], group["seeds"]) == ([names["one"], names["two"]], [1, 2])
    values = [means[path]["psnr"] for path in group["models"]]
    assert values[0] != values[1]
    row = next(line for line in caplog.text.splitlines() if line.startswith("one, two (2 seeds)"))
    assert f"{fmean(values):.3f} ± {stdev(values):.3f}" in row


def test_pictures_are_written_and_score_as_the_method_that_made_them(
    run: Evaluate, runs: Path, data: Path, tmp_path: Path
) -> None:
    root, first, second = f"benchmark.root={data}/photos", tmp_path / "first", tmp_path / "second"
    made = run(f"models={{ours: {runs / 'one'}}}", root, "pictures=true", "shown=1", ONE, folder="first")["models"]
    assert {path.relative_to(first / "pictures").as_posix() for path in first.rglob("pictures/*/*")} == {
        f"{label}/{index}.png" for label in ("lr", "bicubic", "ours", "hr") for index in range(4)
    }
    with Image.open(first / "comparison.png") as picture:
        assert picture.width == 8 + 4 * (256 + 8)  # LR, bicubic, ours, HR
        picture.load()
    scored = run(f"models={{again: {first / 'pictures/ours'}}}", root, "shown=0", ONE, folder="second")["models"]
    assert scored["again"]["images"] == made["ours"]["images"] != made["bicubic"]["images"]
    assert not (second / "pictures").exists() and not (second / "comparison.png").exists()


def test_what_cannot_be_measured_or_compared_is_left_out_and_the_log_says_why(
    run: Evaluate, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = (f"benchmark.root={data}/photos", "reference=paper", "protocols=[rgb,paper]")
    content = run(*options, "benchmark.name=BSD100")
    assert list(content["models"]["bicubic"]["mean"]) == ["rgb", "paper", "grid", "colour", "lr_psnr"]
    assert (content["benchmark"], content["reference"]["rows"]["SRGAN"]) == ("BSD100", [25.16, 0.6688])
    assert not any(words in caplog.text for words in ("FID", "LPIPS (", "no rows"))
    monkeypatch.setattr(fid, "FEATURES", 4)
    monkeypatch.setattr(networks, "URL", f"{tmp_path.as_uri()}/absent/")
    content = run(*options, "lpips=[squeeze,alex]")
    assert content["reference"]["rows"] == {}
    assert not [figure for figure in content["models"]["bicubic"]["mean"] if "lpips" in figure]
    assert "fid" not in content["models"]["bicubic"]["mean"]
    for net in ("squeeze", "alex"):
        assert f"LPIPS ({net}) is not measured: " in caplog.text and str(networks.weights_file(net)) in caplog.text
    assert f"FID is not measured: put {fid.URL} at {fid.weights_file()}" in caplog.text
    assert "The reference has no rows for photos ×4; it has Set5, Set14, BSD100 at ×4" in caplog.text


SPLIT = ("benchmark=split", "data=folder", "data.root=DATA/photos")
MISTAKES = {
    "empty root": (["benchmark.root="], ["error: benchmark.root is empty"]),
    "empty pair": (["benchmark=pairs", "benchmark.hr=", "benchmark.lr=a"], ["error: benchmark.hr is empty"]),
    "no such scale": (["scale=1"], ["scale 1", "try scale=4"]),
    "no such protocol": (["protocols=[nix]"], ["nix", "choose from paper, matlab, rgb"]),
    "one protocol": (["protocols=matlab"], ["expected a list, such as 'protocols=[matlab]'"]),
    "a name twice": (["models={a: nearest, a: bicubic}"], ["a stands there twice"]),
    "no protocol": (["protocols=[]"], ["choose from paper, matlab, rgb"]),
    "no such lpips": (["lpips=resnet"], ["lpips=resnet", "alex, squeeze or vgg"]),
    "lpips true": (["lpips=true"], ["lpips=true: name its networks"]),
    "empty models": (["models="], ["models is empty"]),
    "no tile": (["tile=0"], ["tile=0: expected 1 or more"]),
    "no such device": (["device=nix"], ["device=nix: expected auto, cpu, cuda"]),
    "fid maybe": (["fid=maybe"], ["fid=maybe: expected auto, true or false"]),
    "fid of one": (["fid=true", "benchmark.images=1"], ["at least 2 images"]),
    "fid without weights": (["fid=true"], ["Inception's weights can't be downloaded", fid.URL]),
    "small image": (["benchmark.root=DATA/small"], ["a.png is 22×22"]),
    "damaged image": (["benchmark.root=DATA/damaged"], ["a.png: not a readable image"]),
    "small image of a split": ([*SPLIT, "data.validation_root=DATA/small"], ["a.png is 22×22"]),
    "damaged image of a split": ([*SPLIT, "data.validation_root=DATA/damaged"], ["a.png: not a readable image"]),
    "mistyped option": (["+benchmark.imges=3"], ["benchmark.imges", "did you mean images?"]),
    "mistyped key": (["scal=2"], ["scal"]),
    "mistyped group": (["benchmark=nix"], ["benchmark"]),
}


def test_a_device_without_double_precision_is_refused(
    compose_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluate, "choose_device", lambda name: torch.device(name))
    with pytest.raises(UserError, match=r"device=mps has no double precision, .*; use device=cpu"):
        evaluate.measure(compose_config("device=mps", f"benchmark.root={tmp_path}", command="evaluate"))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_1(
    mistake: str, command: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", Mock(side_effect=OSError("no route to host")))
    overrides, expected = MISTAKES[mistake]
    root = [] if overrides[0].startswith("benchmark") else ["benchmark.root=DATA/photos"]
    code, stderr = command(*PLAIN, *(word.replace("DATA", str(data)) for word in (*root, *overrides)))
    assert code == 1
    assert stderr.startswith("error: ") and len(stderr.splitlines()) == 1
    assert all(words in stderr for words in expected), stderr


def test_an_image_that_vanishes_while_others_are_scored_is_one_line_and_no_mean(
    command: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, score = shutil.copytree(data / "photos", tmp_path / "root"), evaluate.score
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:200]), Path.unlink):

        def done(*given: Any, damage: Callable[[Path], object] = damage, **options: Any) -> Any:
            damage(root / "2.png")
            return score(*given, **options)

        monkeypatch.setattr(evaluate, "score", done)
        code, stderr = command(*PLAIN, ONE, f"benchmark.root={root}", "hydra.run.dir=out")
        assert (code, len(stderr.splitlines())) == (1, 1) and stderr.startswith(f"error: {root}/2.png: ")
        assert (tmp_path / "out/error.txt").is_file() and not (tmp_path / "out/metrics.json").exists()


def test_a_picture_for_which_memory_is_too_small_is_one_line_that_names_it(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 3000), "teal").save(tmp_path / "large.png")
    code = """import resource, sys
from pathlib import Path
from srgan import evaluate
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 400 * 2**20, resource.RLIM_INFINITY))
evaluate.main()"""
    arguments = [*PLAIN, ONE, f"benchmark.root={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 1 and re.fullmatch("error: large: out of memory; take a smaller tile=.*\n", done.stderr)


Command = Callable[..., tuple[int, str]]


@pytest.mark.gpu
def test_a_cuda_device_gives_the_same_figures(run: Evaluate, runs: Path, data: Path) -> None:
    arguments = (f"models={{ours: {runs / 'one'}}}", f"benchmark.root={data}/photos")
    host, device = (run(*arguments, f"device={name}")["models"]["ours"]["mean"] for name in ("cpu", "cuda"))
    for protocol in ("paper", "matlab", "rgb"):
        assert device[protocol]["psnr"] == pytest.approx(host[protocol]["psnr"], abs=1e-3)
