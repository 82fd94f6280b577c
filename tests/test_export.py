"""Every format holds the generator, of every size; what is known of it goes with it; a bad export leaves nothing."""

import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import srgan
from srgan import export, weights
from srgan.models import checkpoints
from srgan.models.generators import Compact, Generator, SRResNet

FORMATS = ("safetensors", "onnx", "torchscript", "torch_export")
SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".pt", "torch_export": ".pt2"}
KINDS: dict[str, type[SRResNet | Compact]] = {"SRResNet": SRResNet, "Compact": Compact}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(kind: str = "Compact", scale: int = 2, channels: int = 8) -> Generator:
    """SR near the middle of [0, 1] with some of it beyond; normalisations are no identities."""
    torch.manual_seed(scale)
    generator = KINDS[kind](scale, channels, blocks=1)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    nn.init.normal_(generator.tail.weight, std=0.1)
    return generator.eval()


def node(generator: Generator) -> dict[str, Any]:
    kind, channels = type(generator).__name__, generator.state_dict()["head.0.weight"].shape[0]
    return {
        "_target_": f"srgan.models.generators.{kind}",
        "scale": generator.scale,
        "channels": channels,
        "blocks": 1,
    }


def write_run(folder: Path, generator: Generator, name: str = "last", step: int = 30, **metrics: Any) -> Path:
    """A run's folder with one checkpoint, as `srgan.train` leaves it."""
    path = folder / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    loss = {"_target_": "srgan.losses.mix.LossMix", "weights": {"mse": 4.0, "l1": 0.0}}
    config = {
        "name": "faces",
        "generator": node(generator),
        "run_dir": str(folder),
        "data": {"_target_": "srgan.data.datamodule.Folder", "root": str(folder), "crop": 96, "augment": "flip"},
        "phases": {"content": {"loss": loss}, "gan": {"loss": loss | {"weights": {"mse": 1.0, "adversarial": 1e-3}}}},
    }
    state = {f"ema.{key}": value for key, value in generator.state_dict().items()}
    phases = {"content": 20, "gan": 10}
    torch.save({"state_dict": state, "config": config, "global_step": step, "phases": phases}, path)
    record = {"command": f"python -m srgan.train data.root={folder}", "git_commit": "abc", "versions": {"torch": "2"}}
    (folder / "run.json").write_text(json.dumps(record))
    models = {model: {"mean": {"matlab": {"psnr": psnr}}} for psnr, model in enumerate(("bicubic", "content", "gan"))}
    content = {"benchmark": "Folder test", "models": models, "steps": phases, "steps_done": 30} | metrics
    (folder / "metrics.json").write_text(json.dumps(content))
    return path


def failing(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says why."""
    with pytest.raises(SystemExit) as stopped:
        export.main(arguments)
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    return printed.err


def known(path: Path) -> dict[str, Any]:
    """The description in an export."""
    if path.suffix == ".safetensors":
        return checkpoints.describe(path)
    if path.suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        return json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["srgan"])
    with zipfile.ZipFile(path) as archive:
        return json.loads(next(archive.read(name) for name in archive.namelist() if name.endswith("srgan.json")))


# --- what is exported -------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("form", FORMATS)
def test_an_export_gives_the_generators_sr_at_any_size(
    form: str, kind: str, scale: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    generator = trained(kind, scale)
    path = write_run(tmp_path / "run", generator)
    output = tmp_path / "new" / "folder" / f"net{SUFFIXES[form]}"
    export.main([str(path), "--format", form, "-o", str(output)])
    printed = capsys.readouterr().out
    assert f"{output}: {kind} ×{scale}, " in printed and "grey levels on 3 photographs" in printed
    assert [file.name for file in output.parent.iterdir()] == [output.name]
    exported = export.FORMATS[form].load(output)
    beyond = False
    for shape in ((1, 3, 1, 1), (1, 3, 23, 9), (2, 3, 8, 31), (3, 3, 12, 10)):
        lr = torch.rand(shape)
        expected, sr = generator(lr), exported(lr)
        assert sr.shape == expected.shape and sr.dtype == torch.float32
        if form != "safetensors":
            assert sr.min() >= 0 and sr.max() <= 1
            beyond |= bool((expected != expected.clamp(0, 1)).any())
            expected = expected.clamp(0, 1)
        torch.testing.assert_close(sr, expected, atol=1e-5, rtol=1e-5)
    assert beyond or form == "safetensors", "nothing was there to clamp"
    data = output.read_bytes()
    for place in (tmp_path, Path(srgan.__file__).parent, Path(torch.__file__).parent):
        assert str(place).encode() not in data


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_known_goes_with_the_export(form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")
    generator = trained()
    output = tmp_path / f"net{SUFFIXES[form]}"
    export.main([str(write_run(tmp_path / "run", generator)), "--format", form, "-o", str(output)])
    assert known(output) == {
        "generator": node(generator),
        "about": {
            "name": "faces",
            "scale": 2,
            "architecture": "Compact, 8 channels, 1 blocks",
            "weights": sum(parameter.numel() for parameter in generator.parameters()),
            "phase": "gan",
            "steps": {"content": 20, "gan": 10},
            "loss": {"mse": 1.0, "adversarial": 1e-3},
            "data": {"kind": "Folder", "crop": 96, "augment": "flip"},
            "git_commit": "abc",
            "versions": {"torch": "2"},
            "figures": {"Folder test": {"own": {"matlab": {"psnr": 2}}, "bicubic": {"matlab": {"psnr": 0}}}},
        },
    }


@pytest.mark.parametrize(
    ("step", "steps_done", "phase", "scored"),
    [
        (20, 30, "content", True),  # content.ckpt
        (30, 30, "gan", True),
        (26, 30, "gan", False),  # best.ckpt, before the end
        (26, 26, "gan", True),  # the last one of a run that was stopped
        (15, 30, "content", False),
        (20, 12, "content", False),  # the figures are those of an earlier part of the run
    ],
)
def test_figures_are_those_of_the_very_weights(
    step: int, steps_done: int, phase: str, scored: bool, tmp_path: Path
) -> None:
    path = write_run(tmp_path / "run", trained(), step=step, steps_done=steps_done)
    about = export.read(path)[1]["about"]
    assert about["phase"] == phase
    assert about["steps"] == {"content": min(20, step), "gan": max(0, step - 20)}
    assert about["loss"] == ({"mse": 4.0} if phase == "content" else {"mse": 1.0, "adversarial": 1e-3})
    own = {"content": {"psnr": 1}, "gan": {"psnr": 2}}[phase]
    figures = {"Folder test": {"own": {"matlab": own}, "bicubic": {"matlab": {"psnr": 0}}}}
    assert about.get("figures") == (figures if scored else None)


def test_a_note_and_the_figures_of_benchmarks_go_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "run", trained())
    models = {name: {"mean": {"rgb": {"psnr": psnr}}} for psnr, name in enumerate(("bicubic", "nearest", "mine"))}
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    one.write_text(json.dumps({"benchmark": "Set5", "models": models}))
    several.write_text(json.dumps({"benchmark": "Set14", "models": models | {str(path): {"mean": "its own"}}}))
    arguments = [str(path), "--format", "safetensors", "-o", str(tmp_path / "net.safetensors")]
    export.main([*arguments, "--note", "of faces", "--metrics", str(one), "--metrics", str(several)])
    about = known(tmp_path / "net.safetensors")["about"]
    assert about["note"] == "of faces"
    assert about["figures"].keys() == {"Folder test", "Set5", "Set14"}
    assert about["figures"]["Set5"] == {"own": {"rgb": {"psnr": 2}}, "bicubic": {"rgb": {"psnr": 0}}}
    assert about["figures"]["Set14"]["own"] == "its own"
    capsys.readouterr()
    several.write_text(json.dumps({"benchmark": "Set14", "models": models | {"other": models["mine"]}}))
    assert "has mine, other, not" in failing([*arguments, "--force", "--metrics", str(several)], capsys)
    assert "no metrics.json" in failing([*arguments, "--force", "--metrics", str(path)], capsys)


def test_a_checkpoint_outside_of_its_run_is_exported_with_less_known(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", trained())
    for damaged in ("", "no json"):
        (tmp_path / "run" / "metrics.json").write_text(damaged)
        (tmp_path / "run" / "run.json").unlink(missing_ok=True)
        about = export.read(path)[1]["about"]
        assert about["phase"] == "gan" and not about.keys() & {"figures", "versions", "git_commit"}


def test_an_export_is_exported_with_all_that_it_knew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path / "run", trained("SRResNet"))
    first, second = tmp_path / "srgan_x2.safetensors", tmp_path / "again.safetensors"
    export.main([str(path), "--format", "safetensors", "-o", str(first)])
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    export.main(["srgan_x2", "--format", "safetensors", "-o", str(second)])
    assert second.read_bytes() == first.read_bytes()
    assert known(first)["about"]["phase"] == "gan"
    export.main(["srgan_x2", "--format", "torchscript"])
    assert (tmp_path / "srgan_x2.pt").is_file()


# --- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_onnx_graph_is_convolutions_and_shuffles_in_one_file(kind: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    generator = trained(kind, 4, channels=32)  # large enough that the exporter folds no kernel by itself
    path = tmp_path / "net.onnx"
    export.main([str(write_run(tmp_path / "run", generator)), "--format", "onnx", "-o", str(path)])
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(part.op_type for part in model.graph.node)
    of_both = {"Conv": 7, "PRelu": 4, "Add": 3, "DepthToSpace": 2, "Clip": 1}
    of_one = {"Div": 1} if kind == "SRResNet" else {"Conv": 8, "DepthToSpace": 3, "Pad": 1}
    assert kinds == of_both | of_one
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 18)}
    assert model.ir_version == 8
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert {entry.key: entry.value for entry in model.metadata_props}["scale"] == "4"
    (lr,), (sr,) = model.graph.input, model.graph.output
    sizes = [[size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in (lr, sr)]
    assert (lr.name, sr.name) == ("input", "output")
    assert sizes == [["batch", 3, "height", "width"], ["batch", 3, "4*height", "4*width"]]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_onnx_it_says_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path / "run", trained())
    monkeypatch.setitem(sys.modules, package, None)
    assert package in (said := failing([str(path), "--format", "onnx"], capsys)) and "'srgan[onnx]'" in said
    export.main([str(path), "--format", "safetensors"])


# --- what can't be exported -------------------------------------------------------------------------------------------


def sabotaged(load: Callable[[Path], Any], change: Callable[[Tensor], Tensor]) -> Callable[[Path], Any]:
    return lambda path: lambda lr: change(load(path)(lr))


@pytest.mark.parametrize("form", ["safetensors", "torchscript"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sr: sr * 0.98, "grey levels, more than 1"),
        (lambda sr: sr * float("nan"), "differs from the original by nan"),
        (lambda sr: sr[..., :-1], "the export makes"),
    ],
)
def test_an_export_that_differs_is_an_error_and_leaves_nothing(
    form: str,
    change: Callable[[Tensor], Tensor],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_run(tmp_path / "run", trained())
    good = export.FORMATS[form]
    wrong = replace(good, load=sabotaged(good.load, change))
    monkeypatch.setitem(export.FORMATS, form, wrong)
    output = tmp_path / "new" / f"net{good.suffix}"
    assert words in failing([str(path), "--format", form, "-o", str(output)], capsys)
    assert not list(output.parent.iterdir())
    output.write_bytes(b"mine")
    failing([str(path), "--format", form, "-o", str(output), "--force"], capsys)
    assert output.read_bytes() == b"mine"


def test_the_difference_is_that_of_the_worst_pixel_in_grey_levels() -> None:
    generator = trained()

    def other(lr: Tensor) -> Tensor:
        sr = generator(lr).clamp(0, 1)
        sr[0, 1, 2, 3] += 0.5 / 255 if sr[0, 1, 2, 3] < 0.5 else -0.5 / 255
        return sr

    images = export.photographs()
    assert [tuple(image.shape) for image in images] == [(1, 3, 37, 53), (1, 3, 64, 48), (1, 3, 5, 9)]
    assert all(0 <= image.min() < image.max() <= 1 for image in images)
    assert export.difference(generator, other, images) == pytest.approx(0.5, abs=1e-3)
    assert export.difference(generator, generator, images) == 0


@pytest.mark.parametrize("form", FORMATS)
def test_a_name_of_another_format_is_refused(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run", trained())
    monkeypatch.setattr(export, "read", lambda path: pytest.fail("too late"))
    for name in ("net", "net.pth", "net.onnx" if form != "onnx" else "net.pt"):
        said = failing([str(path), "--format", form, "-o", name], capsys)
        assert f"writes {SUFFIXES[form]} files; name it net{SUFFIXES[form]}" in said


def test_a_file_is_overwritten_by_force_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "run", trained(), name="best")
    output = tmp_path / "faces_best.safetensors"
    output.write_bytes(b"mine")
    assert "faces_best.safetensors is there already; --force" in failing([str(path), "--format", "safetensors"], capsys)
    assert output.read_bytes() == b"mine"
    export.main([str(path), "--format", "safetensors", "--force"])
    assert checkpoints.is_exported(output)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("nonsense", "no weights 'nonsense'"),
        ("notes.txt", "notes.txt: not a checkpoint"),
        ("notes.safetensors", "notes.safetensors: not weights exported by srgan"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(
    checkpoint: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("notes.txt", "notes.safetensors"):
        (tmp_path / name).write_text("text")
    assert words in failing([checkpoint, "--format", "torchscript"], capsys)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "run", trained())
    (tmp_path / "file").write_text("no folder")
    said = failing([str(path), "--format", "safetensors", "-o", "file/net.safetensors"], capsys)
    assert "file/net.safetensors: can't be written" in said


def test_the_command_line_knows_no_framework(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", trained())
    code = (
        "import runpy, sys; runpy.run_module('srgan.export', run_name='__main__', alter_sys=True);"
        " assert not sys.modules.keys() & {'hydra', 'lightning', 'wandb', 'spandrel', 'onnx'}"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(path), "--format", "torchscript"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith("faces_last.pt: Compact ×2, ")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: faces_last.pt is there already") and done.stderr.count("\n") == 1


def test_a_mix_lies_between_both_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, theirs = (trained("SRResNet") for _ in range(2))
    with torch.no_grad():
        for value in theirs.state_dict().values():
            value.add_(1)
    paths = [write_run(tmp_path / name, generator) for name, generator in (("mine", mine), ("theirs", theirs))]
    export.main(
        [str(paths[0]), "--format", "safetensors", "-o", "m.safetensors", "--mix", str(paths[1]), "--share", "0.25"]
    )
    for name, value in checkpoints.load("m.safetensors").state_dict().items():
        expected = mine.state_dict()[name] + (0.25 if value.is_floating_point() else 0)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    about = checkpoints.describe(Path("m.safetensors"))["about"]
    (mixed,) = about["mixed_with"]
    assert (mixed["share"], mixed["phase"]) == (0.25, "gan")
    assert "figures" not in about
    assert "m.safetensors" in capsys.readouterr().out
    away = ["--mix", str(paths[0]), "--share", "-1"]
    export.main(["m.safetensors", "--format", "safetensors", "-o", "n.safetensors", *away])
    for name, value in checkpoints.load("n.safetensors").state_dict().items():
        expected = mine.state_dict()[name] + (0.5 if value.is_floating_point() else 0)  # as far again
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    again = checkpoints.describe(Path("n.safetensors"))["about"]["mixed_with"]
    assert [part["share"] for part in again] == [0.25, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mix", "other.safetensors", "--share", "1.5"], "--share 1.5: expected 0"),
        (["--mix", "other.safetensors", "--share", "-2"], "--share -2.0: expected 0"),
        (["--share", "0.5"], "name it by --mix OTHER"),
        (["--mix", "other.safetensors"], "can't be mixed with Compact"),
        (["--mix", "wide.safetensors"], "does not fit"),
        (["--mix", "absent"], "absent"),
    ],
)
def test_what_cannot_be_mixed_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_run(tmp_path / "run", trained())
    for name, generator in (("other", trained("SRResNet")), ("wide", trained(channels=16))):
        checkpoints.save_weights(tmp_path / f"{name}.safetensors", generator, node(generator))
    with pytest.raises(SystemExit, match="1"):
        export.main([str(path), "--format", "safetensors", "-o", "m.safetensors", *arguments])
    assert message in capsys.readouterr().err
    assert not Path("m.safetensors").exists()
