import builtins
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from srgan import weights as packaged
from srgan.errors import UserError
from srgan.evaluation.benchmarks import Benchmark
from srgan.evaluation.methods import Method, Network, methods
from srgan.imresize import imresize
from srgan.models import checkpoints
from srgan.models.generators import Compact

CPU = torch.device("cpu")
Make = Callable[..., Benchmark]
Write = Callable[[Path, Tensor], Path]


def compact(scale: int = 2, seed: int = 0) -> Compact:
    torch.manual_seed(seed)
    generator = Compact(scale, channels=4, blocks=1)
    nn.init.normal_(generator.tail.weight, std=0.3)
    return generator.eval()


def config(scale: int = 2, **changes: Any) -> dict[str, Any]:
    node = {"_target_": "srgan.models.generators.Compact", "scale": scale, "channels": 4, "blocks": 1}
    data = {"root": "photos", "crop": 32, "seed": 1}
    return {"generator": node, "scale": scale, "seed": 1, "data": data, "trainer": {"max_steps": 5}} | changes


def write_checkpoint(path: Path, generator: Compact, **changes: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"ema.{name}": value for name, value in generator.state_dict().items()}
    torch.save({"state_dict": state, "config": config(generator.scale, **changes)}, path)
    return str(path)


def names_and_labels(loaded: dict[str, Method]) -> dict[str, str]:
    return {name: method.label for name, method in loaded.items()}


def only(loaded: dict[str, Method]) -> Method:
    """The one method beside bicubic."""
    assert len(loaded) == 2
    return list(loaded.values())[1]


def test_nearest_repeats_pixels_and_bicubic_is_matlabs(made: Make) -> None:
    for scale in (2, 3):
        benchmark = made(scale)
        image = benchmark[0]
        loaded = methods(["nearest"], benchmark, CPU)
        assert names_and_labels(loaded) == {"bicubic": "bicubic", "nearest": "nearest"}
        sr = loaded["nearest"](image)
        assert sr.shape == image.hr.shape
        assert all(torch.equal(sr[..., i::scale, j::scale], image.lr) for i in range(scale) for j in range(scale))
        assert torch.equal(loaded["bicubic"](image), imresize(image.lr, scale))


@pytest.mark.parametrize("models", [[], "bicubic", {"mine": "nearest"}, ["nearest", "bicubic"]])
def test_bicubic_is_always_there_and_first(made: Make, models: Any) -> None:
    loaded = methods(models, made(), CPU)
    assert next(iter(loaded)) == "bicubic"
    assert torch.equal(loaded["bicubic"](made()[0]), imresize(made()[0].lr, 2))


def test_a_name_of_bicubic_for_something_else_is_refused(made: Make) -> None:
    with pytest.raises(UserError, match="'bicubic' is the name of something else beside the models; give another"):
        methods({"bicubic": "nearest"}, made(), CPU)


def test_a_checkpoint_a_run_and_exported_weights_give_the_generators_sr(made: Make, tmp_path: Path) -> None:
    benchmark, generator, other = made(), compact(), compact(seed=1)
    path = write_checkpoint(tmp_path / "run/checkpoints/best.ckpt", generator)
    last = write_checkpoint(tmp_path / "run/checkpoints/last.ckpt", other)
    checkpoints.save_weights(tmp_path / "net.safetensors", generator, config()["generator"])
    lr = benchmark[0].lr.float() / 255
    with torch.inference_mode():
        expected, unlike = generator(lr), other(lr)
        for spec in (path, str(tmp_path / "run"), str(tmp_path / "net.safetensors")):
            torch.testing.assert_close(only(methods(spec, benchmark, CPU))(benchmark[0]), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(only(methods([last], benchmark, CPU))(benchmark[0]), unlike, atol=1e-5, rtol=0)
    assert (expected - unlike).abs().max() > 0.01


@torch.inference_mode()
def test_weights_that_come_with_the_package_go_by_their_name(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save_weights(tmp_path / "mine_x2.safetensors", compact(), config()["generator"])
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    loaded = methods(["mine_x2"], made(), CPU)
    assert names_and_labels(loaded) == {"bicubic": "bicubic", "mine_x2": "mine_x2"}
    expected = compact()(made()[0].lr.float() / 255)
    torch.testing.assert_close(loaded["mine_x2"](made()[0]), expected, atol=1e-5, rtol=0)


def test_small_tiles_change_nothing(made: Make, tmp_path: Path, picture: Callable[..., Tensor]) -> None:
    benchmark = made()
    image = benchmark[0]._replace(lr=picture(7, 61, 47))
    path = write_checkpoint(tmp_path / "net.ckpt", compact())
    calls: list[tuple[int, ...]] = []
    method = only(methods([path], benchmark, CPU, tile=1))
    assert isinstance(method, Network)
    method.generator.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape))
    torch.testing.assert_close(method(image), compact()(image.lr.float() / 255), atol=1e-5, rtol=0)
    assert len(calls) > 4


def test_checkpoints_tell_their_seed_and_what_they_were_trained_for(made: Make, tmp_path: Path) -> None:
    first, second, longer, crops = (
        only(methods([write_checkpoint(tmp_path / f"{index}/best.ckpt", compact(), **changes)], made(), CPU))
        for index, changes in enumerate(
            (
                {"name": "a", "run_dir": "a"},
                {"name": "b", "run_dir": "b", "seed": 2, "data": config()["data"] | {"seed": 2}},
                {"trainer": {"max_steps": 6}},
                {"data": config()["data"] | {"crop": 64}},
            )
        )
    )
    assert (first.seed, second.seed) == (1, 2)
    assert first.configuration == second.configuration
    assert first.configuration != longer.configuration
    assert first.configuration != crops.configuration
    assert methods([], made(), CPU)["bicubic"].configuration is None


# --- ready-made pictures ----------------------------------------------------------------------------------------------


def write_sr(folder: Path, benchmark: Benchmark, write: Write, suffix: str = "") -> None:
    for index in range(len(benchmark)):
        write(folder / f"{benchmark.names[index]}{suffix}.png", 255 - benchmark[index].hr)


@pytest.mark.parametrize("suffix", ["", "_SRGAN"])
def test_pictures_are_the_sr_of_the_image_of_their_name(made: Make, tmp_path: Path, write: Write, suffix: str) -> None:
    benchmark = made()
    write_sr(tmp_path / "sr", benchmark, write, suffix)
    (tmp_path / "sr" / "log.txt").write_text("not an image")
    method = only(methods([str(tmp_path / "sr")], benchmark, CPU))
    assert method.label == "sr"
    assert all(torch.equal(method(benchmark[index]), 255 - benchmark[index].hr) for index in range(3))


def test_pictures_that_do_not_fit_the_benchmark_are_named(made: Make, tmp_path: Path, write: Write) -> None:
    benchmark, folder = made(), tmp_path / "sr"
    write_sr(folder, benchmark, write)
    (folder / "b.png").unlink()
    with pytest.raises(UserError, match="sr needs one picture for b, found none"):
        methods([str(folder)], benchmark, CPU)
    write(folder / "b.png", benchmark[1].lr)
    height, width = benchmark[1].lr.shape[-2:]
    with pytest.raises(UserError, match=rf"b.png is {width}×{height}, its HR is {2 * width}×{2 * height}"):
        only(methods([str(folder)], benchmark, CPU))(benchmark[1])
    (folder / "b.png").write_text("not an image")
    with pytest.raises(UserError, match=r"b.png: not a readable image"):
        only(methods([str(folder)], benchmark, CPU))(benchmark[1])


# --- how they are named -----------------------------------------------------------------------------------------------


def test_a_pattern_takes_all_that_match_in_natural_order(made: Make, tmp_path: Path) -> None:
    for number in (10, 9, 1):
        write_checkpoint(tmp_path / f"sweep/{number}/checkpoints/best.ckpt", compact())
    (tmp_path / "sweep/notes.txt").write_text("no method")
    for pattern in ("sweep/*", "sweep/*/checkpoints/best.ckpt", "**/best.ckpt"):
        loaded = methods(["nearest", str(tmp_path / pattern)], made(), CPU)
        assert [method.label for method in loaded.values()] == ["bicubic", "nearest", "1", "9", "10"]
    with pytest.raises(UserError, match=r"models: nothing matches .*/none\*"):
        methods([str(tmp_path / "none*")], made(), CPU)


def test_a_mapping_names_them_and_a_list_is_labelled_by_what_differs(made: Make, tmp_path: Path) -> None:
    first, second = (write_checkpoint(tmp_path / f"{x}/checkpoints/best.ckpt", compact()) for x in "ab")
    named = methods({"ours": first, "as is": "nearest"}, made(), CPU)
    assert names_and_labels(named) == {"bicubic": "bicubic", "ours": "ours", "as is": "as is"}
    listed = methods([first, second, "nearest"], made(), CPU)
    assert names_and_labels(listed) == {"bicubic": "bicubic", first: "a", second: "b", "nearest": "nearest"}


@pytest.mark.parametrize("folder", ["nearest", "hr"])
def test_no_two_columns_have_one_label(made: Make, tmp_path: Path, write: Write, folder: str) -> None:
    write_sr(tmp_path / folder, made(), write)
    labels = [method.label for method in methods(["nearest", str(tmp_path / folder)], made(), CPU).values()]
    assert len({"lr", "hr", *labels}) == 5


# --- what does not work -----------------------------------------------------------------------------------------------


def test_another_scale_names_both(made: Make, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "net.ckpt", compact(3))
    with pytest.raises(UserError, match=r"net.ckpt enlarges ×3, the benchmark is ×2; evaluate it with scale=3"):
        methods([path], made(2), CPU)


def test_what_is_no_model_is_told_what_would_do(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spec in ("bicubik", "none.ckpt"):
        with pytest.raises(UserError, match=rf"{spec} is neither nearest, bicubic nor a file or folder"):
            methods([spec], made(), CPU)
    write_checkpoint(tmp_path / "run/checkpoints/last.ckpt", compact())
    (tmp_path / "failed/.hydra").mkdir(parents=True)
    for run in ("run", "failed"):
        with pytest.raises(UserError, match=rf"{run} is a run without checkpoints/best\.ckpt; leave it out"):
            methods([str(tmp_path / run)], made(), CPU)


# --- other people's networks ------------------------------------------------------------------------------------------


@pytest.fixture
def foreign() -> nn.Module:
    """A network of another project, ×2."""
    architecture: Any = pytest.importorskip("spandrel.architectures.Compact.__arch.SRVGG")
    torch.manual_seed(0)
    return architecture.SRVGGNetCompact(num_feat=8, num_conv=1, upscale=2).eval()


@torch.inference_mode()
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_spandrels_networks_give_the_sr_that_they_give_by_themselves(
    made: Make, foreign: nn.Module, tmp_path: Path, name: str
) -> None:
    if name.endswith("pth"):
        torch.save(foreign.state_dict(), tmp_path / name)
    else:
        save_file(foreign.state_dict(), tmp_path / name)
    benchmark = made()
    method = only(methods([str(tmp_path / name)], benchmark, CPU))
    for index in range(len(benchmark)):
        expected = foreign(benchmark[index].lr.float() / 255).clamp(0, 1)
        torch.testing.assert_close(method(benchmark[index]).clamp(0, 1), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_spandrels_networks_take_large_pictures_in_tiles(
    made: Make, foreign: nn.Module, tmp_path: Path, picture: Callable[..., Tensor]
) -> None:
    torch.save(foreign.state_dict(), tmp_path / "net.pth")
    image = made()[0]._replace(lr=picture(0, 130, 111))
    method = only(methods([str(tmp_path / "net.pth")], made(), CPU, tile=1))
    expected = foreign(image.lr.float() / 255).clamp(0, 1)
    torch.testing.assert_close(method(image).clamp(0, 1), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_weights_of_leftthomas_srgan_give_their_sr(made: Make, tmp_path: Path) -> None:
    plugin: Any = pytest.importorskip("srgan.inference.spandrel_plugin", exc_type=ImportError)
    torch.manual_seed(0)
    network = plugin.LeftThomas(stages=1, channels=4, end=nn.BatchNorm2d(4)).eval()
    torch.save(network.state_dict(), tmp_path / "netG_epoch_2_100.pth")
    benchmark = made()
    method = only(methods([str(tmp_path / "netG_epoch_2_100.pth")], benchmark, CPU))
    expected = network(benchmark[0].lr.float() / 255)
    torch.testing.assert_close(method(benchmark[0]), expected, atol=1e-5, rtol=0)


def test_spandrels_networks_of_another_scale_are_refused(made: Make, foreign: nn.Module, tmp_path: Path) -> None:
    torch.save(foreign.state_dict(), tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net.pth enlarges ×2, the benchmark is ×3"):
        methods([str(tmp_path / "net.pth")], made(3), CPU)


def test_a_file_that_spandrel_does_not_know_is_one_clear_message(made: Make, tmp_path: Path) -> None:
    pytest.importorskip("spandrel")
    state = nn.Linear(3, 4).state_dict()
    save_file(state, tmp_path / "net.safetensors")
    torch.save(state, tmp_path / "net.pt")
    (tmp_path / "notes.txt").write_text("no method")
    for name in ("net.safetensors", "net.pt", "notes.txt"):
        with pytest.raises(UserError, match=rf"{name}: neither srgan nor spandrel can load it \(.+\)"):
            methods([str(tmp_path / name)], made(), CPU)


class Code:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["net.pth", "net.ckpt"])
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_file_does_not_run(made: Make, tmp_path: Path, name: str, save: Callable[..., object]) -> None:
    pytest.importorskip("spandrel")
    save({"params": Code(tmp_path / "made")}, tmp_path / name)
    with pytest.raises(UserError, match=name):
        methods([str(tmp_path / name)], made(), CPU)
    assert not (tmp_path / "made").exists()


def test_without_spandrel_it_says_what_to_install(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "spandrel":
            raise ModuleNotFoundError("No module named 'spandrel'", name="spandrel")
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    torch.save({}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net.pth .*pip install 'srgan\[spandrel\]'"):
        methods([str(tmp_path / "net.pth")], made(), CPU)
    checkpoint = write_checkpoint(tmp_path / "net.ckpt", compact())
    assert isinstance(only(methods([checkpoint], made(), CPU)), Network)


def test_a_network_that_is_not_rgb_to_rgb_is_refused(made: Make, tmp_path: Path) -> None:
    architecture: Any = pytest.importorskip("spandrel.architectures.Compact.__arch.SRVGG")
    network = architecture.SRVGGNetCompact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=2)
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    with pytest.raises(UserError, match=r"grey.pth: .*doesn't map RGB to RGB"):
        methods([str(tmp_path / "grey.pth")], made(), CPU)


def test_a_file_whose_name_looks_like_a_pattern_is_found(made: Make, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "net[1].ckpt", compact())
    assert isinstance(only(methods([path], made(), CPU)), Network)
