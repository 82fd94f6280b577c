"""`python -m srgan.train` as a command: mistakes, damaged images, sweeps, Weights & Biases, several processes."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from PIL import Image

from srgan import train
from srgan.training.checkpoints import Interrupted


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """command("key=value", …): `python -m srgan.train` in this process; its exit code and what it wrote to stderr."""

    def do(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(Path(train.__file__)), *arguments])
        try:
            train.main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return do


def write_text_file(folder: Path) -> None:
    (folder / "3.png").write_text("not an image")


def write_truncated_jpeg(folder: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:500])


MISTAKES = {
    "no such folder": (["data.root=/nowhere"], ["no folder /nowhere", "data.root=PATH"]),
    "no celeba": (["data=celeba", "data.root=/nowhere"], ["/nowhere", "data.download=true", "kaggle", "data=photos"]),
    "no vgg file": (["loss=srgan_vgg22", "vgg=/nowhere.pth"], ["/nowhere.pth", "vgg=PATH"]),
    "unknown loss": (["loss=srgan_vgg55"], ["srgan_vgg55", "srgan_vgg54"]),
    "crop and scale": (["data.crop=50"], ["crop 50 is not divisible by scale 4", "data.crop=48 or 52"]),
    "crop and discriminator": (["data.crop=40"], ["multiple of 16", "data.crop=32 or 48"]),
    "mistyped key": (["trainer.max_stepz=5"], ["error: trainer.max_stepz: no such key; did you mean max_steps?"]),
    "mistyped group": (["tariner=cpu"], ["error: tariner: no such key; did you mean trainer?"]),
    "mistyped experiment": (["expirement=demo"], ["did you mean experiment?"]),
    "mistyped option": (["loss=srgan_vgg55"], ["error: ", "loss/srgan_vgg55", "srgan_vgg54"]),
    "no end": (["data.root=[1"], ["error: no viable alternative"]),
    "added key": (["+trainer.max_stepz=5"], ["trainer.max_stepz", "did you mean max_steps"]),
    "no cuda": (["trainer.accelerator=cuda"], ["no CUDA device", "trainer=cpu"]),
    "half precision": (["trainer.precision=16-mixed"], ["bf16-mixed"]),
    "epochs": (["trainer.max_epochs=3"], ["trainer.max_steps"]),
    "scale": (["scale=5", "data.crop=80"], ["no generator for scale 5", "2, 3, 4 or 8"]),
    "low precision": (["trainer.precision=bf16-true"], ["bf16-mixed"]),
    "accelerator": (["trainer.accelerator=tpu"], ["expected auto, cpu, gpu or cuda"]),
    "interval": (["trainer.val_check_interval=5000.0"], ["val_check_interval=5000.0"]),
    "nothing left": (["callbacks.checkpoints=null"], ["callbacks.checkpoints is needed"]),
    "mistyped phase": (["+phases.gna.steps=5"], ["phases.gna", "did you mean gan?"]),
    "mistyped loss part": (["+loss.gann.weights=5"], ["loss.gann", "did you mean gan?"]),
    "mistyped callback": (["+callbacks.checkpoint.monitor=val/ssim"], ["did you mean checkpoints?"]),
    "no checkpoint": (["ckpt_path=/nowhere.ckpt"], ["/nowhere.ckpt"]),
    "no initial checkpoint": (["init_from=/nowhere.ckpt"], ["/nowhere.ckpt"]),
    "monitor without lpips": (["callbacks.checkpoints.monitor=val/lpips_alex"], ["val/lpips_alex", "not measured"]),
    "no generator": (["scale=5"], ["no generator for scale 5"]),
    "seed": (["seed=-1"], ["seed=-1: expected 0 to 2^32 - 1"]),
    "workers": (["data.workers=-1"], ["data.workers=-1: expected 0 or more"]),
    "all test images": (["data.test_images=-1"], ["data.test_images=-1: expected at least 1, or null for all"]),
    "no validation": (["data.validation_images=0"], ["data.validation_images=0: expected at least 1"]),
    "all held out": (["data.held_out=2"], ["data.held_out=2: expected a share between 0 and 1"]),
    "no logging": (["trainer.log_every_n_steps=0"], ["trainer.log_every_n_steps=0: expected 1 or more"]),
    "interval of none": (["trainer.val_check_interval=0"], ["trainer.val_check_interval=0"]),
    "no gradient": (["training.gradient_clip=0"], ["training.gradient_clip=0: expected a norm above 0, or null"]),
    "time": (["trainer.max_time=2h"], ["error: trainer: ", "2h"]),
    "half a step": (["phases.content.steps=2.5"], ["2.5 given, expected a whole number, 0 or more"]),
    "less than no steps": (["phases.gan.steps=-4"], ["-4 given, expected a whole number"]),
    "no discriminator": (
        ["discriminator=null"],
        ["error: discriminator=null: choose one of keras, patch, projected, srgan, unet"],
    ),
    "content loss unused": (["loss=srresnet_vgg22", "content=l1"], ["content=l1 has no effect", "loss=srresnet_mse"]),
    "no gan to change": (["loss=srresnet_mse", "content@loss.gan=l1"], ["has no GAN phase", "loss=srgan_vgg54"]),
    "loss weights": (["+loss.gan.weights.vgg=1"], ["one weight each"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_message_and_exit_code_1(
    mistake: str, command: Callable[..., tuple[int, str]], tiny: list[str]
) -> None:
    if mistake == "no cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    overrides, expected = MISTAKES[mistake]
    code, stderr = command(*tiny, *overrides)
    assert code == 1
    assert "Traceback" not in stderr
    assert len([line for line in stderr.splitlines() if line.startswith("error: ")]) == 1, stderr
    assert all(words in stderr for words in expected), stderr


def test_what_nobody_foresaw_is_in_the_runs_folder_too(
    command: Callable[..., tuple[int, str]], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(train.RunRecord, "start", failing)
    with pytest.raises(RuntimeError):
        command(*tiny, "hydra.run.dir=out")
    assert (tmp_path / "out" / "error.txt").read_text() == "RuntimeError: device lost\n"


@pytest.mark.parametrize("name", ["plain", "a folder (1), é='x'"])
def test_the_command_that_goes_on_can_be_pasted(
    command: Callable[..., tuple[int, str]],
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    said: list[str] = []

    def interrupted(cfg: DictConfig) -> None:
        cfg.run_dir = str(tmp_path / name)
        raise Interrupted

    monkeypatch.setattr(train, "train", interrupted)
    monkeypatch.setattr(train.log, "info", lambda text, *values: said.append(text % values))
    code, _ = command(*tiny)
    assert code == 130
    (line,) = said
    assert line.startswith("Stopped. To go on: python -m srgan.train data=folder")
    word = shlex.split(line)[-1]
    parsed = OverridesParser.create().parse_override(word)
    assert parsed.value() == str(tmp_path / name / "checkpoints" / "last.ckpt")


def write_small_image(folder: Path) -> None:
    for index in range(3):
        Image.new("RGB", (16, 16), "red").save(folder / f"{index}.png")


@pytest.mark.parametrize(
    ("damage", "name"),
    [(write_text_file, "3.png"), (write_truncated_jpeg, "cut.jpg"), (write_small_image, "too small to be scored")],
)
def test_a_damaged_image_is_named_before_training(
    damage: Callable[[Path], None],
    name: str,
    command: Callable[..., tuple[int, str]],
    tiny: list[str],
    photo_folder: Path,
) -> None:
    damage(photo_folder)
    code, stderr = command(*tiny, "trainer.max_steps=2")
    assert code == 1
    assert stderr.startswith("error: ") and name in stderr and "Traceback" not in stderr


def test_a_damaged_image_met_by_a_worker_keeps_the_work(
    command: Callable[..., tuple[int, str]], tiny: list[str], photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srgan.data.datamodule.verify", lambda source: None)
    for path in sorted(photo_folder.glob("*.png"))[2:]:  # some of them are for training
        path.write_text("not an image")
    code, stderr = command(*tiny, "trainer.max_steps=50", "data.workers=1", "trainer.limit_val_batches=0")
    assert code == 1
    assert stderr.strip().splitlines()[-1].startswith("error: ") and ".png: not a readable image" in stderr


@pytest.mark.slow
def test_a_sweep_runs_all_shares_a_group_and_goes_on_after_a_mistake(tmp_path: Path, tiny: list[str]) -> None:
    arguments = [*tiny, "logger=wandb", "trainer.max_steps=4", "loss=srresnet_mse,srgan_mse", "scale=2,5"]
    environment = {**os.environ, "WANDB_DIR": str(tmp_path), "NETRC": str(tmp_path / "none")}
    environment.pop("WANDB_MODE", None)
    environment.pop("WANDB_API_KEY", None)
    command = [sys.executable, "-m", "srgan.train", "-m", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: no generator for scale 5") == 2
    assert done.stdout.count("wandb sync") == 2
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    finished = {path.parent.name for path in sweep.glob("*/metrics.json")}
    assert finished == {"0", "2"}
    assert {path.parent.name for path in sweep.glob("*/error.txt")} == {"1", "3"}

    for number in finished:
        records = read_wandb(next((sweep / number).glob("wandb/offline-run-*/run-*.wandb")))
        assert records["group"] == sweep.name
        history = records["history"]
        assert [row["trainer/global_step"] for row in history if "val/psnr" in row] == [1, 2, 3, 4]
        assert {"val/psnr": ["max", "last"], "val/ssim": ["max", "last"]}.items() <= records["defined"].items()
        assert records["summary"]["val/psnr"]["max"] == max(row["val/psnr"] for row in history if "val/psnr" in row)
        assert any("samples/filenames" in row for row in history)
        assert records["config"]["scale"] == 2


def leveldb_records(log: bytes, header: int = 7, block: int = 32768) -> Iterator[bytes]:
    """The records of a LevelDB log: each piece has a checksum (4 bytes), a length (2) and a type (1)."""
    position, whole = header, b""
    while position + 7 <= len(log):
        left = block - position % block
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(log[position + 4 : position + 6], "little"), log[position + 6]
        whole += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a full record, or the last piece of one
            yield whole
            whole = b""


def read_wandb(file: Path) -> dict[str, Any]:
    """What an offline run holds: its group, history rows, defined summaries, last summary and config."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"history": [], "defined": {}, "summary": {}, "config": {}}
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["group"] = record.run.run_group
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
        elif kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found["history"].append(row)
        elif kind == "metric":
            summary = record.metric.summary
            chosen = [name for name in ("max", "min", "last") if getattr(summary, name)]
            found["defined"][record.metric.name] = chosen
        elif kind == "summary":
            for item in record.summary.update:
                value = json.loads(item.value_json)
                if item.nested_key and len(item.nested_key) > 1:
                    found["summary"].setdefault(item.nested_key[0], {})[item.nested_key[1]] = value
                else:
                    found["summary"][item.key or item.nested_key[0]] = value
    return found


@pytest.mark.slow
def test_two_processes_train_the_same_as_one_with_twice_the_batch(tmp_path: Path, tiny: list[str]) -> None:
    def last(*overrides: str) -> dict[str, torch.Tensor]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        arguments = [*tiny, "generator=compact", "loss=srresnet_mse", "trainer.max_steps=3", *overrides]
        command = [sys.executable, "-m", "srgan.train", *arguments, f"hydra.run.dir={folder}"]
        subprocess.run(command, check=True, cwd=tmp_path, timeout=200, capture_output=True)
        return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    two = last("trainer.devices=2", "trainer.strategy=ddp_find_unused_parameters_true", "batch_size=2")
    one = last("batch_size=4")
    assert all(torch.allclose(one[key], value, atol=1e-5) for key, value in two.items())
