"""`python -m srgan.train` as a command: mistakes, damaged images, sweeps, Weights & Biases, several processes."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from srgan import config, config_checks, train
from srgan.data.crops import Verified
from srgan.runs.read import read_run
from srgan.training.checkpoints import Interrupted

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """command("key=value", …): `python -m srgan.train` in this process; its exit code and what it wrote to stderr."""

    def do(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(Path(train.__file__)), *arguments])
        code = 0
        try:
            train.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return do


@pytest.fixture
def mistake(command: Command, tiny: list[str]) -> Callable[..., str]:
    """mistake("key=value", …): the one clear message with which the command ends, and its exit code 1."""

    def do(*overrides: str) -> str:
        code, stderr = command(*tiny, *overrides)
        assert code == 1
        assert "Traceback" not in stderr
        assert len([line for line in stderr.splitlines() if line.startswith("error: ")]) == 1, stderr
        return stderr

    return do


MISTAKES = {
    "mistyped key": (["trainer.max_stepz=5"], ["error: trainer.max_stepz: no such key; did you mean max_steps?"]),
    "folder of a sweep": (["-m", "seed=1,2", "hydra.run.dir=out"], ["hydra.run.dir= has no effect on a sweep (-m)"]),
    "mistyped group": (["tariner=cpu"], ["error: tariner: no such key; did you mean trainer?"]),
    "mistyped part": (["content=[l1,nix]"], ["error: content=nix: choose from charbonnier"]),
    "no number": (["balance=x"], ["error: Error merging override balance=x: Value 'x'"]),
    "mistyped option": (["loss=srgan_vgg55"], ["error: loss=srgan_vgg55: choose from srgan_mse, ", "srgan_vgg54"]),
    "no end": (["data.crop=[1"], ["error: data.crop=[1: Hydra can't read this value; as text it is"]),
    "no whole number": (["data.crop=abc"], ["error: data.crop=abc: expected a whole number\n"]),
    "empty root": (["data.root="], ["error: data.root is empty; give data.root=PATH"]),
    "empty validation root": (["data.validation_root=''"], ["error: data.validation_root is empty"]),
    "no feature maps": (["generator.channels=0"], ["error: generator.channels=0: expected 1 or more\n"]),
    "strategy": (["trainer.strategy=fsdp"], ["error: trainer.strategy=fsdp: expected auto, ddp, "]),
    "scale and discriminator": (["scale=3", "data.crop=33"], ["need a multiple of 48; try data.crop=48 or 96\n"]),
    "one crop of one position": (["batch_size=1", "data.crop=16"], ["the discriminator can't take batches of 1 crops"]),
    "added key": (["+trainer.max_stepz=5"], ["trainer.max_stepz", "did you mean max_steps"]),
    "epochs": (["trainer.max_epochs=3"], ["trainer.max_steps"]),
    "scale": (["scale=5", "data.crop=80"], ["no generator for scale 5", "2, 3, 4 or 8"]),
    "nothing close": (["+content.content.mse.qqq=1"], ["content.content.mse.qqq", "it takes"]),
    "interval": (["trainer.val_check_interval=5000.0"], ["val_check_interval=5000.0"]),
    "nothing left": (["callbacks.checkpoints=null"], ["callbacks.checkpoints is needed"]),
    "mistyped phase": (["+phases.gna.steps=5"], ["phases.gna", "did you mean gan?"]),
    "mistyped callback": (["+callbacks.checkpoint.monitor=val/ssim"], ["did you mean checkpoints?"]),
    "no such weights": (["init_from=nowhere"], ["no weights 'nowhere'", "srresnet_x4"]),
    "other weights": (["init_from=srresnet_x4"], ["does not fit"]),
    "mode": (["callbacks.checkpoints.mode=most"], ["mode=most: expected max, min or null"]),
    "monitor": (["callbacks.checkpoints.monitor=val/x", "trainer.max_steps=2"], ["val/x is not", "val/psnr, val/ssim"]),
    "monitor of training": (
        ["callbacks.checkpoints.monitor=train/loss"],
        ["train/loss is not measured", "val/psnr_gain"],
    ),
    "monitor without lpips": (["callbacks.checkpoints.monitor=val/lpips_alex"], ["val/lpips_alex", "not measured"]),
    "seed": (["seed=-1"], ["seed=-1: expected 0 to 2^32 - 1"]),
    "no logging": (["trainer.log_every_n_steps=0"], ["trainer.log_every_n_steps=0: expected 1 or more"]),
    "sanity check": (["trainer.num_sanity_val_steps=1"], ["num_sanity_val_steps=1", "trainer.max_steps=1"]),
    "batches again": (["+trainer.limit_train_batches=100"], ["limit_train_batches=100", "use trainer.max_steps"]),
    "no interval": (["trainer.val_check_interval=null"], ["trainer.val_check_interval=None: expected a number"]),
    "no steps between logs": (["trainer.log_every_n_steps=null"], ["log_every_n_steps=None: expected a number"]),
    "no critic": (["adversarial=wasserstein", "adversarial.critic_steps=0"], ["critic_steps=0: expected 1 or more"]),
    "falling ramp": (["adversarial_ramp=-9"], ["adversarial_ramp=-9: expected a number of steps"]),
    "interval of none": (["trainer.val_check_interval=0"], ["trainer.val_check_interval=0"]),
    "no gradient": (["training.gradient_clip=0"], ["training.gradient_clip=0: expected a norm above 0, or null"]),
    "time": (["trainer.max_time=2h"], ["error: trainer: ", "2h"]),
    "no part": (["accumulate=0"], ["accumulate=0: expected 1 or more parts"]),
    "unequal parts": (["batch_size=3", "accumulate=2"], ["batch_size=3 can't be split in 2 equal parts; try 2 or 4"]),
    "no step": (["phases.content.steps=0", "phases.gan.steps=0"], ["nothing to train"]),
    "half a step": (["phases.content.steps=2.5"], ["phases.content.steps=2.5: expected a whole number"]),
    "no discriminator": (
        ["discriminator=null"],
        ["error: discriminator=null: choose one of keras, patch, projected, srgan, unet"],
    ),
    "content loss unused": (["loss=srresnet_vgg22", "content=l1"], ["content=l1 has no effect", "loss=srresnet_mse"]),
    "weight unused": (
        ["loss=srresnet_vgg22", "content.weights.mse=2"],
        ["content.weights.mse=2 has no effect", "loss=srresnet_mse"],
    ),
    "no gan to change": (["loss=srresnet_mse", "content@loss.gan=l1"], ["has no GAN phase", "loss=srgan_vgg54"]),
}


@pytest.mark.parametrize(("overrides", "expected"), MISTAKES.values(), ids=[*MISTAKES])
def test_a_mistake_is_one_clear_message_and_exit_code_1(
    mistake: Callable[..., str], overrides: list[str], expected: list[str]
) -> None:
    stderr = mistake(*overrides)
    assert all(words in stderr for words in expected), stderr


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["experiment=ablation_x4", "loss=srgan_vgg22"],
            "loss=srgan_vgg22 has no effect on the GAN phase: the experiment sets its content loss (vgg, l1, grid);"
            " add content@loss.gan=vgg22",
        ),
        (
            ["experiment=photos_x4", "loss=srgan_mse", "content@loss.gan=[l1_vgg,vgg_esrgan]"],
            "content@loss.gan=[l1_vgg,vgg_esrgan]: both have a loss 'vgg', of different settings",
        ),
        (
            ["experiment=photos_projected_x4", "discriminator=patch"],
            "if the experiment sets it for another choice, take it out by '~discriminator.layers'",
        ),
        (
            ["experiment=photos_projected_x4", "adversarial_weight=0.01"],
            "adversarial_weight=0.01 has no effect: this loss has a share of the content loss's gradient, balance=0.5;"
            " change that, or set balance=null",
        ),
        (
            ["experiment=photos_projected_x4", "loss.gan.weights.grid=2"],
            "loss.gan.weights.grid=2 has no effect: this loss has a share of the content loss's gradient,"
            " loss.gan.balance.grid=0.2; change that, or set loss.gan.balance.grid=null",
        ),
    ],
)
def test_a_choice_that_would_not_be_what_is_trained_is_refused(
    command: Command, overrides: list[str], expected: str
) -> None:
    code, stderr = command(*overrides, "data.root=none")
    assert code == 1 and expected in stderr


def test_a_choice_for_a_phase_that_does_not_run_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        config_checks,
        "typed",
        lambda: [
            *("adversarial.r1=10", "balance=0.3", "loss.gan.weights.mse=2", "phases.gan.steps=0", "batch_size=4"),
            *("content=l1", "phases.content.steps=9", "phases.content.steps=0"),
        ],
    )
    config_checks.warn_of_what_has_no_effect(["content", "gan"])
    assert not caplog.messages
    config_checks.warn_of_what_has_no_effect(["content"])
    config_checks.warn_of_what_has_no_effect(["gan"])
    assert caplog.messages == [
        "adversarial.r1=10, balance=0.3, loss.gan.weights.mse=2: no effect, this run has no GAN phase",
        "content=l1, phases.content.steps=9: no effect, this run has no content phase",
    ]


def test_what_nobody_foresaw_is_in_the_runs_folder_too(
    command: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.RunRecord, "start", Mock(side_effect=RuntimeError("device lost")))
    with pytest.raises(RuntimeError):
        command(*tiny, "hydra.run.dir=out")
    assert (tmp_path / "out" / "error.txt").read_text() == "RuntimeError: device lost\n"


def test_the_resume_command_can_be_pasted(
    command: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "train", Mock(side_effect=Interrupted))
    assert command(*tiny, "hydra.run.dir=out")[0] == 130
    said = (tmp_path / "out" / "train.log").read_text()
    assert re.search(r"To resume: python -m srgan.train data=folder .* ckpt_path=\S*/checkpoints/last.ckpt", said)
    further = tmp_path / "conf"
    (further / "experiment").mkdir(parents=True)
    (further / "experiment/mine.yaml").write_text("# @package _global_\nname: mine\n")
    for place in ([f"hydra.searchpath=[file://{further}]"], ["--config-dir", str(further)]):
        assert command(*place, *tiny, "experiment=mine", "hydra.run.dir=mine")[0] == 130
        said = (tmp_path / "mine" / "train.log").read_text()
        (words,) = (shlex.split(line) for line in re.findall("To resume: (.*)", said)[-1:])
        assert words[3].replace("--config-dir=", "--config-dir ").split(" ") == place and "experiment=mine" in words
    for path in ("/plain/last.ckpt", "/a folder (1), é='x'/last.ckpt"):
        (word,) = shlex.split(config.as_override("ckpt_path", path))
        assert OverridesParser.create().parse_override(word).value() == path


def test_an_image_that_cannot_be_used_is_named_before_training(mistake: Callable[..., str], photo_folder: Path) -> None:
    (photo_folder / "3.png").write_text("not an image")
    assert "3.png" in mistake("trainer.max_steps=2")
    for index in range(8):
        Image.new("RGB", (16, 16), "red").save(photo_folder / f"{index}.png")
    assert "too small to be scored" in mistake("trainer.max_steps=2")


def test_a_damaged_image_met_by_a_worker_is_named(
    mistake: Callable[..., str], photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srgan.data.datamodule.verify", lambda source, least=1: Verified({}, []))
    for path in sorted(photo_folder.glob("*.png"))[2:]:  # some of them are for training
        path.write_text("not an image")
    stderr = mistake("trainer.max_steps=50", "data.workers=1", "trainer.limit_val_batches=0")
    assert stderr.strip().splitlines()[-1].startswith("error: ") and ".png: not a readable image" in stderr


@pytest.mark.slow
def test_a_sweep_runs_all_shares_a_group_and_goes_on_after_a_mistake(tmp_path: Path, tiny: list[str]) -> None:
    arguments = [*tiny, "logger=wandb", "trainer.max_steps=4", "loss=srresnet_mse,srgan_mse", "scale=2,5"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_DIR": str(tmp_path), "NETRC": str(tmp_path / "none")}
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
        validated = [row for row in records["history"] if "val/psnr" in row]
        assert [row["trainer/global_step"] for row in validated] == [1, 2, 3, 4]
        for score in ("val/psnr", "val/ssim"):
            values = [row[score] for row in validated]
            assert records["summary"][score] == {"max": max(values), "last": values[-1]}
        assert any("samples/filenames" in row for row in records["history"])
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
    """What an offline run holds: its group, history rows, last summary and config."""
    from wandb.proto import wandb_internal_pb2

    def values(items: Iterable[Any]) -> dict[str, Any]:
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}}
    for data in leveldb_records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["group"] = record.run.run_group
            found["config"] |= values(record.run.config.update)
        elif kind == "config":
            found["config"] |= values(record.config.update)
        elif kind == "history":
            found["history"].append(values(record.history.item))
        elif kind == "summary":
            found["summary"] |= values(record.summary.update)
    return found


@pytest.mark.slow
def test_two_processes_train_the_same_as_one_with_twice_the_batch(tmp_path: Path, tiny: list[str]) -> None:
    def last(*overrides: str) -> dict[str, torch.Tensor]:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        arguments = [override for override in tiny if "hidden" not in override]
        arguments += ["generator=compact", "discriminator=patch", "phases.content.steps=2", "phases.gan.steps=2"]
        command = [sys.executable, "-m", "srgan.train", *arguments, *overrides, f"hydra.run.dir={folder}"]
        subprocess.run(command, check=True, cwd=tmp_path, timeout=200, capture_output=True)
        return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    two = last("trainer.devices=2", "batch_size=2")
    for one in (
        last("batch_size=4"),
        last(
            "batch_size=4", "trainer.strategy=ddp", "trainer.devices=1", "callbacks.checkpoints.monitor=val/psnr_gain"
        ),
    ):
        assert all(torch.allclose(one[key], value, atol=1e-5) for key, value in two.items())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [["-m"], ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]])
def test_two_processes_leave_one_folder_for_each_run(tmp_path: Path, tiny: list[str], launcher: list[str]) -> None:
    short = ["generator=compact", "loss=srresnet_mse", "trainer.max_steps=2", "trainer.devices=2", "seed=1,2"]
    command = [sys.executable, *launcher, "srgan.train", "-m", *[key for key in tiny if "hidden" not in key], *short]
    done = subprocess.run(command, cwd=tmp_path, timeout=280, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["sweeps"]
    assert {path.name for path in sweep.iterdir()} == {"0", "1", "multirun.yaml"}
    for seed, run_dir in ((1, sweep / "0"), (2, sweep / "1")):
        assert json.loads((run_dir / "run.json").read_text())["status"] == "finished"
        assert f"seed: {seed}" in (run_dir / "config.yaml").read_text()
        assert [path.name for path in run_dir.glob("*.log")] == ["train.log"]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "plugin"), [("parallel", "joblib"), ("local", "submitit")])
def test_runs_of_a_sweep_are_done_at_once_and_a_mistake_in_one_is_the_sweeps(
    tmp_path: Path, tiny: list[str], launcher: str, plugin: str
) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher", reason="needs pip install 'srgan[sweep]'")
    arguments = [*tiny, "loss=srresnet_mse", "trainer.max_steps=2", f"hydra/launcher={launcher}", "scale=2,5"]
    command = [sys.executable, "-m", "srgan.train", "-m", *arguments, "hydra.sweep.dir=sweep"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert re.search("^error: no generator for scale 5", done.stderr, re.MULTILINE)
    assert (tmp_path / "sweep/1/error.txt").read_text().startswith("no generator for scale 5")
    run = json.loads((tmp_path / "sweep/0/run.json").read_text())
    assert run["status"] == "finished"
    assert run["command"].startswith("python -m srgan.train data=folder") and run["command"].endswith("scale=2")


def test_a_launcher_whose_plugin_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/__init__.py").touch()  # which hides all plugins
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "srgan.train", "-m", "seed=1,2", "hydra/launcher=slurm"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (
        1,
        "error: this launcher needs a plugin of Hydra: pip install 'srgan[sweep]'\n",
    )


def test_a_start_that_is_refused_leaves_the_folders_run_as_it_is(command: Command, tiny: list[str]) -> None:
    there = ("loss=srresnet_mse", "phases.content.steps=2", "trainer.limit_val_batches=0", "hydra.run.dir=out")
    assert command(*tiny, *there)[0] == 0
    before = read_run(Path("out"), "out")
    code, said = command(*tiny, *there, "generator=compact", "ckpt_path=auto")
    assert code == 1 and "does not fit" in said
    after = read_run(Path("out"), "out")
    assert (after.status, after.note, after.choices, after.config) == ("finished", "", before.choices, before.config)
    assert after.choices["generator"] == "srresnet" and not Path("out/error.txt").exists()


@pytest.mark.parametrize(
    ("signum", "job", "again", "expected"),
    [
        (10, "7", ["ckpt_path=auto", "hydra.run.dir=out"], "requeue 7\n"),
        (10, "7", ["ckpt_path=auto", "hydra.run.dir=out/${now:%Y}"], ""),  # another folder, and so from the beginning
        (10, "7", ["hydra.run.dir=out"], ""),
        (15, "7", ["ckpt_path=auto", "hydra.run.dir=out"], ""),
        (10, None, ["ckpt_path=auto", "hydra.run.dir=out"], ""),
    ],
)
def test_a_slurm_job_that_meets_its_time_limit_is_put_in_the_queue_again(
    command: Command, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    signum: int, job: str | None, again: list[str], expected: str,
) -> None:  # fmt: skip
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    (tmp_path / "asked").touch()
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setattr(train, "train", Mock(side_effect=Interrupted(signum)))
    assert command(*tiny, *again)[0] == 128 + signum
    assert (tmp_path / "asked").read_text() == expected
    (log,) = (tmp_path / "out").rglob("train.log")
    assert ("SLURM has the job in its queue again" in log.read_text()) == bool(expected)
    assert ("start from the beginning" in log.read_text()) == (signum == 10 and job == "7" and not expected)
