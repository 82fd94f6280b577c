"""The benchmark: what it compares does the same work, and its figures are there."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from srgan import machine, speed
from srgan.data.celeba import celeba_splits
from srgan.data.degradation import BicubicDegradation
from srgan.errors import UserError
from srgan.images import decode
from srgan.measure import clock, scale, steps, trainer, upscaling
from srgan.measure.clock import WARM_UP, in_turn
from srgan.measure.plain import PlainDataset, _cross_entropy, steps_alike
from srgan.training import graph

CPU = torch.device("cpu")
Configured = Callable[..., DictConfig]


@pytest.fixture
def configured(tiny: list[str], tmp_path: Path, compose_config: Configured) -> Configured:
    """configured("what=step", …): the configuration that srgan.speed would run, on tiny networks."""
    few = [*tiny, "rounds=2", "seconds=0.05", "loss=srgan_mse"]
    return lambda *overrides: compose_config(*few, *overrides, run_dir=tmp_path / "speed", command="speed")


def test_the_plain_way_takes_the_same_step(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same weights and batch both end at the same weights, but for BN's count of the second pass."""
    module = speed._module(configured("adversarial_weight=0.5", "scale=2", "data.crop=16"))
    phase = replace(module.phases[1], optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    made = Mock(wraps=steps.PlainStep)
    monkeypatch.setattr(steps, "PlainStep", made)
    plain = steps.plain_step(module, phase, CPU)  # copies the networks
    (pair,) = steps.random_pairs(BicubicDegradation(2), 16, 2, CPU, count=1)
    steps.fast_step(module, phase, CPU, "32-true")(pair)
    plain(pair)
    for name in ("generator", "discriminator"):
        ours, theirs = getattr(module, name), made.call_args.kwargs[name]
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_the_plain_way_is_timed_beside_the_same_work_only(configured: Configured) -> None:
    for overrides, alike in (
        ((), True),
        (("training.separate_batches=true", "batch_size=4"), False),
        (("accumulate=2", "batch_size=4"), False),
        (("balance=0.3",), False),
    ):
        module = speed._module(configured("scale=2", "data.crop=16", *overrides))
        assert steps_alike(module, module.phases[1]) is alike


def test_what_cannot_be_measured_is_one_line(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROCESS", Path("/nowhere"))
    for overrides, message in (
        (("what=null",), "what=None: choose from step, train"),
        (("what=[step,sleep]",), r"what=\['sleep'\]: choose from"),
        (("what=scale",), "memory is read from /nowhere"),
        (("what=step", "seed=-1"), "seed=-1: expected 0 to"),
    ):
        with pytest.raises(UserError, match=message):
            speed.speed(configured(*overrides))


def test_an_experiment_brings_its_own_losses(compose_config: Configured) -> None:
    for name in ("photos_x4", "demo", "faces_x4"):
        measured, trained = (
            compose_config(f"experiment={name}", "data=photos", command=command) for command in ("speed", "train")
        )
        assert measured.loss == trained.loss and measured.phases == trained.phases


def test_the_flops_of_a_convolution_are_counted_forward_and_backward() -> None:
    conv = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)
    image = torch.rand(2, 4, 10, 10, requires_grad=True)
    with steps._Flops() as counter:
        conv(image).sum().backward()
    assert counter.total == 3 * (2 * 2 * 8 * 4 * 9 * 100)


def test_alternatives_take_turns() -> None:
    calls: list[str] = []
    found = in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, CPU, 2, 0.0, items=5)
    assert "".join(calls) == "a" * WARM_UP + "b" * WARM_UP + "aabb" * 2 and WARM_UP > graph.WARM_UP
    assert found["a"]["images_per_s"] == pytest.approx(5 * (found["a"]["steps_per_s"] or 0))
    assert (found["a"]["lowest"] or 0) <= (found["a"]["steps_per_s"] or 0) <= (found["a"]["highest"] or 0)


def test_a_peak_leaves_out_what_the_other_variants_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, of which this plays the memory: each variant keeps as many MiB as its name says, and needs 10 more."""
    held, peak = [100.0], [0.0]
    keeps = {"1": 1.0, "20": 20.0}

    def call(name: str) -> None:
        held[0] += keeps.pop(name, 0.0)
        peak[0] = held[0] + 10

    monkeypatch.setattr(clock, "held_mib", lambda device: held[0])
    monkeypatch.setattr(clock, "peak_mib", lambda device: peak[0])
    found = in_turn({name: lambda name=name: call(name) for name in list(keeps)}, CPU, 1, 0.0, items=1)
    assert {name: figures["peak_mib"] for name, figures in found.items()} == {"1": 111.0, "20": 130.0}


def test_on_a_gpu_the_steps_of_a_run_are_timed_when_it_has_finished_them() -> None:
    timed = trainer.StepClock()
    timed.ends = [0.1 * n for n in range(WARM_UP + 20)]  # of the launches
    timed.started, timed.finished = 1.0, 6.0
    assert trainer.figures(timed, [], torch.device("cuda"), 16) == {"steps_per_s": 4.0, "images_per_s": 64.0}


def test_the_schedule_is_told_in_hours_or_days() -> None:
    found = {"content": {"fast": {"steps_per_s": 10.0}}, "gan": {"fast": {"steps_per_s": 1.0}}}
    expected = "would take 3.5 days here: 1,000,000 steps content 27.8 hours, 200,000 steps gan 2.3 days"
    assert expected in speed.schedule(found, {"content": 1_000_000, "gan": 200_000})
    assert "2 minutes" in speed.schedule({"gan": found["gan"]}, {"gan": 120})


def test_the_plain_way_enlarges_small_images_and_takes_several_heads(tmp_path: Path) -> None:
    Image.new("RGB", (40, 21)).save(tmp_path / "small.png")
    lr, hr = PlainDataset([tmp_path / "small.png"], 32, 4)[0]
    assert (lr.shape, hr.shape) == ((3, 8, 8), (3, 32, 32))
    one, other = torch.tensor([[0.5]]), torch.tensor([[-2.0]])
    torch.testing.assert_close(_cross_entropy([one, other], 1), (_cross_entropy(one, 1) + _cross_entropy(other, 1)) / 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a single core
def test_everything_is_measured_and_written(configured: Configured, tmp_path: Path) -> None:
    found = speed.speed(configured("what=[step,train,loader]"))
    assert json.loads((tmp_path / "speed" / "speed.json").read_text()) == found
    for figures in (found[part][phase] for part in ("step", "train") for phase in ("content", "gan")):
        fast, plain = figures["fast"]["images_per_s"], figures["plain"]["images_per_s"]
        assert figures["ratio"] == pytest.approx(fast / plain, rel=1e-6)
    assert found["step"]["gan"]["unguarded"]["steps_per_s"] > 0
    assert found["step"]["gan"]["plain"]["gflop_per_step"] > found["step"]["gan"]["fast"]["gflop_per_step"] > 0
    assert found["train"]["content"]["fast"]["overhead"] > 0
    assert set(found["loader"]) == {"0 workers", "1 workers", "2 workers", "decoder", "Pillow", "pair"}


def test_upscaling_is_measured_and_equal_to_the_plain_way(
    configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "WARM_UP", 1)
    monkeypatch.setattr(clock, "rate", lambda call, device, seconds, rate=clock.rate: rate(call, device, 0.0))
    monkeypatch.setattr(upscaling, "SIZE", (48, 64))
    with pytest.raises(UserError, match=r"what=.*nix.*choose from step, train"):
        speed.speed(configured("what=nix"))
    results = speed.speed(configured("what=upscale"))
    assert 1 < results["machine"]["gflop_per_s_fp32"] < 1e5
    found = results["upscale"]
    assert found["max_difference"] <= 1
    for figures in (found["fast"], found["plain"]):
        assert figures["megapixels_per_s"] == pytest.approx(figures["pictures_per_s"] * 16 * 48 * 64 / 1e6)
    assert found["ratio"] == found["fast"]["megapixels_per_s"] / found["plain"]["megapixels_per_s"]


@pytest.mark.slow
def test_start_up_and_memory_are_measured_on_sets_of_celebas_layouts(tmp_path: Path) -> None:
    found = scale.measure((40,), batches=300)
    for layout in ("folder", "zip"):
        assert found[layout]["40"]["seconds_to_first_batch"] > 0
        assert abs(found[layout]["40"]["worker_mib_growth"]) < 60  # 200 batches of crops would be 88
        (tmp_path / layout).mkdir()
        scale.generate(tmp_path / layout, 50, layout)
        splits = celeba_splits(tmp_path / layout)
        assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [40, 5, 5]
        assert decode(splits.train.read(39), "x").shape == (3, 218, 178)
