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
from srgan.evaluation.methods import Method, methods
from srgan.imresize import imresize
from srgan.inference.tiles import TILE
from srgan.models import checkpoints
from srgan.models.generators import Compact

Make = Callable[..., Benchmark]
Picture = Callable[..., Tensor]
Write = Callable[[Path, Tensor], Path]
Load = Callable[..., dict[str, Method]]


@pytest.fixture
def load(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """load(models, scale=2, tile=1): the methods for a benchmark, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return lambda models, scale=2, tile=TILE: methods(models, made(scale), torch.device("cpu"), tile)


def compact(scale: int = 2, seed: int = 0) -> Compact:
    torch.manual_seed(seed)
    generator = Compact(scale, channels=4, blocks=1)
    nn.init.normal_(generator.tail.weight, std=0.3)
    return generator.eval()


def config(scale: int = 2) -> dict[str, Any]:
    node = {"_target_": "srgan.models.generators.Compact", "scale": scale, "channels": 4, "blocks": 1}
    data = {"root": "photos", "crop": 32, "seed": 1}
    return {"generator": node, "scale": scale, "seed": 1, "data": data, "trainer": {"max_steps": 5}}


def write_checkpoint(path: str, generator: Compact, **changes: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    state = {f"ema.{name}": value for name, value in generator.state_dict().items()}
    plan = {"global_step": changes.pop("global_step", 0), "phases": changes.pop("phases", {})}
    torch.save({"state_dict": state, "config": config(generator.scale) | changes, **plan}, path)


@pytest.mark.parametrize("models", [[], "bicubic", "nearest", {"mine": "nearest"}, ["nearest", "bicubic"]])
def test_bicubic_is_matlabs_and_always_first_and_nearest_repeats_pixels(made: Make, load: Load, models: Any) -> None:
    image = made(3)[0]
    bicubic, *others = load(models, scale=3).values()
    assert bicubic.label == "bicubic" and torch.equal(bicubic(image), imresize(image.lr, 3))
    assert len(others) == ("nearest" in str(models))
    for sr in (nearest(image) for nearest in others):
        assert sr.shape == image.hr.shape
        assert all(torch.equal(sr[..., i::3, j::3], image.lr) for i in range(3) for j in range(3))


def test_a_number_as_a_name_comes_with_a_space_before_it_which_is_dropped(load: Load) -> None:
    assert {name: method.label for name, method in load({" 1e3": "nearest"}).items()} == {
        "bicubic": "bicubic",
        "1e3": "1e3",
    }


@torch.inference_mode()
def test_a_checkpoint_a_run_and_weights_by_path_or_name_give_the_generators_sr_whole_or_in_tiles(
    made: Make, load: Load, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, other = compact(), compact(seed=1)
    best, last = "run/checkpoints/best.ckpt", "run/checkpoints/last.ckpt"
    write_checkpoint(last, generator)
    write_checkpoint(best, other)
    checkpoints.save_weights(tmp_path / "mine_x2.safetensors", generator, config()["generator"])
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    made_by = {**dict.fromkeys([last, "run", "mine_x2.safetensors", "mine_x2"], generator), best: other}
    image = made()[0]._replace(lr=picture(7, 61, 47))
    lr = image.lr.float() / 255
    calls: list[int] = []
    for tile in (TILE, 1):
        loaded = load(list(made_by), tile=tile)
        assert list(loaded) == ["bicubic", *made_by] and loaded["mine_x2"].label == "mine_x2"
        for spec, network in made_by.items():
            method: Any = loaded[spec]
            method.generator.register_forward_pre_hook(lambda *_, tile=tile: calls.append(tile))
            torch.testing.assert_close(method(image), network(lr), atol=1e-5, rtol=0)
    assert calls.count(TILE) == 5 and calls.count(1) > 4 * 5
    assert (generator(lr) - other(lr)).abs().max() > 0.01


def test_checkpoints_tell_their_seed_and_what_they_were_trained_for(load: Load) -> None:
    data = config()["data"]
    write_checkpoint("1/best.ckpt", compact(), name="a", run_dir="a")
    write_checkpoint("2/best.ckpt", compact(), name="b", run_dir="b", seed=2, data=data | {"seed": 2})
    write_checkpoint("3/best.ckpt", compact(), trainer={"max_steps": 6})
    write_checkpoint("4/best.ckpt", compact(), data=data | {"crop": 64})
    bicubic, *loaded = load(["*/best.ckpt"]).values()
    assert [method.seed for method in loaded] == [1, 2, 1, 1]
    first, second, longer, crops = (method.configuration for method in loaded)
    assert first == second and first != longer and first != crops
    assert bicubic.configuration is None
    for run, step in (("one", 50), ("two", 50), ("stopped", 20)):
        write_checkpoint(f"{run}/checkpoints/last.ckpt", compact(), name=run, run_dir=run, global_step=step)
    one, two, stopped = (load([run])[run].configuration for run in ("one", "two", "stopped"))
    assert one == two and one != stopped


def test_a_run_that_is_not_finished_is_said(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    for run, step in (("whole", 50), ("part", 20)):
        write_checkpoint(f"{run}/checkpoints/last.ckpt", compact(), global_step=step, phases={"content": 30, "gan": 20})
    load(["whole", "part"])
    assert caplog.messages == ["part/checkpoints/last.ckpt: its run isn't finished (step 20 of 50)"]


def test_weights_have_one_fingerprint_in_every_file_and_other_weights_another(load: Load, tmp_path: Path) -> None:
    write_checkpoint("a.ckpt", compact())
    write_checkpoint("b.ckpt", compact(seed=1))
    checkpoints.save_weights(tmp_path / "a.safetensors", compact(), config()["generator"])
    loaded = load(["a.ckpt", str(tmp_path / "a.safetensors"), "b.ckpt", "nearest"])
    bicubic, first, same, other, nearest = (method.weights_sha256 for method in loaded.values())
    assert first == same == checkpoints.fingerprint(compact()) and first != other
    assert bicubic is nearest is None


def test_pictures_are_the_sr_of_the_image_of_their_name(made: Make, load: Load, write: Write) -> None:
    images = [made()[index] for index in range(3)]
    files = [write(Path(f"sr/{image.name}_SRGAN.png"), 255 - image.hr) for image in images]
    Path("sr/log.txt").write_text("not an image")
    _, method = load(["sr"]).values()
    assert all(torch.equal(method(image), 255 - image.hr) for image in images)
    beside = write(Path(f"sr/{images[0].name}.png"), images[0].hr)
    _, hr = load(["sr"]).values()
    with pytest.raises(UserError, match=rf"{beside.name} is the HR itself, and .*{files[0].name} lies beside it"):
        hr(images[0])
    write(files[1], images[1].lr)
    height, width = images[1].lr.shape[-2:]
    with pytest.raises(UserError, match=rf"b_SRGAN.png is {width}×{height}, its HR is {2 * width}×{2 * height}"):
        method(images[1])
    files[1].write_text("not an image")
    with pytest.raises(UserError, match=r"b_SRGAN.png: not a readable image"):
        method(images[1])
    files[1].unlink()
    with pytest.raises(UserError, match="sr needs one picture for b, found none"):
        load(["sr"])


@pytest.fixture
def files(load: Load, made: Make, write: Write) -> None:
    for name in (
        "sweep/10/checkpoints/last",
        "sweep/9/checkpoints/last",
        "sweep/1/checkpoints/last",
        "net[1]",
        "[2]/a",
    ):
        write_checkpoint(f"{name}.ckpt", compact())
    Path("sweep/notes.txt").write_text("no method")
    for file in (f"sr/{folder}/{made().names[index]}.png" for folder in ("nearest", "hr") for index in range(3)):
        write(Path(file), made()[0].hr)
    write_checkpoint("run/checkpoints/best.ckpt", compact())
    Path("failed/.hydra").mkdir(parents=True)
    write_checkpoint("x3.ckpt", compact(3))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("models", "labels"),
    [
        (["nearest", "sweep/*"], ["nearest", "1", "9", "10"]),
        (["sweep/*/checkpoints/last.ckpt"], ["1", "9", "10"]),
        (["**/last.ckpt"], ["1", "9", "10"]),
        (["[2]/*", "sweep/9"], ["[2]/a", "sweep/9"]),
        (["sweep/9", "net[1].ckpt"], ["sweep/9", "net[1]"]),
        (["nearest", "sr/nearest", "bicubic"], ["nearest", "sr/nearest"]),
        (["sr/hr"], ["sr/hr"]),
        ({"ours": "sweep/1", "as is": "nearest"}, ["ours", "as is"]),
    ],
)
def test_patterns_are_expanded_in_natural_order_and_all_labels_differ(load: Load, models: Any, labels: Any) -> None:
    assert [method.label for method in load(models).values()] == ["bicubic", *labels]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["bicubik"], "bicubik is neither nearest, bicubic nor a file or folder"),
        (["none.ckpt"], "none.ckpt is neither nearest, bicubic nor a file or folder"),
        (["none*"], r"models: nothing matches none\*"),
        (["run"], r"run is a run without checkpoints/last\.ckpt; leave it out"),
        (["failed"], r"failed is a run without checkpoints/last\.ckpt; leave it out"),
        (["x3.ckpt"], r"x3.ckpt enlarges ×3, the benchmark is ×2; evaluate it with scale=3"),
        ({"bicubic": "nearest"}, "'bicubic' is a reserved name; give another"),
        ({"": "nearest"}, "each needs a name and a path"),
    ],
)
def test_what_is_no_model_is_told_what_would_do(load: Load, models: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(models)


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
    made: Make, load: Load, picture: Picture, name: str
) -> None:
    network = foreign(name)
    save = save_file if name.endswith("safetensors") else torch.save
    save(network.state_dict(), name)
    for image, tile in ((made()[0], TILE), (made()[0]._replace(lr=picture(0, 130, 111)), 1)):
        _, method = load([name], tile=tile).values()
        expected = network(image.lr.float() / 255).clamp(0, 1)
        torch.testing.assert_close(method(image).clamp(0, 1), expected, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=rf"{name} enlarges ×2, the benchmark is ×3"):
        load([name], scale=3)


def test_a_file_without_a_network_from_rgb_to_rgb_is_one_clear_message_and_its_code_does_not_run(
    load: Load, trap: object
) -> None:
    torch.save(foreign("grey.pth", channels=1).state_dict(), "grey.pth")
    with pytest.raises(UserError, match=r"grey.pth: .*doesn't map RGB to RGB"):
        load(["grey.pth"])
    save_file(nn.Linear(3, 4).state_dict(), "net.safetensors")
    torch.save(nn.Linear(3, 4).state_dict(), "net.pt")
    torch.save({"params": trap}, "code.pth")
    Path("pickle.pth").write_bytes(pickle.dumps({"params": trap}))
    Path("notes.txt").write_text("no method")
    for name in ("net.safetensors", "net.pt", "code.pth", "pickle.pth", "notes.txt"):
        with pytest.raises(UserError, match=rf"{name}: neither srgan nor spandrel can load it \(.+\)"):
            load([name])


def test_without_spandrel_it_says_what_to_install(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    torch.save({}, "net.pth")
    with pytest.raises(UserError, match=r"net.pth .*pip install 'srgan\[spandrel\]'"):
        load(["net.pth"])
    write_checkpoint("net.ckpt", compact())
    assert len(load(["net.ckpt"])) == 2
