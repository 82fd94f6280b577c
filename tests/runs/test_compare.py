"""Which runs are of one configuration, and by what the configurations differ."""

from pathlib import Path

import pytest
from test_read import change_json, make_run, write_choices

from srgan.runs.compare import common_choices, common_config, configurations, short_names, varied_keys
from srgan.runs.read import UNKNOWN, find_runs


def test_seeds_are_one_configuration(tmp_path: Path) -> None:
    for number, run in enumerate([("mse", 1, 30.0), ("vgg", 1, 33.0), ("mse", 2, 31.0), ("mse", 3, 35.0)]):
        make_run(tmp_path / str(number), *run)
    runs = find_runs([tmp_path])
    several, single = configurations(runs)
    assert [run.label for run in several.runs] == ["0", "2", "3"]
    assert (several.label, single.label) == ("loss=mse", "loss=vgg")  # not loss.gan.weights.mse
    # 30, 31, 35: mean 32, deviations −2, −1, 3, sample variance (4 + 1 + 9) / 2
    assert several.mean(lambda run: run.result and run.result.psnr) == pytest.approx((32.0, 7**0.5))
    assert several.mean(lambda run: run.gain) == pytest.approx((4.0, 7**0.5))
    assert single.mean(lambda run: run.gain) == (5.0, None)
    assert single.mean(lambda run: None) is None
    assert common_choices(runs) == {"data": "photos"}
    change_json(tmp_path / "3" / "metrics.json", steps_done=3)  # stopped early: not averaged
    assert configurations(find_runs([tmp_path]))[0].mean(lambda run: run.gain) == pytest.approx((2.5, 0.5**0.5))


def test_a_seed_that_ran_twice_counts_once(tmp_path: Path) -> None:
    for number, (seed, psnr) in enumerate([(1, 30.0), (2, 32.0), (1, 30.0)]):
        make_run(tmp_path / str(number), "mse", seed, psnr)
    (group,) = configurations(find_runs([tmp_path]))
    assert [run.label for run in group.complete] == ["1", "2"]
    assert group.mean(lambda run: run.result and run.result.psnr) == pytest.approx((31.0, 2**0.5))


def test_what_leaves_the_weights_as_they_are_tells_no_runs_apart(tmp_path: Path) -> None:
    for number, rate in enumerate((1e-4, 3e-4)):
        bookkeeping = {"download": bool(number), "lpips": [None, "alex"][number], "data": {"workers": number}}
        make_run(tmp_path / str(number), phases={"lr": rate}, **bookkeeping)
        change_json(tmp_path / str(number) / "run.json", choices={"logger": ["csv", "wandb"][number]})
    assert varied_keys(find_runs([tmp_path])) == ["phases.lr"]


def test_the_shortest_of_the_keys_that_vary_together_stands_for_them(tmp_path: Path) -> None:
    for number, (loss, steps) in enumerate([("mse", 1), ("mse", 2), ("vgg", 1), ("vgg", 2)]):
        make_run(tmp_path / str(number), loss, data={"steps": steps, "a": {"half": steps / 2}}, ckpt_path=str(number))
    runs = find_runs([tmp_path])
    assert varied_keys(runs) == ["loss", "data.steps"]
    assert [group.label for group in configurations(runs)][1:3] == ["loss=mse steps=2", "loss=vgg steps=1"]
    for number in range(4):
        (tmp_path / str(number) / ".hydra" / "hydra.yaml").unlink()  # the resolved values tell the runs apart, too
    assert varied_keys(find_runs([tmp_path])) == ["data.steps", "loss.gan.weights.mse"]
    names = ["a.steps", "b.steps", "crop", "content@loss.gan"]
    assert list(short_names(["a.steps", "b.steps", "data.crop", "content@loss.gan"]).values()) == names


def test_an_experiment_stands_for_the_files_it_chooses(tmp_path: Path) -> None:
    for experiment, data in ("faces", "celeba"), ("demo", "photos"), ("photos", "photos"):
        write_choices(tmp_path / experiment, {"data": data, "experiment": experiment})
    assert varied_keys(find_runs([tmp_path])) == ["experiment"]


def test_what_a_run_left_unsaid_tells_it_from_no_other(tmp_path: Path) -> None:
    make_run(tmp_path / "0")
    write_choices(tmp_path / "1", {"data": "photos", "loss": "mse"})  # failed before it wrote its config
    runs = find_runs([tmp_path])
    assert varied_keys(runs) == []
    assert [len(group.runs) for group in configurations(runs)] == [2]
    assert runs[1].value("scale") == UNKNOWN


def test_the_configuration_in_common(tmp_path: Path) -> None:
    make_run(tmp_path / "0", data={"crop": 96, "root": "/a", "list": [1]}, trainer=None)
    make_run(tmp_path / "1", data={"crop": 96, "root": "/b", "list": [1]}, trainer={"x": 1})
    common = common_config(find_runs([tmp_path]))
    assert common["data"] == {"crop": 96, "list": [1]}
    assert {"trainer", "run_dir"}.isdisjoint(common)
    assert common["loss"] == {"gan": {"weights": {"mse": 1.0}}}
