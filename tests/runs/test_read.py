"""Run folders as they are, and as a crash, a full disk or another version leaves them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from srgan.errors import UserError
from srgan.runs import read as runs

CSV = """step,train/images_per_s,train/loss,train/peak_mib,val/psnr
1,10.0,0.5,100,
2,,,,20.0
3,50.0,0.3,300,
4,30.0,0.2,200,
4,,,,25.0
"""


def scores(psnr: float, lpips: float | None = 0.25) -> dict[str, Any]:
    """As in metrics.json: `psnr` by the protocol matlab, other values by the others."""
    luma = {name: {"psnr": psnr + more, "ssim": 0.75} for name, more in (("paper", 5), ("matlab", 0), ("rgb", -5))}
    return {**luma, "lpips": lpips, "lr_psnr": 40.0}


def make_run(
    folder: Path,
    overrides: tuple[str, ...] = ("loss=srgan_mse", "seed=1"),
    psnr: float = 30.0,
    lpips: float | None = 0.25,
    settings: dict[str, Any] | None = None,
    pictures: bool = True,
) -> Path:
    """A finished run of a content phase of two steps and a GAN phase of two, at ×4 on an image `a`."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    seeds = [int(override[5:]) for override in overrides if override.startswith("seed=")]
    config = {
        "name": "test",
        "scale": 4,
        "seed": seeds[-1] if seeds else 7,
        "run_dir": str(folder),
        "phases": {"content": {"steps": 20, "loss": {}}, "gan": {"steps": 20, "loss": {}}},
        "trainer": {"max_steps": 4},
        "logger": {"csv": {"save_dir": str(folder)}, "wandb": {"name": " ".join(overrides)}},
        **(settings or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(
        json.dumps({"status": "finished", "started": "2026-01-31T12:00:00+0000", "steps": {"content": 2, "gan": 2}})
    )
    (folder / "metrics.csv").write_text(CSV)
    results = {"bicubic": 28.0, "content": psnr + 1, "gan": psnr}
    metrics = {
        "scale": 4,
        "benchmark": "test",
        "models": {
            name: {"mean": scores(value, lpips), "images": {"a": scores(value + 0.5, lpips)}}
            for name, value in results.items()
        },
        "steps": {"content": 2, "gan": 2},
        "steps_done": 4,
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    shades = {"hr": 0, "lr": 10, "bicubic": 20, "content": 30, "gan": 40 + int(psnr)}
    for model, shade in shades.items() if pictures else ():
        (folder / "pictures" / model).mkdir(parents=True)
        size = (4, 4) if model == "lr" else (16, 16)
        Image.new("RGB", size, (shade, 0, 99)).save(folder / "pictures" / model / "a.png")
    return folder


def test_a_finished_run(tmp_path: Path) -> None:
    run = runs.read(make_run(tmp_path / "0"), "0")
    assert (run.status, run.note, run.model, run.scale, run.benchmark) == ("finished", "", "gan", "4", "test")
    assert run.overrides == {"loss": "srgan_mse", "seed": "1"}
    assert run.result == runs.Scores(psnr=30.0, ssim=0.75, lpips=0.25, lr_psnr=40.0)
    assert run.models["gan"].images["a"].psnr == 30.5
    assert run.gain == 2.0
    assert run.images_per_s == 40.0  # of 50 and 30; the 10 is of the content phase
    assert run.peak_mib == 300
    assert run.curves["val/psnr"] == [(2, 20.0), (4, 25.0)]
    assert (run.steps_done, sum(run.steps.values()), run.complete) == (4, 4, True)
    assert {model: list(images) for model, images in run.pictures.items()} == {
        name: ["a"] for name in ("bicubic", "content", "gan", "hr", "lr")
    }


def test_pictures_of_nested_folders_are_found(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    (folder / "pictures" / "gan" / "cats").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "pictures" / "gan" / "cats" / "1.png")
    assert list(runs.read(folder, "0").pictures["gan"]) == ["a", "cats/1"]


def test_steps_written_as_floats_count(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    metrics = json.loads((folder / "metrics.json").read_text()) | {"steps": {"content": 2, "gan": 1e5}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    run = runs.read(folder, "0")
    assert run.steps == {"content": 2, "gan": 100_000} and not run.complete


FILES = ["run.json", "config.yaml", "metrics.json", "metrics.csv", ".hydra/overrides.yaml"]
READ_FROM = {
    "run.json": {"record", "status"},
    "config.yaml": {"config", "settings"},
    "metrics.json": {"models", "benchmark", "note"},
    "metrics.csv": {"curves"},
    ".hydra/overrides.yaml": {"overrides"},
}


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def become(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "absent": Path.unlink,
    "a folder": become_folder,
    "cut off": cut_off,
    "empty": become(b""),
    "no text": become(b"\xff\xfe\x00\x80" * 9),
    "a list": become(b"[1, null, {}]"),
    "a number": become(b"3"),
    "other types": become(b'{"models": {"gan": 1, "content": {"mean": []}}, "steps": [], "trainer": 2, "phases": 5}'),
    "endless": become(b"&a {phases: *a}"),
    "deep": become(b"[" * 500),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_costs_only_what_was_in_it(file: str, damage: str, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    whole = runs.read(folder, "0")
    DAMAGE[damage](folder / file)
    run = runs.read(folder, "0")
    for field in set().union(*READ_FROM.values()) - READ_FROM[file]:
        if not (file == "run.json" and field == "note"):
            assert getattr(run, field) == getattr(whole, field), field
    assert (run.steps, run.steps_done) == (whole.steps, whole.steps_done)  # from another file
    assert run.result is None if file == "metrics.json" else run.complete
    assert runs.configurations([run], runs.varied_keys([run]))[0].runs == [run]


def test_metrics_of_another_version_are_said_to_be_unreadable(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    (folder / "metrics.json").write_text(json.dumps({"test": {"content": {"psnr": 30.0}}, "steps": {"content": 2}}))
    run = runs.read(folder, "0")
    assert run.note == "metrics.json is not readable by this version"
    assert run.result is None


def test_a_row_of_the_curves_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    (folder / "metrics.csv").write_text(CSV + "5,,,,26")  # of 26.4, say
    assert runs.read(folder, "0").curves["val/psnr"][-1] == (4, 25.0)
    (folder / "metrics.csv").write_text(CSV + "5,,,,26.5\n6,,,,nan\nx,,,,27\n7,1\n8,,,,28.5,9,9\n")
    assert runs.read(folder, "0").curves["val/psnr"][2:] == [(5, 26.5), (8, 28.5)]


def test_what_a_run_without_a_result_says(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    (folder / "metrics.json").unlink()
    (folder / "run.json").write_text('{"status": "failed"}')
    assert "no error.txt and no train.log" in runs.read(folder, "0").note
    (folder / "train.log").write_text("first\nRuntimeError: out of memory\n\n")
    assert runs.read(folder, "0").note == "RuntimeError: out of memory"
    (folder / "error.txt").write_text("data.root: no such folder;\nname another\n")
    assert runs.read(folder, "0").note == "data.root: no such folder; name another"
    (folder / "run.json").unlink()
    assert runs.read(folder, "0").status == "failed"
    (folder / "error.txt").unlink()
    (folder / "run.json").write_text('{"status": "running"}')
    assert "still running, or killed" in runs.read(folder, "0").note


def test_a_run_that_failed_at_once_has_overrides_and_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path / "0", ("loss=srgan_mse", "seed=1"))
    (tmp_path / "1" / ".hydra").mkdir(parents=True)
    (tmp_path / "1" / ".hydra" / "overrides.yaml").write_text("- loss=srgan_mse\n- seed=2\n")
    found = runs.find([tmp_path])
    assert runs.varied_keys(found) == ["seed"]  # what its scale would have been isn't known, so doesn't differ
    assert [len(group.runs) for group in runs.configurations(found, ["seed"])] == [2]
    assert (found[1].status, found[1].complete, found[1].steps_done) == ("unknown", False, 0)


def test_overrides_out_of_the_command(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    (folder / ".hydra" / "overrides.yaml").unlink()
    command = "python -m srgan.train loss=srgan_mse 'data.root=/my photos' +data.x=True"
    (folder / "run.json").write_text(json.dumps({"command": command}))
    assert runs.read(folder, "0").overrides == {"loss": "srgan_mse", "data.root": "/my photos", "data.x": "true"}
    (folder / "run.json").write_text(json.dumps({"command": "python -m srgan.train 'a=b"}))
    assert runs.read(folder, "0").overrides == {}


def test_the_plan_of_a_run_without_metrics_is_that_of_its_record(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    (folder / "metrics.json").unlink()
    (folder / "run.json").write_text(json.dumps({"status": "running", "steps": {"content": 20, "gan": 5}}))
    run = runs.read(folder, "0")
    assert run.steps == {"content": 20, "gan": 5}
    assert (run.steps_done, run.complete) == (4, False)


def test_seeds_are_one_configuration(tmp_path: Path) -> None:
    for number, (loss, seed, psnr) in enumerate(
        [("srgan_mse", 1, 30.0), ("srresnet_mse", 1, 33.0), ("srgan_mse", 2, 31.0), ("srgan_mse", 3, 35.0)]
    ):
        make_run(tmp_path / str(number), (f"loss={loss}", f"seed={seed}", "batch_size=4"), psnr)
    found = runs.find([tmp_path])
    assert runs.varied_keys(found) == ["loss", "seed"]
    assert runs.fixed_overrides(found) == {"batch_size": "4"}
    several, single = runs.configurations(found, ["loss", "seed"])
    assert [run.label for run in several.runs] == ["0", "2", "3"]
    assert (several.label, single.label) == ("loss=srgan_mse", "loss=srresnet_mse")
    # 30, 31, 35: mean 32, deviations −2, −1, 3, sample variance (4 + 1 + 9) / 2
    assert several.mean(lambda run: run.result and run.result.psnr) == pytest.approx((32.0, 7**0.5))
    assert several.mean(lambda run: run.gain) == pytest.approx((4.0, 7**0.5))
    assert single.mean(lambda run: run.gain) == (5.0, None)
    assert single.mean(lambda run: None) is None


def test_a_run_that_was_stopped_is_not_averaged(tmp_path: Path) -> None:
    for seed, psnr in (1, 30.0), (2, 20.0):
        make_run(tmp_path / str(seed), ("loss=srgan_mse", f"seed={seed}"), psnr)
    metrics = json.loads((tmp_path / "2" / "metrics.json").read_text())
    (tmp_path / "2" / "metrics.json").write_text(json.dumps(metrics | {"steps_done": 3}))
    (group,) = runs.configurations(runs.find([tmp_path]), ["seed"])
    assert group.mean(lambda run: run.result and run.result.psnr) == (30.0, None)


def test_values_are_the_same_however_they_are_written(tmp_path: Path) -> None:
    for number, lr in enumerate(["lr=1e-4", "lr=0.0001", "+lr=1.0E-4", "name=test"]):
        make_run(tmp_path / str(number), (lr, "flag=True" if number else "flag=true"), settings={"lr": 0.0001})
    assert runs.varied_keys(runs.find([tmp_path])) == []


def test_a_key_that_one_command_line_leaves_out_is_looked_up_in_the_config(tmp_path: Path) -> None:
    make_run(tmp_path / "0", ("a.lr=1",), settings={"a": {"lr": 1}})
    make_run(tmp_path / "1", ("loss=srgan_mse",), settings={"a": {"lr": 2}})
    found = runs.find([tmp_path])
    assert [run.value("a.lr") for run in found] == ["1", "2"]
    assert [run.value("loss") for run in found] == [runs.DEFAULT, "srgan_mse"]


def test_runs_of_one_command_line_but_another_config_are_two_configurations(tmp_path: Path) -> None:
    old = {"phases": {"gan": {"steps": 100, "loss": {}}}, "copy": {"of": {"steps": 100}}}
    new = {"phases": {"gan": {"steps": 200, "loss": {}}}, "copy": {"of": {"steps": 200}}}
    for sweep, settings in ("old", old), ("new", new):
        for seed in 1, 2:
            make_run(tmp_path / sweep / str(seed), (f"seed={seed}",), settings=settings)
    found = runs.find([tmp_path / "old", tmp_path / "new"])
    assert [run.label for run in found] == ["old/1", "old/2", "new/1", "new/2"]
    varied = runs.varied_keys(found)
    assert varied == ["seed", "copy.of.steps"]
    assert [group.label for group in runs.configurations(found, varied)] == ["steps=100", "steps=200"]


def test_the_configuration_in_common(tmp_path: Path) -> None:
    make_run(tmp_path / "0", settings={"data": {"crop": 96, "root": "/a", "list": [1]}, "trainer": None})
    make_run(tmp_path / "1", settings={"data": {"crop": 96, "root": "/b", "list": [1]}, "trainer": {"x": 1}})
    common = runs.common_config(runs.find([tmp_path]))
    assert common["data"] == {"crop": 96, "list": [1]}
    assert {"trainer", "run_dir"}.isdisjoint(common)
    assert common["phases"]["gan"]["steps"] == 20


def test_folders_are_found_in_the_order_of_their_numbers_and_once(tmp_path: Path) -> None:
    for number in 10, 9, 2:
        make_run(tmp_path / str(number))
    (tmp_path / "notes").mkdir()
    assert [run.label for run in runs.find([tmp_path])] == ["2", "9", "10"]
    assert [run.label for run in runs.find([tmp_path / "9"])] == ["9"]
    assert [run.label for run in runs.find([tmp_path / "9", tmp_path])] == ["9", "2", "10"]


def test_folders_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such folder"):
        runs.find([tmp_path / "absent"])
    with pytest.raises(UserError, match=r"no run in it \(found nothing\)"):
        runs.find([tmp_path])
    (tmp_path / "photos").mkdir()
    make_run(tmp_path / "sweeps" / "today" / "0")
    with pytest.raises(UserError, match=r"no run in it \(found photos, sweeps\); name the folder of a sweep"):
        runs.find([tmp_path])
