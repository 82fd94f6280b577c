"""Whole runs through the real configuration: what they leave behind, and resuming."""

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from srgan import train
from srgan.data.crops import RandomCrops
from srgan.errors import UserError
from srgan.metrics import measures
from srgan.models import checkpoints
from srgan.training import build, graph
from srgan.training.callbacks import ProgressBar
from srgan.training.checkpoints import CheckpointFiles, Checkpoints, Interrupted
from srgan.training.graph import WARM_UP
from srgan.training.module import SRGAN

Result = tuple[Path, dict[str, Any]]  # a run's folder and its metrics
Run = Callable[..., Result]

GAN_OF_SIX = ("trainer.max_steps=6", "phases.content.steps=3", "phases.gan.steps=3", "trainer.val_check_interval=2")
GAN_OF_TWELVE = ("trainer.max_steps=12", "phases.content.steps=6", "phases.gan.steps=6")
CONTENT = ("loss=srresnet_mse", "trainer.val_check_interval=1")


@pytest.fixture
def run(compose_config: Callable[..., DictConfig], tiny: list[str], tmp_path: Path) -> Run:
    """run("scale=2", …, folder="a"): train by the configuration; the run's folder and its metrics."""

    def do(*overrides: str, folder: str = "run") -> Result:
        run_dir = tmp_path / folder
        return run_dir, train.train(compose_config(*tiny, *overrides, run_dir=run_dir))

    return do


@pytest.fixture(scope="module")
def whole(
    compose_config: Callable[..., DictConfig], tiny_on: Callable[[Path], list[str]], photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Result:  # fmt: skip
    """The folder and the metrics of one run of GAN_OF_SIX. No test may change the folder."""
    run_dir = tmp_path_factory.mktemp("whole")
    return run_dir, train.train(compose_config(*tiny_on(photos), *GAN_OF_SIX, run_dir=run_dir))


def rows(run_dir: Path, column: str) -> dict[int, float]:
    """A column of metrics.csv by step."""
    with (run_dir / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def status(run_dir: Path) -> str:
    return json.loads((run_dir / "run.json").read_text())["status"]


def read(run_dir: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = read(first)["state_dict"], read(second)["state_dict"]
    assert one.keys() == other.keys()
    assert not [key for key in one if not torch.equal(one[key], other[key])]


def at_step(patch: pytest.MonkeyPatch, number: int, event: Callable[[SRGAN], object]) -> None:
    """Let something happen just before the training step of that number, counted from 1."""
    training_step = SRGAN.training_step

    def played(module: SRGAN, batch: Any, batch_idx: int) -> None:
        if module.trainer.global_step == number - 1:
            event(module)
        training_step(module, batch, batch_idx)

    patch.setattr(SRGAN, "training_step", played)


def test_a_run_leaves_its_record_checkpoints_pictures_and_figures(whole: Result) -> None:
    run_dir, metrics = whole
    assert json.loads((run_dir / "metrics.json").read_text()) == metrics
    assert list(metrics["models"]) == ["bicubic", "content", "gan"]
    for model in metrics["models"].values():
        assert model["mean"]["matlab"]["psnr"] > 5 and 0 < model["mean"]["paper"]["ssim"] < 1
    record = json.loads((run_dir / "run.json").read_text())
    assert (record["status"], record["steps"]) == ("finished", {"content": 3, "gan": 3})
    assert torch.__version__.startswith(record["versions"]["torch"])
    tracked = (Path(train.__file__).parents[2] / ".git").exists()
    assert bool(re.fullmatch(r"[0-9a-f]{40}(-dirty)?", record["git_commit"] or "")) == tracked
    assert OmegaConf.load(run_dir / "config.yaml").trainer.max_steps == 6
    assert names(run_dir / "checkpoints") == {"last.ckpt", "last-previous.ckpt", "best.ckpt", "content.ckpt"}
    assert (read(run_dir)["global_step"], read(run_dir, "content")["global_step"]) == (6, 3)
    assert names(run_dir / "samples") == {f"step_000000{step}.png" for step in (2, 3, 4, 6)}
    with Image.open(run_dir / "comparison.png") as picture:
        assert picture.size[0] == 8 + 5 * (256 + 8)  # LR, bicubic, content, gan, HR

    for column in ("train/loss", "loss/mse", "train/learning_rate", "grad_norm/generator", "grad_at_sr/mse"):
        assert list(rows(run_dir, column)) == [1, 2, 3, 4, 5, 6], column
    for column in ("train/discriminator", "train/d_accuracy", "train/d_real", "train/d_fake", "loss/adversarial"):
        assert list(rows(run_dir, column)) == [4, 5, 6], column
    assert {*rows(run_dir, "grad_norm/discriminator")} == {*rows(run_dir, "grad_at_sr/adversarial")} == {4, 5, 6}
    assert rows(run_dir, "train/images_per_s") and rows(run_dir, "val/ssim")
    gain, value, bicubic = (rows(run_dir, f"val/psnr{kind}") for kind in ("_gain", "", "_bicubic"))
    assert list(value) == [2, 3, 4, 6]  # at the interval of 2 and at the end of each phase
    assert gain == pytest.approx({step: value[step] - bicubic[step] for step in value}, abs=1e-4)
    assert len(set(bicubic.values())) == 1


def test_settings_of_the_training_reach_its_steps_and_count_within_each_phase(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: dict[int, list[float]] = {}
    seen: list[SRGAN] = []

    def note(module: SRGAN) -> None:
        for step in module._steps:
            assert (step.gradient_clip, step.accumulate, step.separate_batches, step.ema.decay) == (0.7, 2, True, 0.9)
        for name, value in module.ema.state_dict().items():  # after the first step of the phase it begins anew
            assert torch.equal(value, module.generator.state_dict()[name]), name
        seen.append(module)

    training_step = SRGAN.training_step

    def noted(module: SRGAN, batch: Any, batch_idx: int) -> None:
        done = module.trainer.global_step
        rates[done + 1] = [optimizer.param_groups[0]["lr"] for optimizer in module.trainer.optimizers]
        training_step(module, batch, batch_idx)

    monkeypatch.setattr(SRGAN, "training_step", noted)
    at_step(monkeypatch, 5, note)
    options = ("training.gradient_clip=0.7", "accumulate=2", "training.separate_batches=true", "batch_size=4")
    run_dir, _ = run(*GAN_OF_SIX, *options, "training.ema_decay=0.9", "adversarial_ramp=10", "adversarial_weight=0.5")
    assert len(seen) == 1
    assert rows(run_dir, "weight/adversarial") == pytest.approx({4: 0.05, 5: 0.1, 6: 0.15})
    # The paper's: constant in the content phase, a tenth in the second half of the GAN phase, for both networks.
    assert [rates[step][0] for step in (1, 2, 3)] == [1e-4] * 3
    assert [rates[step][1:] for step in (4, 5, 6)] == [[1e-4, 1e-4], [1e-4, 1e-4], pytest.approx([1e-5, 1e-5])]
    assert rows(run_dir, "train/learning_rate") == pytest.approx(dict.fromkeys(range(1, 6), 1e-4) | {6: 1e-5})


def test_validation_gives_the_figures_of_an_evaluation(run: Run, photos: Path) -> None:
    """The separate folder is scored by both, in training and at its end."""
    run_dir, metrics = run(*CONTENT, "phases.content.steps=2", f"data.validation_root={photos}", "generator=compact")
    scores = {name: metrics["models"][name]["mean"]["matlab"] for name in ("bicubic", "content")}
    for score in ("psnr", "ssim"):
        assert rows(run_dir, f"val/{score}")[2] == pytest.approx(scores["content"][score], abs=1e-4)
        assert rows(run_dir, f"val/{score}_bicubic")[2] == pytest.approx(scores["bicubic"][score], abs=1e-4)
    assert scores["content"]["psnr"] != scores["bicubic"]["psnr"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_the_same_seed_gives_the_same_weights(run: Run, whole: Result) -> None:
    assert_same_weights(whole[0], run(*GAN_OF_SIX, "data.workers=2", folder="b")[0])
    with pytest.raises(AssertionError):
        assert_same_weights(whole[0], run(*GAN_OF_SIX, "seed=2", folder="c")[0])


def test_the_seed_alone_decides_not_what_is_measured(run: Run, whole: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks of LPIPS and DISTS draw random weights before theirs are loaded."""

    def draw(*_: object) -> dict[str, object]:
        torch.rand(1000)
        return {}

    monkeypatch.setattr(measures, "load", draw)
    assert_same_weights(whole[0], run(*GAN_OF_SIX, folder="b")[0])


@pytest.mark.slow
def test_bf16_reaches_the_psnr_of_fp32(run: Run) -> None:
    """Some hundred steps of training and the same quality: within 0.1 dB, and both above bicubic."""
    small = ("generator=compact", "generator.channels=8", "generator.blocks=2", "scale=2", "loss=srresnet_mse")
    few = (*small, "phases.content.steps=300", "phases.content.optimizer.lr=1e-3", "trainer.val_check_interval=1.0")
    scores = {}
    for precision in ("32-true", "bf16-mixed"):
        _, metrics = run(*few, f"trainer.precision={precision}", folder=precision)
        models = metrics["models"]
        scores[precision] = models["content"]["mean"]["matlab"]["psnr"]
        assert scores[precision] > models["bicubic"]["mean"]["matlab"]["psnr"] + 0.5
    assert scores["bf16-mixed"] == pytest.approx(scores["32-true"], abs=0.1)


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ("trainer.precision=bf16-mixed", 0.03),
        pytest.param("trainer.accelerator=cuda", 0.01, marks=pytest.mark.gpu),
    ],
)
def test_other_arithmetic_agrees_with_fp32_on_the_cpu_at_first(
    run: Run, whole: Result, change: str, tolerance: float
) -> None:
    expected, found = (rows(run_dir, "train/loss") for run_dir in (whole[0], run(*GAN_OF_SIX, change)[0]))
    assert found != expected
    assert found == pytest.approx(expected, rel=tolerance)


@pytest.mark.gpu
def test_a_graphed_run_on_a_gpu_trains_as_a_plain_one_there(run: Run) -> None:
    on_gpu = (*GAN_OF_TWELVE, "trainer.accelerator=cuda", "trainer.precision=32-true")
    plain, _ = run(*on_gpu, folder="plain")
    graphed, _ = run(*on_gpu, "cuda_graph=true", "fused=true", "data.cache=device", folder="graph")
    for column in ("train/loss", "loss/adversarial"):
        assert rows(graphed, column) == pytest.approx(rows(plain, column), rel=0.02), column


@pytest.mark.parametrize("cache", ["ram", "device"])
def test_a_graphed_run_counts_as_a_plain_one_and_resumes_exactly(
    run: Run, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    """Without a GPU the capture is played by calling the work again, and a GPU's cache is one in memory."""
    steps = (*GAN_OF_TWELVE, f"data.cache={cache}", "trainer.val_check_interval=4")
    _, plain = run(*steps, folder="plain")
    replays: list[int] = []
    monkeypatch.setattr(graph, "usable", lambda *_: True)
    monkeypatch.setattr(graph, "capture", lambda work: lambda: (replays.append(1), work()))
    monkeypatch.setattr(RandomCrops, "on_gpu", cache == "device")
    whole, expected = run(*steps, "cuda_graph=true", folder="whole")
    assert len(replays) == 12 - 2 * WARM_UP
    assert plain["models"]["bicubic"] == expected["models"]["bicubic"]
    scores = [m["models"]["gan"]["mean"]["matlab"]["psnr"] for m in (plain, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-2)  # learning rates on a device are rounded to float32
    assert rows(whole, "train/loss") == pytest.approx(rows(whole.parent / "plain", "train/loss"), rel=1e-4)
    saved = read(whole)
    assert expected["steps_done"] == saved["global_step"] == 12
    assert all(type(group["lr"]) is float for state in saved["optimizer_states"] for group in state["param_groups"])
    with monkeypatch.context() as patch:
        at_step(patch, 11, Mock(side_effect=PowerCut()))
        with pytest.raises(PowerCut):
            run(*steps, "cuda_graph=true", folder="part")
    last = whole.parent / "part" / "checkpoints" / "last.ckpt"
    rest, metrics = run(*steps, "cuda_graph=true", f"ckpt_path={last}", folder="rest")
    assert_same_weights(whole, rest)
    assert metrics["models"] == expected["models"]
    for column in ("train/loss", "loss/adversarial", "grad_norm/generator", "val/psnr"):
        assert rows(rest, column) == rows(whole, column), column


class PowerCut(BaseException):
    """Leaves no time to write anything, as no Exception does."""


VIEWS = (*CONTENT, "content=l1_vgg_views", "vgg=random", "phases.content.steps=6", "trainer.val_check_interval=2")


@pytest.mark.parametrize(
    ("phases", "step", "error", "saved"),
    [
        *((GAN_OF_SIX, step, Interrupted(), step) for step in (3, 5)),
        (GAN_OF_SIX, 6, UserError("a bad image"), 5),
        (GAN_OF_SIX, 6, PowerCut(), 4),
        (VIEWS, 6, PowerCut(), 4),
    ],
)
def test_what_ends_a_run_leaves_a_checkpoint_from_which_resuming_is_exact(
    run: Run, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    phases: tuple[str, ...], step: int, error: BaseException, saved: int,
) -> None:  # fmt: skip
    ctrl_c = isinstance(error, Interrupted)
    undisturbed, expected = whole if phases is GAN_OF_SIX else run(*phases, folder="undisturbed")
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda _: os.kill(os.getpid(), signal.SIGINT) if ctrl_c else Mock(side_effect=error)())
        with pytest.raises(type(error)):
            run(*phases, folder="part")
    part = tmp_path / "part"
    assert status(part) == ("interrupted" if ctrl_c else "failed")
    assert read(part)["global_step"] == saved

    last = part / "checkpoints" / "last.ckpt"
    rest, metrics = run(*phases, f"ckpt_path={last}", folder="rest")
    assert_same_weights(undisturbed, rest)
    assert metrics["models"] == expected["models"]
    for column in ("train/loss", "train/learning_rate", "val/psnr", "val/psnr_gain"):
        assert rows(rest, column) == rows(undisturbed, column), column


def test_a_failure_to_save_does_not_hide_the_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 2, Mock(side_effect=RuntimeError("device lost")))
    monkeypatch.setattr(Checkpoints, "_save", Mock(side_effect=OSError("no space left")))
    with pytest.raises(RuntimeError, match="device lost"):
        run(*GAN_OF_SIX, "trainer.val_check_interval=6")


def test_curves_and_pictures_that_cannot_be_written_do_not_end_a_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def block(_: SRGAN) -> None:
        (tmp_path / "run" / "metrics.csv").unlink()
        (tmp_path / "run" / "metrics.csv").mkdir()
        (tmp_path / "run" / "samples").rename(tmp_path / "kept")
        (tmp_path / "run" / "samples").touch()

    at_step(monkeypatch, 3, block)
    run_dir, metrics = run(*GAN_OF_SIX, "trainer.val_check_interval=2")
    assert (metrics["steps_done"], status(run_dir)) == (6, "finished")
    assert len([text for text in caplog.messages if "metrics.csv can't be written" in text]) == 1
    steps = [text.partition("samples/")[2][:12] for text in caplog.messages if "samples/" in text]
    assert steps == ["step_0000003", "step_0000004", "step_0000006"]


@pytest.mark.slow
def test_memory_and_open_files_stay_as_they_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, tuple[int, int]] = {}
    training_step = SRGAN.training_step

    def watched(module: SRGAN, batch: Any, batch_idx: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen[module.trainer.global_step] = (
            pages * os.sysconf("SC_PAGE_SIZE") >> 20,
            len([*Path("/proc/self/fd").iterdir()]),
        )
        training_step(module, batch, batch_idx)

    monkeypatch.setattr(SRGAN, "training_step", watched)
    run("phases.content.steps=200", "phases.gan.steps=400", "trainer.val_check_interval=20")
    (memory, files), (later_memory, later_files) = seen[300], seen[599]  # both in the GAN phase
    assert later_memory <= memory + 8 and later_files <= files, (seen[300], seen[599])


def test_best_is_of_the_last_phase_and_of_no_step_that_is_done_anew(run: Run, whole: Result) -> None:
    first, metrics = whole
    in_gan = {step: value for step, value in rows(first, "val/psnr").items() if step > 3}
    assert metrics["best"]["step"] in in_gan
    assert metrics["best"]["value"] == pytest.approx(max(in_gan.values()), abs=1e-4)
    content = first / "checkpoints" / "content.ckpt"
    second, again = run(*GAN_OF_SIX, "trainer.limit_val_batches=0", f"ckpt_path={content}", folder="second")
    assert names(second / "checkpoints") == {"content.ckpt", "last.ckpt", "last-previous.ckpt"}
    assert again["best"] == {"monitor": "val/psnr", "value": None, "step": 0}


def test_without_the_best_checkpoint_a_resumed_run_finds_a_new_best(run: Run, whole: Result, tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    last = read(tmp_path / "run")
    last["callbacks"][next(key for key in last["callbacks"] if "Checkpoints" in key)]["best"] = 99.0
    CheckpointFiles().save_checkpoint(last, tmp_path / "run" / "checkpoints" / "last.ckpt")
    longer = ("phases.content.steps=3", "phases.gan.steps=5", "trainer.val_check_interval=2")
    run_dir, metrics = run(*longer, f"ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}", folder="run")
    assert metrics["best"]["step"] == 8 and read(run_dir, "best")["global_step"] == 8


def test_a_finished_run_is_not_given_settings_that_it_was_not_trained_with(run: Run, caplog: Any) -> None:
    two = (*CONTENT, "phases.content.steps=2", "ckpt_path=auto")
    run_dir, metrics = run(*two)
    kept = (run_dir / "config.yaml").read_text()
    for other in ("phases.content.optimizer.lr=3e-3", "seed=7", "balance=0.3"):
        with pytest.raises(UserError, match=rf"is of the last step, .*\({other.split('=')[0]}: .*give more steps"):
            run(*two, other)
    with pytest.raises(UserError, match="is of step 2, this run has 1 step content: give more steps"):
        run(*two, "phases.content.steps=1")
    assert (run_dir / "config.yaml").read_text() == kept and status(run_dir) == "finished"
    assert run(*two, "data.test_images=1")[1]["models"].keys() == metrics["models"].keys()
    _, more = run(*two, "phases.content.steps=3", "phases.content.optimizer.lr=3e-3")
    assert more["steps_done"] == 3


def test_a_branch_can_be_scored_and_resumed_at_once(run: Run, whole: Result) -> None:
    last = whole[0] / "checkpoints" / "last.ckpt"
    branch, metrics = run(*GAN_OF_SIX, f"ckpt_path={last}", folder="branch")
    assert read(branch)["global_step"] == 6 and metrics["models"].keys() == whole[1]["models"].keys()


def test_a_resumed_run_does_not_need_the_file_it_began_from(run: Run, whole: Result, tmp_path: Path) -> None:
    start = shutil.copy(whole[0] / "checkpoints" / "content.ckpt", tmp_path / "start.ckpt")
    gan = ("phases.content.steps=3", f"init_from={start}", "trainer.limit_val_batches=0", "ckpt_path=auto")
    run(*gan, "phases.gan.steps=1")
    Path(start).unlink()
    assert run(*gan, "phases.gan.steps=2")[1]["steps_done"] == 2


def test_going_back_keeps_the_later_curves_beside_the_later_checkpoints(
    run: Run, whole: Result, tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    checkpoints_of = tmp_path / "run" / "checkpoints"
    (tmp_path / "run" / "wandb-id.txt").write_text("abc")
    expected = rows(whole[0], "train/loss")
    again, _ = run(*GAN_OF_SIX, f"ckpt_path={checkpoints_of / 'content.ckpt'}")
    assert rows(again, "train/loss").keys() == expected.keys()
    assert not (again / "wandb-id.txt").exists()  # values sent to W&B can't be taken back
    assert (again / "metrics-1.csv").read_text() == (whole[0] / "metrics.csv").read_text()
    aside = again / "checkpoints-1" / "last.ckpt"
    (again / "metrics.csv").write_text("step\n")  # of what trains there now
    other, _ = run("phases.content.steps=3", "phases.gan.steps=4", f"ckpt_path={aside}", folder="other")
    assert {step: rows(other, "train/loss")[step] for step in expected} == expected
    elsewhere = shutil.copy(aside, tmp_path / "last.ckpt")
    third, _ = run("phases.content.steps=3", "phases.gan.steps=4", f"ckpt_path={elsewhere}", folder="third")
    assert min(rows(third, "train/loss")) == 7


def test_other_validation_pairs_begin_the_search_for_the_best_anew(
    run: Run, whole: Result, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    last = read(whole[0])
    assert last["health"]["best_psnr"] < 90
    last["callbacks"][next(key for key in last["callbacks"] if "Checkpoints" in key)]["best"] = 99.0
    last["health"]["best_psnr"] = 99.0
    longer = ("phases.content.steps=3", "phases.gan.steps=5", "trainer.val_check_interval=2")
    for folder, options in ("same", []), ("other", ["degradation=pillow"]):
        shutil.copytree(whole[0], tmp_path / folder)
        CheckpointFiles().save_checkpoint(last, tmp_path / folder / "checkpoints" / "last.ckpt")
        caplog.clear()
        _, metrics = run(*longer, *options, "ckpt_path=auto", folder=folder)
        assert metrics["best"]["value"] == 99.0 if folder == "same" else metrics["best"]["step"] == 8
        assert ("collapse" in caplog.text or "training diverges" in caplog.text) == (folder == "same")
        assert ("scores other images" in caplog.text) == (folder == "other")


def test_where_only_a_phases_checkpoint_is_missing_the_end_is_not_called_lost(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = CheckpointFiles.save_checkpoint

    def save_others(files: CheckpointFiles, checkpoint: dict[str, Any], path: Path, **options: Any) -> None:
        if Path(path).stem == "content":
            files.failure = OSError(28, "No space left on device")
        else:
            save(files, checkpoint, path, **options)

    monkeypatch.setattr(CheckpointFiles, "save_checkpoint", save_others)
    with pytest.raises(UserError, match=r"content.ckpt \(No space left on device\) could not be written; the state at"):
        run(*GAN_OF_SIX)


def test_a_best_checkpoint_that_cannot_be_written_is_no_best_in_any_process(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first process writes and knows of the failure; the others must not take the new best either."""
    told: list[bool] = []

    def broadcast(_: object, sent: object, src: int = 0) -> object:
        if not isinstance(sent, bool):
            return sent
        told.append(sent)
        return False

    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", broadcast)
    run_dir, metrics = run(*CONTENT, "phases.content.steps=2", "trainer.val_check_interval=1")
    assert told.count(True) == 2 and metrics["best"]["value"] is None
    assert status(run_dir) == "finished"


def test_less_of_a_distance_is_better_and_more_of_psnr_and_ssim() -> None:
    for monitor in ("val/lpips_alex", "val/niqe_gain"):
        assert Checkpoints("f", monitor, None).mode == "min" and Checkpoints("f", monitor, "max").mode == "max"
    assert Checkpoints("f", "val/ssim", None).mode == "max"


def test_the_best_by_one_score_is_not_compared_with_another() -> None:
    before, same, other = (Checkpoints("f", monitor, None) for monitor in ("val/psnr", "val/psnr", "val/ssim"))
    before.best, before.best_step = 30.0, 5
    for resumed in (same, other):
        resumed.load_state_dict(before.state_dict())
    assert (same.best, same.best_step) == (30.0, 5) and (other.best, other.best_step) == (None, 0)


def test_in_a_slurm_job_lightning_neither_saves_nor_requeues(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"NTASKS": "1", "JOB_NAME": "train", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0", "NODELIST": "node"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    environments: list[Any] = []
    at_step(
        monkeypatch, 1, lambda module: environments.append(module.trainer._accelerator_connector.cluster_environment)
    )
    run(*CONTENT, "phases.content.steps=2")
    assert [(type(found), found.auto_requeue) for found in environments] == [(SLURMEnvironment, False)]


def test_a_resumed_run_takes_the_configured_learning_rate_options_and_time(run: Run) -> None:
    first, _ = run(*CONTENT, "phases.content.steps=4", "trainer.max_time=00:01:00:00", folder="first")
    last = first / "checkpoints" / "last.ckpt"
    saved = read(first)
    assert not saved["optimizer_states"][0]["param_groups"][0]["fused"]
    saved["callbacks"]["Timer"]["time_elapsed"]["train"] = 3600.0
    torch.save(saved, last)
    adam = ("phases.content.optimizer.lr=3e-6", "phases.content.optimizer.betas=[0.8,0.99]", "fused=true")
    changed = (f"ckpt_path={last}", *adam, "trainer.max_time=00:00:50:00")
    rest, _ = run(*CONTENT, "phases.content.steps=6", *changed, folder="rest")
    assert rows(rest, "train/learning_rate") == dict.fromkeys(range(1, 5), 1e-4) | {5: 3e-6, 6: 3e-6}
    (group,) = read(rest)["optimizer_states"][0]["param_groups"]
    assert group["fused"] is True and [*group["betas"]] == [0.8, 0.99]


def test_the_bar_of_a_resumed_run_starts_where_it_does(
    run: Run, whole: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []

    def ended(bar: ProgressBar, *args: Any) -> None:
        update(bar, *args)
        shown = bar.train_progress_bar
        seen.append((shown.initial, shown.n, shown.total))

    update = ProgressBar.on_train_batch_end
    monkeypatch.setattr(ProgressBar, "on_train_batch_end", ended)
    options = ("phases.content.steps=3", "phases.gan.steps=5", "trainer.enable_progress_bar=true")
    run(*options, f"ckpt_path={whole[0] / 'checkpoints' / 'last.ckpt'}")
    assert seen == [(6, 7, 8), (6, 8, 8)]


def test_a_run_that_is_stopped_says_how_far_it_came(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 2, lambda module: setattr(module.trainer, "should_stop", True))  # as trainer.max_time does
    run_dir, metrics = run(*GAN_OF_SIX, "trainer.limit_val_batches=0")
    assert set(metrics["models"]) == {"bicubic", "content"}
    assert metrics["steps_done"] == read(run_dir)["global_step"] == 2
    assert status(run_dir) == "stopped"


def test_a_discriminator_may_get_an_optimizer_of_its_own_of_the_same_kind(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the alarm about a discriminator that is too sure advises."""
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda module: setattr(module.trainer, "should_stop", True))
        first, _ = run(*GAN_OF_SIX, folder="first")
    own = "phases.gan.discriminator_optimizer={{_target_: torch.optim.{}, _partial_: true, lr: 1e-5}}"
    going_on = (*GAN_OF_SIX, f"ckpt_path={first / 'checkpoints' / 'last.ckpt'}")
    with pytest.raises(UserError, match="holds the state of another optimizer"):
        run(*going_on, own.format("AdamW"), folder="other")
    rest, _ = run(*going_on, own.format("Adam"), folder="rest")
    generators, discriminators = (state["param_groups"][0] for state in read(rest)["optimizer_states"][-2:])
    assert generators["initial_lr"] == 1e-4 and discriminators["initial_lr"] == 1e-5


def test_weights_that_diverged_are_not_written(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = (
        r"step 4 was not applied: the generator's loss mse was .*3 in a row.*good checkpoint is \S*/last.ckpt, step \d"
    )
    soon = ("phases.content.steps=8", "phases.content.optimizer.lr=1e30", "training.skipped_in_a_row=3")
    with pytest.raises(UserError, match=named):
        run(*CONTENT, *soon, folder="logged")
    at_step(monkeypatch, 4, lambda module: module.generator.tail.weight.data.fill_(torch.nan))
    with pytest.raises(UserError, match="diverged by step 4: weights are not finite"):
        run(*CONTENT, "phases.content.steps=50")  # of which every fifth is logged
    last = read(tmp_path / "run")
    assert last["global_step"] == 3
    assert last["state_dict"]["generator.tail.weight"].isfinite().all()


def test_a_divergence_that_stays_finite_is_an_alarm_and_its_weights_are_not_the_best(run: Run) -> None:
    changed = ("trainer.val_check_interval=1", "phases.gan.optimizer.lr=0.1")
    run_dir, metrics = run(*GAN_OF_SIX, *changed)
    scores = rows(run_dir, "val/psnr")
    assert scores[6] < max(scores.values()) - 5
    assert any("training diverges, although all values are finite" in alarm for alarm in metrics["alarms"])
    assert metrics["best"]["step"] == read(run_dir, "best")["global_step"] in (3, 4)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("phases.gan.optimizer.lr=-1", r"^phases\.gan: its optimizer .* can't be made \(Invalid learning rate"),
        ("phases.content.optimizer.betas=[0.9]", r"^phases\.content: its optimizer or schedule can't be made"),
        ("training.ema_decay=2", r"^training\.ema_decay=2: expected"),
    ],
)
def test_settings_that_no_optimizer_or_average_takes_are_one_line(
    compose_config: Callable[..., DictConfig], override: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        build.build_module(compose_config("generator.channels=2", "generator.blocks=1", override, "run_dir=none"))


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["discriminator=patch", "data.crop=4"], "discriminator"),
        (["discriminator=unet", "data.crop=4"], "discriminator"),
        (["discriminator=keras", "data.crop=16", "batch_size=4", "accumulate=4"], "discriminator"),
        (["generator=srresnet", "loss=srresnet_mse", "data.crop=4", "batch_size=1"], "generator"),
        (["loss=srgan_vgg54", "discriminator=patch", "data.crop=8"], "loss vgg54"),
    ],
)
def test_crops_that_a_later_phase_could_not_take_are_refused_at_the_start(
    compose_config: Callable[..., DictConfig], overrides: list[str], part: str
) -> None:
    small = ["generator.channels=2", "generator.blocks=1", "vgg=random", "run_dir=none"]
    for extra, refused in (([], True), (["data.crop=32", "batch_size=4", "accumulate=1"], False)):
        cfg = compose_config(*small, *overrides, *extra)
        module = build.build_module(cfg)
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        random_state = torch.get_rng_state()
        if refused:
            with pytest.raises(UserError, match=rf"^the {part} can't take .* take a larger data.crop or batch_size$"):
                build.check_crops(module, cfg.data.crop, cfg.batch_size // cfg.accumulate)
        else:
            build.check_crops(module, cfg.data.crop, cfg.batch_size)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())


class Bare(torch.nn.Module):
    """A part of the user's own, without what training and validation need of it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))


def test_parts_of_ones_own_are_tried_as_a_step_uses_them(
    compose_config: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    cfg = compose_config(
        *("generator.channels=2", "generator.blocks=1", "discriminator.channels=2", "discriminator.hidden=4"),
        *("loss=srgan_mse", "data.crop=32", "run_dir=none"),
    )
    module = build.build_module(cfg)
    discriminator, generator, loss = module.discriminator, module.generator, module.phases[1].loss.content["mse"]
    module.discriminator = Bare()
    with pytest.raises(UserError, match=r"^Bare has no method with_features, which gives"):
        build.check_crops(module, 32, 2)
    module.discriminator = discriminator
    with pytest.raises(UserError, match=r"^Bare lacks scale, receptive_field, multiple; see"):
        build.check_generator(Bare())
    for wrong, said in (
        (lambda sr, hr: (sr - hr).mean((1, 2, 3)), r"a tensor \(2,\)"),
        (lambda sr, hr: (sr, hr), "a tuple"),
    ):
        loss.forward = wrong
        with pytest.raises(UserError, match=f"^the loss mse gave {said}, expected a tensor without dimensions"):
            build.check_crops(module, 32, 2)
    del loss.forward
    build.check_crops(module, 32, 2)
    assert not caplog.messages
    generator.__class__ = type("Own", (type(generator),), {})
    build.check_generator(generator)
    assert caplog.messages[0].startswith("Own isn't in srgan.models.generators, from which alone srgan.evaluate")


def test_a_loss_with_parameters_is_told_that_they_do_not_learn(
    compose_config: Callable[..., DictConfig], caplog: pytest.LogCaptureFixture
) -> None:
    small = ("generator.channels=2", "generator.blocks=1", "run_dir=none", "loss=srresnet_mse")
    build.build_module(compose_config(*small, "content.content.mse._target_=torch.nn.PReLU"))
    assert "phases.content: the loss has parameters that would learn (mse.weight)" in caplog.text


def test_going_on_with_another_configuration_is_refused(run: Run, whole: Result) -> None:
    going_on = (*GAN_OF_SIX, f"ckpt_path={whole[0] / 'checkpoints' / 'last.ckpt'}")
    for change, found in {
        "scale=2": "scale: 4 → 2",
        "generator.channels=8": "generator.channels: 4 → 8",
        "loss=srresnet_mse": "loss.gan",
    }.items():
        with pytest.raises(UserError, match=f"does not fit.*what differs: .*{found}"):
            run(*going_on, change, folder="second")
    with pytest.raises(UserError, match=r"state of another optimizer \(phases.gan.optimizer: Adam → AdamW\)"):
        run(*going_on, "phases.gan.optimizer._target_=torch.optim.AdamW", folder="second")
    with pytest.raises(UserError, match="a finished phase can't change"):
        run(*going_on, "trainer.max_steps=40", folder="second")


def test_what_differs_from_the_checkpoint_is_named_in_one_line(
    run: Run, caplog: pytest.LogCaptureFixture, photo_folder: Path
) -> None:
    first, _ = run(*CONTENT, "phases.content.steps=1", folder="first")
    going_on = (*CONTENT, f"ckpt_path={first / 'checkpoints' / 'last.ckpt'}", "phases.content.steps=2")
    saved = read(first)
    del saved["config"]["data"]["multiscale"]  # as before there was such an option
    CheckpointFiles().save_checkpoint(saved, first / "checkpoints" / "last.ckpt")
    run(*going_on, "data.workers=1", "phases.content.optimizer.lr=1e-3", folder="same")
    assert "with other settings" not in caplog.text
    (photo_folder / "0.png").unlink()
    changed = ("seed=2", "batch_size=3", "data.augment=none", "trainer.precision=bf16-mixed", "content=l1")
    run(*going_on, *changed, folder="other")
    (line,) = (text for text in caplog.messages if "with other settings" in text)
    expected = ("batch_size: 2 → 3", "seed: 1 → 2", "data.augment: flip → none", "precision: 32-true → bf16-mixed")
    assert all(text in line for text in (*expected, "training images: 6 → 5", "loss.content.content: mse → l1")), line


def test_training_starts_from_another_runs_average_or_exported_weights(run: Run, tmp_path: Path) -> None:
    no_multiple_of_16 = "data.crop=36"  # a content phase has no discriminator to refuse it
    content, metrics = run(*CONTENT, no_multiple_of_16, "phases.content.steps=2e0", "trainer.max_steps=3e0", folder="c")
    assert json.dumps(metrics["steps"]) == '{"content": 3}'
    assert not [key for key in read(content)["state_dict"] if key.startswith("discriminator")]
    last, exported = content / "checkpoints" / "last.ckpt", tmp_path / "w.safetensors"
    trained = checkpoints.load(last)
    node = OmegaConf.to_container(OmegaConf.load(content / "config.yaml").generator)
    checkpoints.save_weights(exported, trained, node)
    for start, phase, loss in ((last, "gan", "loss=srgan_mse"), (exported, "content", "loss=srresnet_mse")):
        still = (f"phases.{phase}.steps=1", f"phases.{phase}.optimizer.lr=0", "trainer.val_check_interval=1")
        frozen, metrics = run(loss, f"init_from={start}", *still, folder=phase)
        assert metrics["steps"] == {phase: 1}
        assert list(metrics["models"]) == ["bicubic", phase]
        weights = read(frozen)["state_dict"]
        for name, value in trained.named_parameters():
            assert torch.equal(weights[f"generator.{name}"], value) and torch.equal(weights[f"ema.{name}"], value)
