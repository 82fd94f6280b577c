import os
import pickle
import sys
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
from srgan.evaluation.methods import Network, methods
from srgan.imresize import imresize
from srgan.inference.tiles import TILE
from srgan.models import checkpoints
from srgan.models.generators import Compact

CPU = torch.device("cpu")
Make = Callable[..., Benchmark]
Picture = Callable[..., Tensor]
Write = Callable[[Path, Tensor], Path]


def compact(scale: int = 2, seed: int = 0) -> Compact:
    torch.manual_seed(seed)
    generator = Compact(scale, channels=4, blocks=1)
    nn.init.normal_(generator.tail.weight, std=0.3)
    return generator.eval()


def config(scale: int = 2) -> dict[str, Any]:
    node = {"_target_": "srgan.models.generators.Compact", "scale": scale, "channels": 4, "blocks": 1}
    data = {"root": "photos", "crop": 32, "seed": 1}
    return {"generator": node, "scale": scale, "seed": 1, "data": data, "trainer": {"max_steps": 5}}


def write_checkpoint(path: Path, generator: Compact, **changes: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"ema.{name}": value for name, value in generator.state_dict().items()}
    torch.save({"state_dict": state, "config": config(generator.scale) | changes}, path)
    return str(path)


@pytest.mark.parametrize("models", [[], "bicubic", "nearest", {"mine": "nearest"}, ["nearest", "bicubic"]])
def test_bicubic_is_matlabs_and_always_first_and_nearest_repeats_pixels(made: Make, models: Any) -> None:
    image = made(3)[0]
    bicubic, *others = methods(models, made(3), CPU).values()
    assert bicubic.label == "bicubic" and torch.equal(bicubic(image), imresize(image.lr, 3))
    assert len(others) == ("nearest" in str(models))
    for sr in (nearest(image) for nearest in others):
        assert sr.shape == image.hr.shape
        assert all(torch.equal(sr[..., i::3, j::3], image.lr) for i in range(3) for j in range(3))


@torch.inference_mode()
def test_a_checkpoint_a_run_and_weights_by_path_or_name_give_the_generators_sr_whole_or_in_tiles(
    made: Make, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, other = compact(), compact(seed=1)
    best = write_checkpoint(tmp_path / "run/checkpoints/best.ckpt", generator)
    last = write_checkpoint(tmp_path / "run/checkpoints/last.ckpt", other)
    weights = tmp_path / "mine_x2.safetensors"
    checkpoints.save_weights(weights, generator, config()["generator"])
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    made_by = {**dict.fromkeys([best, str(tmp_path / "run"), str(weights), "mine_x2"], generator), last: other}
    image = made()[0]._replace(lr=picture(7, 61, 47))
    lr = image.lr.float() / 255
    calls: list[int] = []
    for tile in (TILE, 1):
        loaded = methods(list(made_by), made(), CPU, tile=tile)
        assert list(loaded) == ["bicubic", *made_by] and loaded["mine_x2"].label == "mine_x2"
        for spec, network in made_by.items():
            method = loaded[spec]
            assert isinstance(method, Network)
            method.generator.register_forward_pre_hook(lambda *_, tile=tile: calls.append(tile))
            torch.testing.assert_close(method(image), network(lr), atol=1e-5, rtol=0)
    assert calls.count(TILE) == 5 and calls.count(1) > 4 * 5
    assert (generator(lr) - other(lr)).abs().max() > 0.01


def test_checkpoints_tell_their_seed_and_what_they_were_trained_for(made: Make, tmp_path: Path) -> None:
    data = config()["data"]
    changes = (
        {"name": "a", "run_dir": "a"},
        {"name": "b", "run_dir": "b", "seed": 2, "data": data | {"seed": 2}},
        {"trainer": {"max_steps": 6}},
        {"data": data | {"crop": 64}},
    )
    paths = [write_checkpoint(tmp_path / f"{i}/best.ckpt", compact(), **changes[i]) for i in range(4)]
    bicubic, first, second, longer, crops = methods(paths, made(), CPU).values()
    assert (first.seed, second.seed) == (1, 2)
    assert first.configuration == second.configuration
    assert first.configuration != longer.configuration
    assert first.configuration != crops.configuration
    assert bicubic.configuration is None


def test_pictures_are_the_sr_of_the_image_of_their_name(made: Make, tmp_path: Path, write: Write) -> None:
    benchmark, folder = made(), tmp_path / "sr"
    files = [write(folder / f"{image.name}_SRGAN.png", 255 - image.hr) for image in (benchmark[i] for i in range(3))]
    (folder / "log.txt").write_text("not an image")
    _, method = methods([str(folder)], benchmark, CPU).values()
    assert method.label == "sr"
    assert all(torch.equal(method(benchmark[index]), 255 - benchmark[index].hr) for index in range(3))
    write(files[1], benchmark[1].lr)
    height, width = benchmark[1].lr.shape[-2:]
    with pytest.raises(UserError, match=rf"b_SRGAN.png is {width}×{height}, its HR is {2 * width}×{2 * height}"):
        method(benchmark[1])
    files[1].write_text("not an image")
    with pytest.raises(UserError, match=r"b_SRGAN.png: not a readable image"):
        method(benchmark[1])
    files[1].unlink()
    with pytest.raises(UserError, match="sr needs one picture for b, found none"):
        methods([str(folder)], benchmark, CPU)


# --- how they are named -----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, made: Make, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, runs and pictures in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("sweep/10/checkpoints/best", "sweep/9/checkpoints/best", "sweep/1/checkpoints/best", "net[1]"):
        write_checkpoint(Path(f"{name}.ckpt"), compact())
    Path("sweep/notes.txt").write_text("no method")
    for folder in ("sr/nearest", "sr/hr"):
        for index, name in enumerate("abc"):
            write(Path(folder, f"{name}.png"), made()[index].hr)
    write_checkpoint(Path("run/checkpoints/last.ckpt"), compact())
    Path("failed/.hydra").mkdir(parents=True)
    write_checkpoint(Path("x3.ckpt"), compact(3))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (["nearest", "sweep/*"], ["nearest", "1", "9", "10"]),
        (["sweep/*/checkpoints/best.ckpt"], ["1", "9", "10"]),
        (["**/best.ckpt"], ["1", "9", "10"]),
        (["sweep/9", "net[1].ckpt"], ["sweep/9", "net[1]"]),
        (["nearest", "sr/nearest", "bicubic"], ["nearest", "sr/nearest"]),
        (["sr/hr"], ["sr/hr"]),
        ({"ours": "sweep/1", "as is": "nearest"}, ["ours", "as is"]),
    ],
)
def test_patterns_are_expanded_in_natural_order_and_all_labels_differ(made: Make, models: Any, labels: Any) -> None:
    loaded = methods(models, made(), CPU)
    assert [method.label for method in loaded.values()] == ["bicubic", *labels]
    if isinstance(models, dict):
        assert list(loaded) == ["bicubic", *models]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["bicubik"], "bicubik is neither nearest, bicubic nor a file or folder"),
        (["none.ckpt"], "none.ckpt is neither nearest, bicubic nor a file or folder"),
        (["none*"], r"models: nothing matches none\*"),
        (["run"], r"run is a run without checkpoints/best\.ckpt; leave it out"),
        (["failed"], r"failed is a run without checkpoints/best\.ckpt; leave it out"),
        (["x3.ckpt"], r"x3.ckpt enlarges ×3, the benchmark is ×2; evaluate it with scale=3"),
        ({"bicubic": "nearest"}, "'bicubic' is the name of something else beside the models; give another"),
        ({"": "nearest"}, "each needs a name and a path"),
    ],
)
def test_what_is_no_model_is_told_what_would_do(made: Make, models: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        methods(models, made(), CPU)


# --- other people's networks ------------------------------------------------------------------------------------------


def foreign(name: str, channels: int = 3) -> nn.Module:
    """A network of another project, ×2: leftthomas/SRGAN's or, from spandrel, Compact."""
    torch.manual_seed(0)
    if name.startswith("netG"):
        plugin: Any = pytest.importorskip("srgan.inference.spandrel_plugin", exc_type=ImportError)
        return plugin.LeftThomas(stages=1, channels=4, end=nn.BatchNorm2d(4)).eval()
    architecture: Any = pytest.importorskip("spandrel.architectures.Compact.__arch.SRVGG")
    options = {"num_in_ch": channels, "num_out_ch": channels, "num_feat": 8, "num_conv": 1, "upscale": 2}
    return architecture.SRVGGNetCompact(**options).eval()


@torch.inference_mode()
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "netG_epoch_2_100.pth"])
def test_other_networks_give_the_sr_that_they_give_by_themselves_whole_or_in_tiles(
    made: Make, tmp_path: Path, picture: Picture, name: str
) -> None:
    network, path = foreign(name), tmp_path / name
    save = save_file if path.suffix == ".safetensors" else torch.save
    save(network.state_dict(), path)
    for image, tile in ((made()[0], TILE), (made()[0]._replace(lr=picture(0, 130, 111)), 1)):
        _, method = methods([str(path)], made(), CPU, tile=tile).values()
        expected = network(image.lr.float() / 255).clamp(0, 1)
        torch.testing.assert_close(method(image).clamp(0, 1), expected, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=rf"{name} enlarges ×2, the benchmark is ×3"):
        methods([str(path)], made(3), CPU)


def test_a_file_without_a_network_from_rgb_to_rgb_is_one_clear_message(made: Make, tmp_path: Path) -> None:
    torch.save(foreign("grey.pth", channels=1).state_dict(), tmp_path / "grey.pth")
    with pytest.raises(UserError, match=r"grey.pth: .*doesn't map RGB to RGB"):
        methods([str(tmp_path / "grey.pth")], made(), CPU)
    save_file(nn.Linear(3, 4).state_dict(), tmp_path / "net.safetensors")
    torch.save(nn.Linear(3, 4).state_dict(), tmp_path / "net.pt")
    (tmp_path / "notes.txt").write_text("no method")
    for name in ("net.safetensors", "net.pt", "notes.txt"):
        with pytest.raises(UserError, match=rf"{name}: neither srgan nor spandrel can load it \(.+\)"):
            methods([str(tmp_path / name)], made(), CPU)


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("made",)


def test_code_in_a_file_does_not_run(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spandrel")
    monkeypatch.chdir(tmp_path)
    torch.save({"params": Code()}, "torch.pth")
    Path("pickle.pth").write_bytes(pickle.dumps({"params": Code()}))
    for name in ("torch.pth", "pickle.pth"):
        with pytest.raises(UserError, match=name):
            methods([name], made(), CPU)
    assert not Path("made").exists()


def test_without_spandrel_it_says_what_to_install(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    torch.save({}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"net.pth .*pip install 'srgan\[spandrel\]'"):
        methods([str(tmp_path / "net.pth")], made(), CPU)
    assert len(methods([write_checkpoint(tmp_path / "net.ckpt", compact())], made(), CPU)) == 2
