"""What a run keeps when it is signalled, killed, or can't write: the harm is done to real processes."""

import csv
import json
import multiprocessing
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from srgan import train
from srgan.data import shards
from srgan.data.sources import folder_splits
from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.runs import record
from srgan.training import loggers
from srgan.training.checkpoints import CheckpointFiles
from srgan.training.module import SRGAN
from srgan.training.resume import find_checkpoint

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["srgan.train"])  # its seconds are spent once

SHORT = ("phases.content.steps=4", "phases.gan.steps=4", "trainer.val_check_interval=3", "data.validation_images=2")
MEASURED = ("train/images_per_s", "train/peak_mib")  # differ from run to run

# What happens in a run, at which harm can be done: just before the n-th time, counted from 1.
EVENTS: dict[str, tuple[Any, str]] = {
    "update": (torch.optim.Adam, "step"),  # of one network: within a step of training
    "step": (SRGAN, "training_step"),
    "validation": (SRGAN, "validation_step"),
    "sync": (os, "fsync"),  # a checkpoint is written, but not yet under its name
    "rename": (Path, "replace"),
    "scoring": (train, "evaluate"),  # of the test images, when all is trained
}


@dataclass
class Harm:
    """Something done to a run by itself, just before the n-th event of a kind."""

    event: str
    number: int
    action: Callable[..., object]
    arguments: tuple[Any, ...] = ()


def signalled(event: str, number: int, signum: int = signal.SIGKILL) -> Harm:
    return Harm(event, number, send, (signum,))


def send(signum: int) -> None:
    """As a terminal or a scheduler does: to the process and to its loader's workers."""
    kill = ["kill", f"-{signum:d}", "--", f"-{os.getpid()}"]
    subprocess.run(kill, check=True, start_new_session=True)  # by another process: workers obey their own


def run_command(arguments: list[str], folder: Path, harm: Harm | None) -> None:
    """In a process of its own: `python -m srgan.train`, what it says in said.txt."""
    multiprocessing.set_start_method("fork", force=True)  # of loaders, as in a process that was not forked itself
    os.setpgid(0, 0)
    os.chdir(folder)
    said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv = [str(Path(train.__file__)), *arguments]
    if harm is not None:
        owner, name = EVENTS[harm.event]
        original, count = getattr(owner, name), 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == harm.number:
                harm.action(*harm.arguments)
            return original(*args, **kwargs)

        setattr(owner, name, counted)
    train.main()


@dataclass
class Commands:
    """Runs training commands on the tiny images."""

    tiny: list[str]
    folder: Path
    said: str = field(default="", init=False)

    def __call__(self, *arguments: str, harm: Harm | None = None) -> int:
        """The exit code, negative for the signal that killed it; what it wrote to the terminal is in `said`."""
        (self.folder / "said.txt").unlink(missing_ok=True)
        process = PROCESSES.Process(target=run_command, args=([*arguments, *self.tiny, *SHORT], self.folder, harm))
        process.start()
        process.join(120)
        self.said = (self.folder / "said.txt").read_text()
        assert process.exitcode is not None, self.said
        return process.exitcode

    def read(self, run: str, name: str = "last") -> dict[str, Any]:
        return checkpoints.read(self.folder / run / "checkpoints" / f"{name}.ckpt")


@pytest.fixture
def command(tiny: list[str], tmp_path: Path) -> Commands:
    return Commands(tiny, tmp_path)


def same_results(command: Commands, run: str, other: str) -> None:
    """Assert that two runs ended alike to the last bit: weights, optimizers, schedules and all that was logged."""
    one, two = command.read(run), command.read(other)
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers", "health"):
        assert_equal(one[part], two[part], part)
    logged = [curves(command.folder / name) for name in (run, other)]
    assert logged[0] == logged[1]
    scores = [json.loads((command.folder / name / "metrics.json").read_text()) for name in (run, other)]
    assert scores[0] == scores[1]
    for name in ("best", "content"):
        assert command.read(run, name)["global_step"] == command.read(other, name)["global_step"]
    pictures = [{path.name for path in (command.folder / name / "samples").iterdir()} for name in (run, other)]
    assert pictures[0] == pictures[1]


def assert_equal(one: Any, two: Any, path: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            assert_equal(one[key], two[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), path
        for index, pair in enumerate(zip(one, two, strict=True)):
            assert_equal(*pair, f"{path}.{index}")
    else:
        assert one == two, path


def curves(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in MEASURED} for row in csv.DictReader(file)]


EACH_STEP = "callbacks.checkpoints.minutes=1e-9"
SUCCESSION = [  # one run, ended again and again: the harm, the workers, and the exit code
    (signalled("update", 2), 0, -9),  # in the second step of the content phase
    (signalled("validation", 2), 0, -9),
    (signalled("rename", 3), 0, -9),  # last.ckpt is written, but not in its place
    (signalled("sync", 7), 0, -9),  # at the seam: content.ckpt is written, last.ckpt not
    (signalled("update", 2, signal.SIGTERM), 2, 143),  # the discriminator has learned, the generator not yet
    (signalled("validation", 2, signal.SIGUSR1), 0, 138),
    (signalled("scoring", 1, signal.SIGINT), 0, 130),
]


@pytest.mark.slow
def test_a_run_that_is_killed_and_stopped_again_and_again_ends_as_if_nothing_had_happened(command: Commands) -> None:
    assert command("hydra.run.dir=whole") == 0
    for harm, workers, code in SUCCESSION:
        arguments = ("hydra.run.dir=part", "ckpt_path=auto", EACH_STEP, f"data.workers={workers}")
        assert command(*arguments, harm=harm) == code, command.said
        if code > 0:
            (line,) = re.findall("To resume: (.*)", command.said)
            assert {"hydra.run.dir=part", "ckpt_path=auto"} <= set(shlex.split(line))
            status = json.loads((command.folder / "part" / "run.json").read_text())["status"]
            assert (status, "Traceback" in command.said) == ("interrupted", False)
    assert command("hydra.run.dir=part", "ckpt_path=auto") == 0
    same_results(command, "whole", "part")


@pytest.mark.slow
def test_resuming_is_exact_wherever_a_run_is_killed(command: Commands) -> None:
    """SRGAN_TRIALS=200 pytest -m slow -k wherever: kills at so many random moments, of seed SRGAN_SEED."""
    chance = random.Random(int(os.environ.get("SRGAN_SEED", "1")))
    assert command("hydra.run.dir=whole") == 0
    trials, run = 0, 0
    while trials < int(os.environ.get("SRGAN_TRIALS", "10")):
        run += 1
        often = chance.choice([[], [EACH_STEP]])
        for attempt in range(50):
            trials += 1
            harm = signalled(chance.choice(list(EVENTS)), chance.randint(1, 12 + 2 * attempt))
            workers = chance.choice([0, 2])
            code = command(f"hydra.run.dir={run}", "ckpt_path=auto", f"data.workers={workers}", *often, harm=harm)
            assert code in (0, -9), command.said
            if code == 0:
                break
        same_results(command, "whole", str(run))


def test_sigterm_ends_a_sweep(command: Commands) -> None:
    arguments = ("-m", "hydra.sweep.dir=sweep", "seed=1,2", "trainer.max_steps=3")
    assert command(*arguments, harm=signalled("update", 1, signal.SIGTERM)) == 143
    assert command.read("sweep/0")["global_step"] == 1
    assert not (command.folder / "sweep" / "1").exists()


def limit_files(folder: Path) -> None:
    """As a disk does that is full: no checkpoint can be written, nor train.log, which is made too long for that."""
    with (folder / "train.log").open("a") as file:
        file.write("\n" * 4096)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def replace_by_a_file(folder: Path) -> None:
    """The folder of checkpoints vanishes and can't be made again."""
    shutil.move(folder / "checkpoints", folder.parent / "kept")
    (folder / "checkpoints").touch()


@pytest.mark.parametrize("action", [pytest.param(limit_files, marks=pytest.mark.slow), replace_by_a_file])
def test_a_run_that_cannot_save_goes_on_and_says_so_at_its_end(
    command: Commands, action: Callable[[Path], None]
) -> None:
    harm = Harm("update", 5, action, (command.folder / "out",))  # in step 5, of 8
    assert command("hydra.run.dir=out", harm=harm) == 1
    assert "Traceback" not in command.said
    assert re.search(
        r"step 6: \S*last.ckpt can't be written \(.*\); training goes on, the one of step 4 is kept", command.said
    )
    (error,) = re.findall("^error: (.*)", command.said, re.MULTILINE)
    assert "the state at step 8 could not be saved" in error and "last.ckpt is of step 4" in error
    if action is replace_by_a_file:
        (command.folder / "out" / "checkpoints").unlink()
        (command.folder / "kept").rename(command.folder / "out" / "checkpoints")
    assert command.read("out")["global_step"] == 4
    assert command("hydra.run.dir=out", "ckpt_path=auto") == 0
    steps = [int(row["step"]) for row in curves(command.folder / "out") if row["train/loss"]]
    assert steps == list(range(1, 9))


@pytest.mark.parametrize(("event", "number", "action"), [("validation", 3, Path.unlink), ("scoring", 1, cut_off)])
def test_a_scored_image_that_vanishes_or_is_damaged_is_named_and_nothing_is_lost(
    command: Commands, photo_folder: Path, event: str, number: int, action: Callable[[Path], None]
) -> None:
    held = shutil.copytree(photo_folder, command.folder / "held")
    arguments = ("hydra.run.dir=out", f"data.validation_root={held}", "ckpt_path=auto")
    assert command(*arguments, harm=Harm(event, number, action, (held / "4.png",))) == 1
    (error,) = re.findall("^error: (.*)", command.said, re.MULTILINE)
    assert error.startswith(f"{held}/4.png: ") and "Traceback" not in command.said
    out = command.folder / "out"
    assert json.loads((out / "run.json").read_text())["status"] == "failed" and not (out / "metrics.json").exists()
    assert command.read("out")["global_step"] == {"validation": 4, "scoring": 8}[event]
    shutil.copyfile(photo_folder / "4.png", held / "4.png")
    assert command(*arguments) == 0
    assert len(json.loads((out / "metrics.json").read_text())["models"]["gan"]["images"]) == 8


def test_a_zip_that_vanishes_is_one_line_and_the_training_can_go_on(command: Commands, photo_folder: Path) -> None:
    faces, aside = command.folder / "celeba.zip", command.folder / "aside"
    with zipfile.ZipFile(faces, "w") as file:
        for number in (1, 2, 3, 4, 170_000, 200_000):  # of all three splits
            file.write(photo_folder / f"{number % 8}.png", f"img_align_celeba/{number:06d}.png")
    source = ("data=celeba", f"data.root={faces}", "data.crop=32")
    command.tiny = [text for text in command.tiny if not text.startswith("data")]
    arguments = ("hydra.run.dir=out", "ckpt_path=auto", *source, "data.workers=1")
    assert command(*arguments, harm=Harm("update", 3, faces.rename, (aside,))) == 1
    (error,) = re.findall("^error: (.*)", command.said, re.MULTILINE)
    assert f"{faces}:img_align_celeba/" in command.said and "Traceback" not in command.said
    assert "No such file or directory" in command.said and error
    aside.rename(faces)
    assert command(*arguments) == 0


@pytest.mark.slow
def test_a_training_from_shards_is_the_one_from_files_and_resumes_exactly(
    command: Commands, photo_folder: Path
) -> None:
    pytest.importorskip("litdata", reason="needs pip install 'srgan[shards]'")
    splits = folder_splits(photo_folder, None, 0.05)
    for split in shards.SPLITS:
        shards.write(getattr(splits, split), str(command.folder / "shards" / split), megabytes=0.02)
    assert command("hydra.run.dir=files") == 0
    command.tiny = [*(text for text in command.tiny if not text.startswith("data=")), "data=shards"]
    command.tiny[command.tiny.index(f"data.root={photo_folder}")] = f"data.root={command.folder / 'shards'}"
    assert command("hydra.run.dir=whole") == 0, command.said
    assert_equal(command.read("files")["state_dict"], command.read("whole")["state_dict"], "state_dict")
    for harm, workers in ((signalled("update", 3), 2), (signalled("validation", 2), 0), (signalled("update", 4), 2)):
        assert command("hydra.run.dir=part", "ckpt_path=auto", EACH_STEP, f"data.workers={workers}", harm=harm) == -9
    assert command("hydra.run.dir=part", "ckpt_path=auto") == 0
    same_results(command, "whole", "part")


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run" / "checkpoints"
    last, previous = folder / "last.ckpt", folder / "last-previous.ckpt"
    for _ in range(2):
        content = {"state_dict": {"ema.x": torch.rand(20_000)}, "config": {}, "global_step": 8}
        CheckpointFiles().save_checkpoint(content, last)
    whole, chance = last.read_bytes(), random.Random(1)
    bits = [chance.randrange(8 * len(whole)) for _ in range(20)]
    flipped = (whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :] for bit in bits)
    for damaged in (*flipped, whole[:-1], whole[: len(whole) // 2], b""):
        last.write_bytes(damaged)
        for wanted in ("auto", str(last)):
            assert find_checkpoint(wanted, folder.parent) == previous
    last.unlink()
    caplog.clear()
    assert find_checkpoint(str(last), folder.parent) == previous
    assert f"{last} is missing; going on from the one before, {previous} of step 8" in caplog.messages
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of its checkpoints can be read"):
        find_checkpoint("auto", folder.parent)
    assert find_checkpoint("auto", folder.parent / "new") is None


def hold(folder: Path, held: Any) -> None:
    with record.lock(folder):
        held.set()
        time.sleep(60)


def test_a_folder_has_one_process_and_a_dead_one_is_no_obstacle(tmp_path: Path) -> None:
    held = PROCESSES.Event()
    process = PROCESSES.Process(target=hold, args=(tmp_path, held))
    process.start()
    assert held.wait(60)
    with (
        pytest.raises(UserError, match=f"process {process.pid} on .* is training in this folder"),
        record.lock(tmp_path),
    ):
        pass
    process.kill()
    process.join()
    with record.lock(tmp_path):
        pass


def test_a_run_that_goes_on_is_the_same_on_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(loggers, "unreachable", lambda server: None)
    made = Mock(side_effect=lambda **given: Mock(experiment=Mock(id=given["id"] or "new")))
    monkeypatch.setattr(loggers, "WandbLogger", made)
    for known in (None, "new"):
        loggers.wandb_logger("project", str(tmp_path), "name", None, entity=None, tags=None, id=None, resume="allow")
        assert made.call_args.kwargs["id"] == known


def test_rows_that_could_not_be_written_are_written_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = loggers.CSVLogger(str(tmp_path / "run"))
    logger.log_metrics({"a": 1.0}, 1)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    (tmp_path / "run").touch()
    logger.log_metrics({"a": 2.0}, 2)
    logger.log_metrics({"b": 3.0}, 3)
    assert len(caplog.messages) == 1 and "its rows are kept" in caplog.messages[0]
    (tmp_path / "run").unlink()
    shutil.move(tmp_path / "moved", tmp_path / "run")
    logger.log_metrics({"a": 4.0}, 4)
    assert (tmp_path / "run" / "metrics.csv").read_text().split() == [
        "a,b,step",
        "1.0,,1",
        "2.0,,2",
        ",3.0,3",
        "4.0,,4",
    ]
