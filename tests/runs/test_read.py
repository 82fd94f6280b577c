"""Run folders as runs write them, and as a crash, a full disk or another version leaves them."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from srgan.errors import UserError
from srgan.runs import record
from srgan.runs.read import DEFAULT, UNKNOWN, Scores, find_runs, read_run

CSV = """step,train/images_per_s,train/loss,train/peak_mib,val/psnr
1,10.0,0.5,100,
2,,,,20.0
3,50.0,0.3,300,
4,30.0,0.2,200,
4,,,,25.0
"""


def scores(psnr: float, lpips: float | None = 0.25) -> dict[str, Any]:
    """One entry of metrics.json: `psnr` is the protocol matlab's, the other protocols have other values."""
    luma = {name: {"psnr": psnr + more, "ssim": 0.75} for name, more in (("paper", 5), ("matlab", 0), ("rgb", -5))}
    return {**luma, "lpips_alex": lpips, "lr_psnr": 40.0}


def write_choices(folder: Path, choices: Mapping[str, str | None]) -> None:
    """Write the choices as Hydra does, before a run can fail."""
    (folder / ".hydra").mkdir(parents=True)
    runtime = {"choices": {"experiment": None, "hydra/launcher": "basic", **choices}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": runtime, "dir": "${name}"}}))


def make_run(
    folder: Path, loss: str = "mse", seed: int = 1, psnr: float = 30.0, lpips: float | None = 0.25, **settings: Any
) -> Path:
    """A finished run of a content phase of two steps and a GAN phase of two, at ×4 on an image `a`."""
    write_choices(folder, {"data": "photos", "loss": loss})
    config = {
        "name": "test",
        "scale": 4,
        "seed": seed,
        "run_dir": str(folder),
        "loss": {"gan": {"weights": {loss: 1.0}}},
        "data": {"root": "/photos", "seed": seed},
        "trainer": {"max_steps": 4},
        "logger": {"csv": {"save_dir": str(folder)}, "wandb": {"name": f"seed={seed}"}},
        **settings,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    steps = {"content": 2, "gan": 2}
    models = {
        name: {"mean": scores(value, lpips), "images": {"a": scores(value + 0.5, lpips)}}
        for name, value in {"bicubic": 28.0, "content": psnr + 1, "gan": psnr}.items()
    }
    metrics = {"scale": config["scale"], "benchmark": "test", "models": models, "steps": steps, "steps_done": 4}
    made_with = {"status": "finished", "started": "2026-01-31T12:00:00+0000", "steps": steps}
    for file, content in {"run.json": made_with, "metrics.json": metrics}.items():
        (folder / file).write_text(json.dumps(content))
    (folder / "metrics.csv").write_text(CSV)
    for model, shade in {"hr": 0, "lr": 10, "bicubic": 20, "content": 30, "gan": 40 + int(psnr)}.items():
        (folder / "pictures" / model).mkdir(parents=True)
        size = (4, 4) if model == "lr" else (16, 16)
        Image.new("RGB", size, (shade, 0, 99)).save(folder / "pictures" / model / "a.png")
    return folder


def change_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_finished_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0", trainer={"max_steps": 1e5, "fast": True, "devices": None, "tiny": 1e-5})
    (folder / "pictures" / "gan" / "cats").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "pictures" / "gan" / "cats" / "1.png")
    run = read_run(folder, "0")
    assert (run.status, run.note, run.model, run.scale, run.benchmark) == ("finished", "", "gan", "4", "test")
    assert run.result == Scores(psnr=30.0, ssim=0.75, lpips_alex=0.25, lr_psnr=40.0)
    assert run.models["gan"].images["a"].psnr == 30.5
    assert run.gain == 2.0
    assert run.images_per_s == 40.0  # of 50 and 30; the 10 is of the content phase
    assert run.peak_mib == 300
    assert run.curves["val/psnr"] == [(2, 20.0), (4, 25.0)]
    assert (run.steps_done, sum(run.steps.values()), run.complete) == (4, 4, True)
    pictures = [f"{model}/{image}" for model, images in run.pictures.items() for image in images]
    assert pictures == ["bicubic/a", "content/a", "gan/a", "gan/cats/1", "hr/a", "lr/a"]
    assert run.choices == {"data": "photos", "loss": "mse", "experiment": "null"}
    settings = {"name": "test", "scale": "4", "seed": "1", "loss.gan.weights.mse": "1", "data.root": "/photos"}
    settings |= {"trainer.max_steps": "100000", "trainer.fast": "true", "trainer.devices": "null"}
    assert run.settings == run.choices | settings | {"trainer.tiny": "1e-05"}  # no folder, logger, copies of the seed
    assert (run.value("trainer.fast"), run.value("absent")) == ("true", DEFAULT)


def become(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "absent": Path.unlink,
    "a folder": become_folder,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": become(b""),
    "no text": become(b"\xff\xfe\x00\x80" * 9),
    "a list": become(b"[1, null, {}]"),
    "other types": become(b'{"models": {"gan": 1, "content": {"mean": []}}, "steps": [], "hydra": {"runtime": 5}}'),
    "endless": become(b"&a {phases: *a}"),
    "deep": become(b"[" * 500),
}
READ_FROM = {
    "run.json": {"made_with", "status"},
    "config.yaml": {"config", "settings"},
    "metrics.json": {"models", "benchmark", "note"},
    "metrics.csv": {"curves"},
    ".hydra/hydra.yaml": {"choices", "settings"},
}


@pytest.mark.parametrize("file", READ_FROM)
def test_a_damaged_file_costs_only_what_was_in_it(file: str, tmp_path: Path) -> None:
    whole = read_run(make_run(tmp_path / "0"), "0")
    content = (whole.folder / file).read_bytes()
    for name, damage in DAMAGE.items():
        damage(whole.folder / file)
        run = read_run(whole.folder, "0")
        for field in set().union(*READ_FROM.values()) - READ_FROM[file]:
            if not (file == "run.json" and field == "note"):
                assert getattr(run, field) == getattr(whole, field), (name, field)
        assert (run.steps, run.steps_done) == (whole.steps, whole.steps_done), name  # from another file
        assert run.result is None if file == "metrics.json" else run.complete, name
        if (whole.folder / file).is_dir():
            (whole.folder / file).rmdir()
        (whole.folder / file).write_bytes(content)


def test_a_row_of_the_curves_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    (folder / "metrics.csv").write_text(CSV + "5,,,,26")  # of 26.4, say
    assert read_run(folder, "0").curves["val/psnr"][-1] == (4, 25.0)
    (folder / "metrics.csv").write_text(CSV + "5,,,,26.5\n6,,,,nan\nx,,,,27\n7,1\n8,,,,28.5,9,9\n")
    assert read_run(folder, "0").curves["val/psnr"][2:] == [(5, 26.5), (8, 28.5)]


def test_a_run_without_a_result_says_why(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    change_json(folder / "metrics.json", steps={"content": 2, "gan": 1e5})
    assert read_run(folder, "0").steps == {"content": 2, "gan": 100_000} and not read_run(folder, "0").complete
    (folder / "metrics.json").write_text('{"test": {"content": {"psnr": 30.0}}, "steps": {"content": 2}}')
    assert read_run(folder, "0").note == "metrics.json is not readable by this version"
    (folder / "metrics.json").unlink()
    for status, said in ("failed", "no error.txt and no train.log"), ("interrupted", "says how to go on"):
        change_json(folder / "run.json", status=status, steps={"content": 20, "gan": 5})
        assert said in read_run(folder, "0").note
    run = read_run(folder, "0")
    assert (run.steps, run.steps_done, run.complete) == ({"content": 20, "gan": 5}, 4, False)
    change_json(folder / "run.json", status="failed")
    for file, text, note in (
        ("train.log", "first\nRuntimeError: out of memory\n\n", "RuntimeError: out of memory"),
        ("error.txt", "data.root: no such folder;\nname another\n", "data.root: no such folder; name another"),
    ):
        (folder / file).write_text(text)
        assert read_run(folder, "0").note == note
    (folder / "run.json").unlink()
    assert read_run(folder, "0").status == "failed"


def test_folders_are_found_in_the_order_of_their_numbers_and_once(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match=r"no run in it \(found notes\); name the folder of a sweep"):
        find_runs([tmp_path])
    for folder, said in ("notes", r"no run in it \(found nothing\)"), ("absent", "absent: no such folder"):
        with pytest.raises(UserError, match=said):
            find_runs([tmp_path / folder])
    for number in 10, 9, 2:
        write_choices(tmp_path / str(number), {"loss": "mse"})
    run, *others = find_runs([tmp_path])
    assert [run.label, *(other.label for other in others)] == ["2", "9", "10"]
    assert (run.status, run.complete, run.steps_done) == ("unknown", False, 0)
    assert (run.value("loss"), run.value("seed")) == ("mse", UNKNOWN)
    assert [run.label for run in find_runs([tmp_path / "9"])] == ["9"]
    assert [run.label for run in find_runs([tmp_path / "9", tmp_path])] == ["9", "2", "10"]


def start(run_dir: Path, config: dict[str, Any], continued: bool = False) -> record.RunRecord:
    made_with = ({"content": 2, "gan": 3}, "python -m srgan.train", "cpu", "32-true", {"loss": "srgan_mse"})
    return record.RunRecord.start(run_dir, config, *made_with, continued=continued)


def test_the_folder_tells_how_a_run_was_made_and_how_it_ended(tmp_path: Path) -> None:
    run_dir = tmp_path / "new" / "run"
    config = {"scale": 4, "eps": 1e-5, "name": "1", "none": None, "betas": [0.9, 0.999], "data": {"no": True}}
    written = start(run_dir, config)
    assert list(yaml.safe_load((run_dir / "config.yaml").read_text()).items()) == list(config.items())
    content = json.loads((run_dir / "run.json").read_text())
    made_with = {"steps": {"content": 2, "gan": 3}, "command": "python -m srgan.train", "accelerator": "cpu"}
    assert (made_with | {"status": "running", "precision": "32-true"}).items() <= content.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", content["started"])
    assert "still running, or killed" in read_run(run_dir, "0").note
    written.status = "stopped"
    written.write()
    assert json.loads((run_dir / "run.json").read_text()) == content | {"status": "stopped"}
    with pytest.raises(ValueError, match="JSON"):
        record.write_json(run_dir / "metrics.json", {"psnr": float("inf")})


def test_choices_are_those_of_the_run_and_not_of_a_command_that_was_refused_there(tmp_path: Path) -> None:
    start(tmp_path / "0", {"scale": 4})
    write_choices(tmp_path / "0", {"loss": "srgan_vgg54"})
    assert read_run(tmp_path / "0", "0").choices == {"loss": "srgan_mse"}


def test_lists_of_choices_are_read_from_the_command(tmp_path: Path) -> None:
    """Hydra records no choice for them."""
    write_choices(tmp_path / "0", {"loss": "srgan_mse", "hydra/launcher": "basic", "data": "photos"})
    path = tmp_path / "0" / ".hydra" / "hydra.yaml"
    content = yaml.safe_load(path.read_text())
    (tmp_path / "0" / "config.yaml").write_text("content: {l1: 1}\nmodels: [a]\n")
    content["hydra"]["overrides"] = {"task": ["content=[l1,vgg54]", "content@loss.gan=[l1,grid]", "models=[a]"]}
    path.write_text(yaml.safe_dump(content))
    listed = {"content": "[l1,vgg54]", "content@loss.gan": "[l1,grid]"}
    assert read_run(tmp_path / "0", "0").choices.items() >= listed.items()
    make_run(tmp_path / "1")
    assert read_run(tmp_path / "1", "1").value("content@loss.gan") == UNKNOWN  # perhaps an experiment chose a list


def test_an_earlier_runs_results_are_removed_and_its_curves_and_checkpoints_put_aside(tmp_path: Path) -> None:
    results = ("error.txt", "metrics.json", "comparison.png", "pictures/gan/a.png")
    costly = ("metrics.csv", "checkpoints/content.ckpt", "samples/step_0000001.png", "wandb-id.txt")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/own.png").write_text("no run was here")
    start(tmp_path, {})
    assert (tmp_path / "pictures/own.png").is_file()
    for number in 1, 2:
        for name in (*results, *costly):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"of run {number}")
        start(tmp_path, {}, continued=True)
        assert not any((tmp_path / name).exists() for name in results)
        assert all((tmp_path / name).exists() for name in costly)
        start(tmp_path, {})
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    aside = {
        f"{kind.format(number)}" for kind in ("metrics-{}.csv", "checkpoints-{}/content.ckpt") for number in (1, 2)
    }
    assert left == {"run.json", "config.yaml", *aside}
    assert (tmp_path / "metrics-2.csv").read_text() == "of run 2"
