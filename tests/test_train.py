"""Whole runs through the real configuration: what they leave behind, and resuming."""

import csv
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from srgan import train
from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.training import graph
from srgan.training.checkpoints import Checkpoints, Interrupted
from srgan.training.module import SRGAN

Run = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def run(compose_config: Callable[..., DictConfig], tiny: list[str], tmp_path: Path) -> Run:
    """run("scale=2", …, folder="a"): train by the configuration; the run's folder and its metrics."""

    def do(*overrides: str, folder: str = "run") -> tuple[Path, dict[str, Any]]:
        run_dir = tmp_path / folder
        return run_dir, train.train(compose_config(*tiny, *overrides, run_dir=run_dir))

    return do


def rows(run_dir: Path, column: str) -> dict[int, float]:
    """A column of metrics.csv by step."""
    with (run_dir / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}


def weights(run_dir: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert not [key for key in first if not torch.equal(first[key], second[key])]


GAN_OF_SIX = ("trainer.max_steps=6", "phases.content.steps=3", "phases.gan.steps=3")


def test_a_run_leaves_its_record_checkpoints_pictures_and_figures(run: Run) -> None:
    run_dir, metrics = run(*GAN_OF_SIX, "trainer.val_check_interval=2")
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
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt", "content.ckpt"}
    assert {path.name for path in (run_dir / "samples").iterdir()} == {
        f"step_000000{step}.png" for step in (2, 3, 4, 6)
    }
    with Image.open(run_dir / "comparison.png") as picture:
        assert picture.size[0] == 8 + 5 * (256 + 8)  # LR, bicubic, content, gan, HR


def test_each_batch_is_one_step_in_every_counter(run: Run) -> None:
    run_dir, _ = run(*GAN_OF_SIX, "trainer.val_check_interval=4")
    assert list(rows(run_dir, "train/loss")) == [1, 2, 3, 4, 5, 6]
    assert list(rows(run_dir, "val/psnr")) == [3, 4, 6]  # at the interval of 4 and at the end of each phase
    assert list(rows(run_dir, "train/discriminator")) == [4, 5, 6]
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6
    assert torch.load(run_dir / "checkpoints" / "content.ckpt", weights_only=True)["global_step"] == 3


def test_logs_hold_the_health_of_the_gan_and_the_gain_over_bicubic(run: Run) -> None:
    run_dir, _ = run(*GAN_OF_SIX)
    with (run_dir / "metrics.csv").open() as file:
        columns = set(next(csv.reader(file)))
    assert columns >= {
        *("loss/mse", "loss/adversarial", "train/d_accuracy", "train/d_real", "train/d_fake", "train/images_per_s"),
        *("grad_norm/generator", "grad_norm/discriminator", "grad_at_sr/mse", "grad_at_sr/adversarial"),
        *("val/psnr", "val/psnr_bicubic", "val/psnr_gain", "val/ssim", "train/learning_rate"),
    }
    gain, value, bicubic = (rows(run_dir, f"val/psnr{kind}") for kind in ("_gain", "", "_bicubic"))
    assert all(gain[step] == pytest.approx(value[step] - bicubic[step], abs=1e-4) for step in gain)
    assert len(set(bicubic.values())) == 1


def test_the_same_seed_gives_the_same_weights(run: Run) -> None:
    first, _ = run(*GAN_OF_SIX, folder="a")
    second, _ = run(*GAN_OF_SIX, "data.workers=2", folder="b")
    other, _ = run(*GAN_OF_SIX, "seed=2", folder="c")
    assert_same(weights(first), weights(second))
    assert not torch.equal(weights(first)["generator.tail.weight"], weights(other)["generator.tail.weight"])


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


def test_a_graphed_run_trains_and_counts_as_a_plain_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU the capture is played by calling the work again."""
    plain, expected = run(*GAN_OF_SIX, "trainer.max_steps=40", "trainer.log_every_n_steps=100", folder="plain")
    monkeypatch.setattr(graph, "usable", lambda *_: True)
    replays: list[int] = []

    def again(work: Callable[[], None]) -> Callable[[], None]:
        return lambda: (replays.append(1), work())[1]

    monkeypatch.setattr(graph, "capture", again)
    graphed, metrics = run(
        *GAN_OF_SIX, "trainer.max_steps=40", "trainer.log_every_n_steps=100", "training.cuda_graph=true", folder="graph"
    )
    assert len(replays) > 6
    assert list(rows(plain, "train/loss")) == list(rows(graphed, "train/loss"))
    assert metrics["steps_done"] == expected["steps_done"] == 40
    saved = torch.load(graphed / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 40
    assert all(type(group["lr"]) is float for state in saved["optimizer_states"] for group in state["param_groups"])
    scores = [m["models"]["gan"]["mean"]["matlab"]["psnr"] for m in (expected, metrics)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-2)
    rest, resumed = run(*GAN_OF_SIX, "trainer.max_steps=44", "phases.content.steps=20", "phases.gan.steps=24",
                        f"ckpt_path={graphed / 'checkpoints' / 'last.ckpt'}", folder="rest")  # fmt: skip
    assert resumed["steps_done"] == 44
    assert torch.isfinite(weights(rest)["generator.tail.weight"]).all()


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_ctrl_c_leaves_a_checkpoint_and_resuming_is_exact(run: Run, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    whole, expected = run(*GAN_OF_SIX, "trainer.val_check_interval=4", folder="whole")

    step = SRGAN.training_step

    def interrupted(module: SRGAN, batch: Any, batch_idx: int) -> None:
        if module.trainer.global_step == stop - 1:
            os.kill(os.getpid(), signal.SIGINT)
        step(module, batch, batch_idx)

    monkeypatch.setattr(SRGAN, "training_step", interrupted)
    with pytest.raises(Interrupted):
        run(*GAN_OF_SIX, "trainer.val_check_interval=4", folder="part")
    monkeypatch.setattr(SRGAN, "training_step", step)
    part = whole.parent / "part"
    assert json.loads((part / "run.json").read_text())["status"] == "interrupted"
    last = part / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == stop

    rest, metrics = run(*GAN_OF_SIX, "trainer.val_check_interval=4", f"ckpt_path={last}", folder="rest")
    assert_same(weights(whole), weights(rest))
    assert metrics["models"] == expected["models"]
    assert list(rows(rest, "train/loss")) == list(range(stop + 1, 7))
    assert list(rows(rest, "val/psnr")) == {2: [3, 4, 6], 3: [4, 6], 5: [6]}[stop]


class PowerCut(BaseException):
    """Leaves no time to write anything, as no Exception does."""


def fail_at(step: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise in the training step that follows `step` finished ones."""
    training_step = SRGAN.training_step

    def failing(module: SRGAN, batch: Any, batch_idx: int) -> None:
        if module.trainer.global_step == step:
            raise error
        training_step(module, batch, batch_idx)

    monkeypatch.setattr(SRGAN, "training_step", failing)


@pytest.mark.parametrize(
    "loss",
    [GAN_OF_SIX, ("loss=srresnet_mse", "content=l1_vgg_views", "vgg=random", "phases.content.steps=6")],
    ids=["gan", "views"],
)
def test_resuming_from_a_validations_checkpoint_is_exact(
    run: Run, monkeypatch: pytest.MonkeyPatch, loss: tuple[str, ...]
) -> None:
    whole, _ = run(*loss, "trainer.val_check_interval=4", folder="whole")

    with monkeypatch.context() as patch:
        fail_at(5, PowerCut(), patch)
        with pytest.raises(PowerCut):
            run(*loss, "trainer.val_check_interval=4", folder="part")
    last = whole.parent / "part" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 4
    rest, _ = run(*loss, "trainer.val_check_interval=4", f"ckpt_path={last}", folder="rest")
    assert_same(weights(whole), weights(rest))


@pytest.mark.parametrize(
    ("error", "saved"), [(RuntimeError("out of memory"), 5), (UserError("a bad image"), 5), (PowerCut(), 4)]
)
def test_a_failure_keeps_the_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, saved: int
) -> None:
    fail_at(5, error, monkeypatch)
    with pytest.raises(type(error)):
        run(*GAN_OF_SIX, "trainer.val_check_interval=4")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == saved
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_a_failure_to_save_does_not_hide_the_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError("no space left")

    fail_at(1, RuntimeError("device lost"), monkeypatch)
    monkeypatch.setattr(Checkpoints, "_save", failing)
    with pytest.raises(RuntimeError, match="device lost"):
        run(*GAN_OF_SIX, "trainer.val_check_interval=6")


def test_nothing_of_an_earlier_run_passes_for_the_next(run: Run) -> None:
    run_dir, _ = run(*GAN_OF_SIX, "trainer.val_check_interval=3")
    history = (run_dir / "metrics.csv").read_text()
    (run_dir / "error.txt").write_text("an old failure")
    content = run_dir / "checkpoints" / "content.ckpt"
    with pytest.raises(UserError):
        run(*GAN_OF_SIX, "callbacks.checkpoints.monitor=val/x", "trainer.val_check_interval=1", f"ckpt_path={content}")
    left = {path.name for path in run_dir.iterdir()}
    assert not left & {"error.txt", "metrics.json", "comparison.png", "pictures"}
    assert (run_dir / "metrics-1.csv").read_text() == history


def test_best_of_steps_that_are_done_anew_is_not_brought_along(run: Run) -> None:
    first, metrics = run(*GAN_OF_SIX, "trainer.val_check_interval=1", folder="first")
    assert metrics["best"]["step"] > 3
    content = first / "checkpoints" / "content.ckpt"
    second, _ = run(*GAN_OF_SIX, "trainer.limit_val_batches=0", f"ckpt_path={content}", folder="second")
    assert {path.name for path in (second / "checkpoints").iterdir()} == {"content.ckpt", "last.ckpt"}


def test_steps_may_be_written_with_an_exponent(run: Run) -> None:
    run_dir, metrics = run("phases.content.steps=2e0", "phases.gan.steps=1e0", "trainer.max_steps=3e0")
    assert json.dumps(metrics["steps"]) == json.dumps(json.loads((run_dir / "run.json").read_text())["steps"])
    assert json.dumps(metrics["steps"]) == '{"content": 2, "gan": 1}'


def test_less_of_a_distance_is_better_and_more_of_psnr_and_ssim() -> None:
    for monitor in ("val/lpips_alex", "val/niqe_gain"):
        assert Checkpoints("f", monitor, None).mode == "min" and Checkpoints("f", monitor, "max").mode == "max"
    assert Checkpoints("f", "val/ssim", None).mode == "max"


def test_a_resumed_run_takes_the_configured_learning_rate(run: Run) -> None:
    first, _ = run("loss=srresnet_mse", "phases.content.steps=4", "trainer.val_check_interval=1", folder="first")
    last = first / "checkpoints" / "last.ckpt"
    rest, _ = run(
        *("loss=srresnet_mse", "phases.content.steps=6", f"ckpt_path={last}", "phases.content.optimizer.lr=3e-6"),
        folder="rest",
    )
    assert rows(rest, "train/learning_rate") == {5: 3e-6, 6: 3e-6}


def test_a_run_that_is_stopped_says_how_far_it_came(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = SRGAN.training_step

    def stopping(module: SRGAN, batch: Any, batch_idx: int) -> None:
        step(module, batch, batch_idx)
        module.trainer.should_stop = module.trainer.global_step == 2  # as trainer.max_time does

    monkeypatch.setattr(SRGAN, "training_step", stopping)
    run_dir, metrics = run(*GAN_OF_SIX, "trainer.limit_val_batches=0")
    assert set(metrics["models"]) == {"bicubic", "content"}
    assert metrics["steps_done"] == 2
    assert json.loads((run_dir / "run.json").read_text())["status"] == "stopped"
    assert torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_weights_that_diverged_are_not_written(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    step = SRGAN.training_step

    def exploding(module: SRGAN, batch: Any, batch_idx: int) -> None:
        step(module, batch, batch_idx)
        if module.trainer.global_step == 3:
            with torch.no_grad():
                module.generator.tail.weight.fill_(torch.nan)

    monkeypatch.setattr(SRGAN, "training_step", exploding)
    with pytest.raises(UserError, match="diverged by step 3"):
        run("loss=srresnet_mse", "phases.content.steps=8", "trainer.val_check_interval=1")
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert last["state_dict"]["generator.tail.weight"].isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("scale=2", "does not fit"),
        ("generator.channels=8", "does not fit"),
        ("loss=srresnet_mse", "does not fit"),
        ("trainer.max_steps=40", "a finished phase can't change"),
    ],
)
def test_going_on_with_another_configuration_is_refused(run: Run, change: str, message: str) -> None:
    first, _ = run(*GAN_OF_SIX, folder="first")
    with pytest.raises(UserError, match=message):
        run(*GAN_OF_SIX, f"ckpt_path={first / 'checkpoints' / 'last.ckpt'}", change, folder="second")


def test_the_gan_can_start_from_another_runs_generator(run: Run) -> None:
    content, _ = run("loss=srresnet_mse", "trainer.max_steps=3", folder="content")
    last = content / "checkpoints" / "last.ckpt"
    gan, metrics = run("loss=srgan_mse", f"init_from={last}", "trainer.max_steps=2", folder="gan")
    assert metrics["steps"] == {"gan": 2}
    assert set(metrics["models"]) == {"bicubic", "gan"}
    frozen, _ = run(
        *("loss=srgan_mse", f"init_from={last}", "trainer.max_steps=1", "phases.gan.optimizer.lr=0"), folder="frozen"
    )
    name = "tail.weight"
    assert torch.equal(weights(frozen)[f"generator.{name}"], weights(content)[f"ema.{name}"])
    assert not torch.equal(weights(gan)[f"generator.{name}"], weights(content)[f"ema.{name}"])


def test_training_can_start_from_exported_weights(run: Run, tmp_path: Path) -> None:
    content, _ = run("loss=srresnet_mse", "trainer.max_steps=3", folder="content")
    trained = checkpoints.load(content / "checkpoints" / "last.ckpt")
    node = OmegaConf.to_container(OmegaConf.load(content / "config.yaml").generator)
    checkpoints.save_weights(tmp_path / "w.safetensors", trained, node)
    frozen, metrics = run(
        *("loss=srresnet_mse", "content=l1", f"init_from={tmp_path / 'w.safetensors'}", "phases.content.steps=1"),
        *("phases.content.optimizer.lr=0", "trainer.val_check_interval=1"),
    )
    assert metrics["steps"] == {"content": 1}
    ema = weights(frozen)
    assert not [name for name, value in trained.named_parameters() if not torch.equal(ema[f"ema.{name}"], value)]
    with pytest.raises(UserError, match=r"no weights 'nowhere'.*srresnet_x4"):
        run("init_from=nowhere", folder="none")
    with pytest.raises(UserError, match="does not fit"):
        run("init_from=srresnet_x4", folder="other")


def test_a_content_run_has_no_discriminator(run: Run) -> None:
    run_dir, metrics = run("loss=srresnet_mse", "data.crop=36", "trainer.max_steps=1")  # no multiple of 16
    assert set(metrics["models"]) == {"bicubic", "content"}
    assert not [key for key in weights(run_dir) if key.startswith("discriminator")]


@pytest.mark.parametrize("generator", ["srresnet", "compact"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_a_checkpoint_rebuilds_its_generator(run: Run, generator: str, scale: int) -> None:
    run_dir, _ = run(
        *("loss=srresnet_mse", f"generator={generator}", f"scale={scale}", "data.crop=48", "trainer.max_steps=1")
    )
    rebuilt = checkpoints.load(run_dir / "checkpoints" / "last.ckpt")
    assert rebuilt(torch.rand(1, 3, 7, 6)).shape == (1, 3, 7 * scale, 6 * scale)
    saved = weights(run_dir)
    assert all(torch.equal(value, saved[f"ema.{key}"]) for key, value in rebuilt.state_dict().items())


def test_a_bf16_run_agrees_with_fp32_at_first(run: Run) -> None:
    full, _ = run(*GAN_OF_SIX, folder="full")
    half, _ = run(*GAN_OF_SIX, "trainer.precision=bf16-mixed", folder="half")
    exact, rounded = rows(full, "train/loss"), rows(half, "train/loss")
    assert exact != rounded
    assert [rounded[step] for step in exact] == pytest.approx(list(exact.values()), rel=0.03)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda_agrees_with_the_cpu_at_first(run: Run) -> None:
    host, _ = run(*GAN_OF_SIX, folder="host")
    device, _ = run(*GAN_OF_SIX, "trainer.accelerator=cuda", folder="device")
    expected = rows(host, "train/loss")
    assert [rows(device, "train/loss")[step] for step in expected] == pytest.approx(list(expected.values()), rel=0.01)


def test_best_is_the_best_within_the_last_phase(run: Run) -> None:
    run_dir, metrics = run(*GAN_OF_SIX, "trainer.val_check_interval=1")
    in_gan = {step: value for step, value in rows(run_dir, "val/psnr").items() if step > 3}
    assert metrics["best"]["value"] == pytest.approx(max(in_gan.values()), abs=1e-4)
    assert metrics["best"]["step"] in in_gan
