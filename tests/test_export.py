"""What is known of a generator goes with its export; two checkpoints are averaged; each mistake is one line."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from srgan import export, weights
from srgan.inference import formats
from srgan.models import checkpoints
from srgan.models.generators import Compact, Generator, SRResNet


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new_generator(kind: type[SRResNet | Compact] = SRResNet, channels: int = 8) -> Generator:
    torch.manual_seed(0)
    return kind(2, channels, blocks=1).eval()


def node(kind: type[SRResNet | Compact] = SRResNet, channels: int = 8) -> dict[str, Any]:
    return {"_target_": f"srgan.models.generators.{kind.__name__}", "scale": 2, "channels": channels, "blocks": 1}


def write_run(folder: str = "run", name: str = "last", shift: float = 0, step: int = 30, **metrics: Any) -> str:
    """A run's folder with one checkpoint, as `srgan.train` leaves it, with a generator moved by `shift`."""
    path = Path(folder, "checkpoints", f"{name}.ckpt")
    path.parent.mkdir(parents=True)
    loss = {"_target_": "srgan.losses.mix.LossMix", "weights": {"mse": 4.0, "l1": 0.0}}
    config = {
        "name": "faces",
        "generator": node(),
        "run_dir": folder,
        "data": {"_target_": "srgan.data.datamodule.Folder", "root": folder, "crop": 96, "augment": "flip"},
        "phases": {"content": {"loss": loss}, "gan": {"loss": loss | {"weights": {"mse": 1.0, "adversarial": 1e-3}}}},
    }
    state = {f"ema.{key}": value + shift for key, value in new_generator().state_dict().items()}
    phases = {"content": 20, "gan": 10}
    torch.save({"state_dict": state, "config": config, "global_step": step, "phases": phases}, path)
    record = {"command": f"python -m srgan.train data.root={folder}", "git_commit": "abc", "versions": {"torch": "2"}}
    Path(folder, "run.json").write_text(json.dumps(record))
    models = {model: {"mean": {"matlab": {"psnr": psnr}}} for psnr, model in enumerate(("bicubic", "content", "gan"))}
    content = {"benchmark": "Folder test", "models": models, "steps": phases, "steps_done": 30} | metrics
    Path(folder, "metrics.json").write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def run() -> str:
    return write_run()


def sha(path: str) -> dict[str, str]:
    """What srgan.evaluate writes of a file's weights."""
    return {"weights_sha256": checkpoints.fingerprint(checkpoints.load(Path(path)))}


def export_safetensors(*arguments: str) -> dict[str, Any]:
    """Export to net.safetensors; the description in it."""
    export.main([*arguments, "--format", "safetensors", "-o", "net.safetensors", "--force"])
    return checkpoints.describe(Path("net.safetensors"))


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that says why the command failed."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        export.main([*arguments])
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (1, "")
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    return printed.err


def test_what_is_known_goes_with_the_export(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_safetensors(run) == {
        "generator": node(),
        "about": {
            "name": "faces",
            "scale": 2,
            "architecture": "SRResNet, 8 channels, 1 blocks",
            "weights": sum(parameter.numel() for parameter in new_generator().parameters()),
            "phase": "gan",
            "steps": {"content": 20, "gan": 10},
            "loss": {"mse": 1.0, "adversarial": 1e-3},
            "data": {"kind": "Folder", "crop": 96, "augment": "flip"},
            "git_commit": "abc",
            "versions": {"torch": "2"},
            "figures": {"Folder test": {"own": {"matlab": {"psnr": 2}}, "bicubic": {"matlab": {"psnr": 0}}}},
        },
    }
    printed = capsys.readouterr().out
    assert printed.startswith("net.safetensors: SRResNet ×2, ") and "by at most 0 grey levels on 3 photogr" in printed
    Path("run/metrics.json").write_text("no json")
    Path("run/run.json").unlink()
    about = export.read(Path(run))[1]["about"]
    assert about["phase"] == "gan" and not about.keys() & {"figures", "versions", "git_commit"}


@pytest.mark.parametrize(
    ("step", "steps_done", "phase", "psnr"),
    [
        (20, 30, "content", 1),  # content.ckpt
        (30, 30, "gan", 2),
        (26, 30, "gan", None),  # best.ckpt, before the end
        (26, 26, "gan", 2),  # the last one of a run that was stopped
        (15, 30, "content", None),
        (20, 12, "content", None),  # the figures are those of an earlier part of the run
    ],
)
def test_figures_are_those_of_the_very_weights(step: int, steps_done: int, phase: str, psnr: int | None) -> None:
    about = export.read(Path(write_run(step=step, steps_done=steps_done)))[1]["about"]
    steps = {"content": min(20, step), "gan": max(0, step - 20)}
    loss = {"mse": 4.0} if phase == "content" else {"mse": 1.0, "adversarial": 1e-3}
    assert (about["phase"], about["steps"], about["loss"]) == (phase, steps, loss)
    figures = {"Folder test": {"own": {"matlab": {"psnr": psnr}}, "bicubic": {"matlab": {"psnr": 0}}}}
    assert about.get("figures") == (figures if psnr else None)


def test_a_checkpoint_that_lacks_a_part_of_its_configuration_is_exported_with_what_is_left(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = checkpoints.read(run)

    def places(tree: dict[str, Any], *keys: str) -> list[tuple[str, ...]]:
        below = [places(value, *keys, key) for key, value in tree.items() if isinstance(value, dict)]
        return [*((*keys, key) for key in tree), *(place for part in below for place in part)]

    tried = [place for place in places(whole["config"]) if place[0] != "generator"]
    assert ("phases", "gan", "loss", "weights") in tried
    for *above, key in tried:
        for other in (None, 7, "text", {}):
            changed = copy.deepcopy(whole)
            tree = changed["config"]
            for name in above:
                tree = tree[name]
            tree[key] = other
            monkeypatch.setattr(checkpoints, "read", lambda _, changed=changed: changed)
            about = export.read(Path(run))[1]["about"]
            assert (about["phase"], about["scale"]) == ("gan", 2)
    monkeypatch.setattr(checkpoints, "read", lambda _: whole | {"config": {"generator": node()}})
    assert "loss" not in export.read(Path(run))[1]["about"]


def test_a_note_and_the_figures_of_benchmarks_go_with_it(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    export_safetensors(run)
    bare = str(Path("net.safetensors").rename("bare.safetensors"))
    other = write_run("other", shift=1)
    models: dict[str, Any] = {
        name: {"mean": {"rgb": {"psnr": psnr}}} for psnr, name in enumerate(("bicubic", "nearest", bare))
    }
    models[bare] |= sha(bare)
    one, several = Path("one.json"), Path("several.json")
    one.write_text(json.dumps({"benchmark": "Set5", "models": models}))
    del models[bare]
    models["other"] = {"mean": "another's"} | sha(other)
    models["of an earlier version"] = {"mean": "nobody's"}
    several.write_text(json.dumps({"benchmark": "Set14", "models": models | {run: {"mean": "its own"} | sha(run)}}))
    about = export_safetensors(run, "--note", "of faces", "--metrics", "one.json", "--metrics", "several.json")["about"]
    assert about["note"] == "of faces"
    assert about["figures"].keys() == {"Folder test", "Set5", "Set14"}
    assert about["figures"]["Set5"] == {"own": {"rgb": {"psnr": 2}}, "bicubic": {"rgb": {"psnr": 0}}}
    assert about["figures"]["Set14"]["own"] == "its own"
    assert export_safetensors(other, "--metrics", "several.json")["about"]["figures"]["Set14"]["own"] == "another's"
    phase = write_run("phase", name="gan", step=26)  # whose own figures are those of step 30
    assert "figures" not in export_safetensors(phase)["about"]
    several.write_text(json.dumps({"benchmark": "Set14", "models": models}))
    error = failing(capsys, run, "--format", "safetensors", "--metrics", "several.json")
    assert "several.json: scores other, of an earlier version, and none has the weights that are exported" in error


def test_the_figures_of_a_mix_are_those_of_its_own_file(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    mix = [run, "--mix", write_run("other", shift=1)]
    export_safetensors(*mix)
    mixed = str(Path("net.safetensors").rename("mixed.safetensors"))
    models = {name: {"mean": name} | ({} if name == "bicubic" else sha(name)) for name in ("bicubic", run, mixed)}
    Path("one.json").write_text(json.dumps({"benchmark": "Set5", "models": models}))
    assert export_safetensors(*mix, "--metrics", "one.json")["about"]["figures"]["Set5"]["own"] == mixed
    del models[mixed]
    Path("one.json").write_text(json.dumps({"benchmark": "Set5", "models": models}))
    assert "none has the weights" in failing(capsys, *mix, "--format", "safetensors", "--metrics", "one.json")


def test_an_export_is_exported_with_all_that_it_knew_and_named_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("faces_best.safetensors").write_bytes(b"mine")
    export.main([write_run(name="best"), "--format", "safetensors", "--force"])
    first = Path("faces_best.safetensors").rename("srgan_x2.safetensors")
    monkeypatch.setattr(weights, "FOLDER", Path())
    assert export_safetensors("srgan_x2")["about"]["phase"] == "gan"
    assert Path("net.safetensors").read_bytes() == first.read_bytes()
    export.main(["srgan_x2", "--format", "torch_export"])
    assert Path("srgan_x2.pt2").is_file()


def test_an_average_lies_between_both_and_says_so(run: str) -> None:
    other = write_run("other", shift=1)
    for share, given in ((0.25, ["--share", "0.25"]), (0.5, [])):
        about = export_safetensors(run, "--mix", other, *given)["about"]
        for name, value in checkpoints.load("net.safetensors").state_dict().items():
            expected = new_generator().state_dict()[name] + (share if value.is_floating_point() else 0)
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
        (mixed,) = about["mixed_with"]
        assert (mixed["share"], mixed["phase"]) == (share, "gan")
        assert "figures" not in about
    about = export_safetensors("net.safetensors", "--mix", run, "--share", "1")["about"]
    assert [entry["share"] for entry in about["mixed_with"]] == [0.5, 1]


def test_networks_of_other_activations_are_not_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    for activation in ("relu", "leaky_relu"):
        generator = SRResNet(2, 8, 1, activation)
        checkpoints.save_weights(Path(f"{activation}.safetensors"), generator, node() | {"activation": activation})
    error = failing(capsys, "relu.safetensors", "--mix", "leaky_relu.safetensors", "--format", "basicsr")
    assert "leaky_relu.safetensors: its network has other layers, such as activations" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mix", "other.safetensors", "--share", "1.5"], "--share 1.5: expected 0"),
        (["--mix", "other.safetensors", "--share", "-0.1"], "--share -0.1: expected 0"),
        (["--share", "0.5"], "name it by --mix OTHER"),
        (["--mix", "other.safetensors"], "can't be mixed with SRResNet"),
        (["--mix", "wide.safetensors"], "does not fit"),
        (["--mix", "absent"], "absent"),
        (["--mix", "run"], "run is a run's folder; give one of its checkpoints, such as run/checkpoints/last.ckpt"),
        (["-o", "net.onnx"], "writes .safetensors files; name it net.safetensors"),
        (["-o", "file/net.safetensors"], "file/net.safetensors: can't be written"),
        (["-o", "file.safetensors"], "file.safetensors is there already; --force"),
        (["--format", "onnx"], "needs onnx, onnxruntime, onnxscript: pip install 'srgan[onnx]'"),
        (["--metrics", "file"], "file: no metrics.json of srgan.evaluate"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    arguments: list[str], message: str, run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda package: None)
    for name, kind, channels in (("other", Compact, 8), ("wide", SRResNet, 16)):
        path = Path(f"{name}.safetensors")
        checkpoints.save_weights(path, new_generator(kind, channels), node(kind, channels))
    for name in ("file", "file.safetensors"):
        Path(name).write_text("text")
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    assert message in failing(capsys, run, "--format", "safetensors", *arguments)
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
