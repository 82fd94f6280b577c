import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torch import Tensor, nn

import srgan
from srgan import machine
from srgan.errors import UserError
from srgan.images import to_uint8
from srgan.imresize import imresize
from srgan.inference.upscaler import SPREAD_RADIUS, Upscaler
from srgan.models import checkpoints
from srgan.models.generators import Compact, Generator, SRResNet

NODE = {"_target_": "srgan.models.generators.Compact", "scale": 2, "channels": 8, "blocks": 1}
Trained = Callable[..., Generator]


@pytest.fixture
def generator(trained: Trained) -> Generator:
    return trained(Compact, gain=0.4)


@pytest.fixture
def upscaler(generator: Generator) -> Upscaler:
    return Upscaler(generator, "cpu")


def photograph(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    return np.ascontiguousarray(data.astronaut()[100 : 100 + height, 180 : 180 + width])


def near(actual: NDArray[Any], expected: NDArray[Any], levels: float = 1) -> bool:
    return actual.shape == expected.shape and float(np.abs(actual.astype(float) - expected).max()) <= levels


@pytest.mark.parametrize(("kind", "scale"), [(SRResNet, 2), (SRResNet, 3), (Compact, 4)])
def test_the_result_is_the_generators(kind: type[Generator], scale: int, trained: Trained, tmp_path: Path) -> None:
    generator = trained(kind, scale, gain=0.4)
    node = NODE | {"_target_": f"srgan.models.generators.{kind.__name__}", "scale": scale}
    checkpoints.save_weights(tmp_path / "mine.safetensors", generator, node)
    with torch.inference_mode():
        sr = generator(torch.from_numpy(photograph()).permute(2, 0, 1)[None] / 255)
    expected = to_uint8(sr)[0].permute(1, 2, 0).numpy()
    assert expected.std() > 4
    for precision, levels in (("fp32", 1), ("bf16", 4)):
        upscale = srgan.load_generator(tmp_path / "mine.safetensors", "cpu", precision)
        assert (upscale.name, upscale.scale, upscale.precision) == ("mine", scale, precision)
        result = upscale(photograph())
        assert result.dtype == np.uint8 and near(result, expected, levels)


def test_auto_computes_more_than_8_bits_in_fp32(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 SRResNet's picture would have 256 levels between a half and 1."""
    monkeypatch.setattr(machine, "has_cpu_bf16", lambda: True)
    generator = trained(SRResNet, 2, gain=0.4)
    auto, exact = Upscaler(generator, "cpu"), Upscaler(generator, "cpu", "fp32")
    assert (auto.precision, exact.precision) == ("bf16", "fp32")
    deep = photograph().astype(np.uint16) * 257
    for picture in (deep, deep / 65535):
        np.testing.assert_array_equal(auto(picture), exact(picture))
    assert not np.array_equal(auto(photograph()), exact(photograph()))


@pytest.mark.parametrize("kind", [SRResNet, Compact])
def test_tiles_give_the_whole_within_one_grey_level(kind: type[Generator], trained: Trained) -> None:
    generator = trained(kind, 4, gain=0.4)
    side = 2 * (generator.receptive_field + SPREAD_RADIUS) + 23
    rgba = np.dstack([data.astronaut()[:90, :80], data.camera()[:90, :80]])
    rgba[20:50, 10:60, 3] = 0  # colours spread into these across tiles
    assert near(Upscaler(generator, "cpu", tile=side)(rgba), Upscaler(generator, "cpu")(rgba))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_pillow_image_keeps_its_mode_and_profile(upscaler: Upscaler, mode: str) -> None:
    image = Image.fromarray(photograph()).convert(mode)
    profile = image.info["icc_profile"] = bytes(16) + (b"GRAY" if mode.startswith("L") else b"RGB ")
    sr = upscaler(image)
    assert (sr.mode, sr.size, sr.info["icc_profile"]) == (mode, (112, 80), profile)


def test_a_pillow_image_is_turned_upright(upscaler: Upscaler) -> None:
    image = Image.fromarray(photograph())
    turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be turned by 270°
    np.testing.assert_array_equal(np.asarray(upscaler(turned)), np.asarray(upscaler(image)))


def test_arrays_and_tensors_of_all_types_agree(upscaler: Upscaler) -> None:
    eight = upscaler(photograph())
    sixteen = upscaler(photograph().astype(np.uint16) * 257)
    real = upscaler(photograph().astype(np.float64) / 255)
    assert (sixteen.dtype, real.dtype) == (np.uint16, np.float64)
    assert near(sixteen / 257, eight, 0.51) and near(real * 255, eight, 0.51)
    assert len(np.unique(sixteen)) > 256, "16 bits must not be 8 bits stretched"
    assert real.min() >= 0 and real.max() <= 1
    lr = torch.from_numpy(photograph()).permute(2, 0, 1) / 255
    sr = upscaler(lr)
    assert sr.dtype == torch.float32 and near(sr.permute(1, 2, 0).numpy() * 255, eight, 0.51)
    batch = upscaler(torch.stack([lr, lr.flip(-1)]).half())
    assert (batch.shape, batch.dtype) == ((2, 3, 80, 112), torch.float16)
    torch.testing.assert_close(batch[0].float(), sr, atol=2e-3, rtol=0)
    assert upscaler(lr[None][:0]).shape == (0, 3, 80, 112)
    assert np.array_equal(upscaler(photograph().astype(">u2") * 257), sixteen)


def test_grey_stays_grey_in_every_form(upscaler: Upscaler, generator: Generator) -> None:
    grey = data.camera()[200:240, 200:256].copy()
    sr = upscaler(grey)
    assert sr.shape == (80, 112)
    np.testing.assert_array_equal(upscaler(grey[..., None])[..., 0], sr)
    np.testing.assert_array_equal(np.asarray(upscaler(Image.fromarray(grey))), sr)
    np.testing.assert_array_equal(upscaler(torch.from_numpy(grey)[None])[0].numpy(), sr)
    with torch.inference_mode():
        colours = generator(torch.from_numpy(grey).expand(1, 3, -1, -1) / 255)
    assert near(sr, to_uint8(colours.mean(1))[0].numpy())
    deep = upscaler(Image.fromarray(grey.astype(np.uint16) * 257))
    assert deep.mode == "I;16" and near(np.asarray(deep) / 257, sr, 0.51)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("alpha", [False, True])
def test_equal_channels_give_equal_channels_the_same_as_grey_alone(
    generator: Generator, dtype: type, alpha: bool
) -> None:
    grey = data.camera()[200:240, 200:256].astype(dtype)
    grey = grey / 255 if dtype is np.float32 else grey
    seen = [np.where(np.arange(56) > 9, grey, 0)] if alpha else []
    for tile in (384, 2 * Upscaler(generator, "cpu").overlap + 8):
        upscaler = Upscaler(generator, "cpu", tile=tile)
        alone, colour = upscaler(np.dstack([grey, *seen])), upscaler(np.dstack([grey, grey, grey, *seen]))
        for channel, expected in enumerate([0, 0, 0, *([1] if alpha else [])]):
            np.testing.assert_array_equal(colour[..., channel], alone[..., expected])
        coloured = np.dstack([grey, grey, grey, *seen])
        coloured[3, 3, 0] = 0
        assert (np.ptp(upscaler(coloured)[..., :3], axis=-1) > 0).mean() > 0.1, "one coloured pixel: the network's RGB"


def test_alpha_is_enlarged_by_bicubic_and_hidden_colours_do_not_bleed_into_what_is_seen(upscaler: Upscaler) -> None:
    rgb, alpha = photograph(), data.camera()[:40, :56]
    opaque = upscaler(np.dstack([rgb, np.full_like(alpha, 255)]))
    np.testing.assert_array_equal(opaque[..., :3], upscaler(rgb))
    assert (opaque[..., 3] == 255).all()
    sr = upscaler(np.dstack([rgb, alpha]))[..., 3]
    assert near(sr, imresize(torch.from_numpy(alpha.copy()), 2).numpy())
    seen = np.zeros((40, 40, 1), bool)
    seen[10:30, 10:30] = True
    black, green = (
        upscaler(np.dstack([np.where(seen, (200, 100, 50), hidden), 255 * seen]).astype(np.uint8))
        for hidden in ((0, 0, 0), (0, 255, 0))
    )
    inside = black[..., 3] > 0
    assert inside.sum() >= 40 * 40
    assert near(black[inside][:, :3], green[inside][:, :3])


def test_images_are_not_changed_and_may_be_read_only_or_a_single_pixel(upscaler: Upscaler) -> None:
    pixels = photograph()
    before = pixels.copy()
    pixels.flags.writeable = False
    flipped = upscaler(pixels[:, ::-1])
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(flipped, upscaler(np.ascontiguousarray(before[:, ::-1])))
    assert upscaler(np.full((1, 1, 3), 128, np.uint8)).shape == (2, 2, 3)


def test_long_thin_pictures_are_cut(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bicubic enlargement of transparency would take memory by the square of the long side."""
    lr = torch.rand(4, 2, 10 * upscaler.tile)
    seen: list[int] = []
    in_one_pass = upscaler._in_one_pass
    monkeypatch.setattr(upscaler, "_in_one_pass", lambda planes: seen.append(planes.shape[-1]) or in_one_pass(planes))
    sr = upscaler(lr)
    assert max(seen) <= upscaler.tile
    with torch.inference_mode():
        torch.testing.assert_close(sr, in_one_pass(lr[None])[0], atol=1 / 255, rtol=0)


def test_progress_counts_tiles(upscaler: Upscaler, generator: Generator) -> None:
    for tile, total in ((upscaler.tile, 1), (2 * upscaler.overlap + 20, 4 * 5)):
        seen: list[tuple[int, int]] = []
        small = Upscaler(generator, "cpu", tile=tile)
        small(photograph(70, 90), progress=lambda done, total, seen=seen: seen.append((done, total)))
        assert seen == [(done, total) for done in range(1, total + 1)]


def limit(upscaler: Upscaler, pixels: int, error: Exception) -> list[int]:
    """Let the network fail for more than `pixels`; the sizes of all that it gets."""
    sizes: list[int] = []

    def check(_: nn.Module, inputs: tuple[Tensor]) -> None:
        sizes.append(inputs[0].shape[-2] * inputs[0].shape[-1])
        if sizes[-1] > pixels:
            raise error

    upscaler.generator.register_forward_pre_hook(check)
    return sizes


@pytest.mark.parametrize(
    "text", ["CUDA out of memory.", "[enforce fail] DefaultCPUAllocator: can't allocate memory:", ""]
)
def test_out_of_memory_halves_the_tile_and_goes_on(upscaler: Upscaler, generator: Generator, text: str) -> None:
    error, tile = (RuntimeError(text), 384) if text else (MemoryError(), 100)
    pixels = data.astronaut()[:150, :170]
    limited = Upscaler(generator, "cpu", tile=tile)
    sizes = limit(limited, 60**2, error)
    assert near(limited(pixels), upscaler(pixels))
    assert 2 * limited.overlap < limited.tile <= 60
    failed = [index for index, size in enumerate(sizes) if size > 60**2]
    assert failed == list(range(len(failed))) and 0 < len(failed) <= 3, "tried once for each size, then never again"


def test_too_little_memory_for_any_tile_is_said_and_other_errors_are_not_taken_for_it(generator: Generator) -> None:
    for error, kind, message in (
        (MemoryError(), UserError, r"not enough memory on cpu for .* pixels; close other programs"),
        (RuntimeError("wrong size"), RuntimeError, "wrong size"),
    ):
        limited = Upscaler(generator, "cpu")
        limit(limited, 10, error)
        with pytest.raises(kind, match=message):
            limited(photograph())


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda upscaler, _: upscaler(np.zeros((4, 4, 5), np.uint8)), "4×4 pixels with 5 channels; expected 1 to 4"),
        (lambda upscaler, _: upscaler(np.zeros((0, 4, 3), np.uint8)), "4×0 pixels"),
        (lambda upscaler, _: upscaler(np.zeros((4, 4, 3), np.int64)), "type torch.int64; expected uint8"),
        (lambda upscaler, _: upscaler(np.zeros(4, np.uint8)), r"an array of shape \(4,\)"),
        (lambda upscaler, _: upscaler(torch.zeros(4, 4)), r"a tensor of shape \(4, 4\)"),
        (lambda upscaler, _: upscaler("photo.jpg"), "a str; expected a Pillow image"),
        (lambda upscaler, _: upscaler(Image.new("F", (3, 3))), "mode F"),
        (lambda _, generator: Upscaler(generator, "quantum"), "device=quantum: expected auto, cpu, cuda"),
        (lambda _, generator: Upscaler(generator, "meta"), r"device=meta can't be used \(.+\); use device=cpu"),
        (lambda _, generator: Upscaler(generator, "cpu", "int8"), "precision 'int8': expected auto, fp32, bf16, fp16"),
        (lambda _, generator: Upscaler(generator, "cpu", tile=8), r"8 pixels are too small .*; take more than \d+"),
        (
            lambda upscaler, _: upscaler(torch.zeros(1, 1, 1).expand(3, 10**7, 10**7)),
            "no room for 20000000×20000000 pix",
        ),
        (lambda *_: srgan.load_generator("srresnet_x99"), "no weights 'srresnet_x99': expected a file, or one of "),
    ],
)
def test_mistakes_are_refused(upscaler: Upscaler, generator: Generator, ask: Callable[..., Any], message: str) -> None:
    with pytest.raises(MemoryError if "no room" in message else UserError, match=message):
        ask(upscaler, generator)


FRUGAL = """
import sys, numpy, srgan
assert "torch" not in sys.modules and not hasattr(srgan, "nothing")
srgan.load_generator("srresnet_x2")(numpy.zeros((4, 4, 3), "uint8"))
import srgan.upscale, srgan.serve, srgan.export
print(*{name.split(".")[0] for name in sys.modules})
"""
LIMITED = """
import numpy, torch
from srgan import machine
from srgan.inference.upscaler import Upscaler
from srgan.models.generators import Compact
torch.set_num_threads(2)
pixels = numpy.zeros((600, 900, 3), "uint8")
for tile in (128, 1000):
    upscaler = Upscaler(Compact(4, channels=4, blocks=1), "cpu", "fp32", tile)
    upscaler(pixels[:128, :128])
    machine.reset_peak(upscaler.device)
    before = machine.peak_mib(upscaler.device)
    result = upscaler(pixels)
    print(machine.peak_mib(upscaler.device) - before - result.nbytes / 2**20)
"""


def printed_by(script: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_imports_no_torch_and_upscaling_no_training_framework() -> None:
    loaded = set(printed_by(FRUGAL))
    assert "torch" in loaded
    assert not loaded & {"hydra", "omegaconf", "lightning", "pytorch_lightning", "wandb", "torchmetrics", "torchvision"}
    assert not loaded & {"gradio", "onnx", "spandrel", "huggingface_hub"}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory by Linux's /proc")
def test_memory_is_bounded_by_the_tile_and_the_output() -> None:
    in_tiles, at_once = map(float, printed_by(LIMITED))
    assert in_tiles < 60 < 240 < at_once, "MiB beside the enlarged picture"


@pytest.mark.gpu
def test_a_gpu_gives_the_cpus_result(trained: Trained) -> None:
    generator, pixels = trained(SRResNet, 4, gain=0.4), data.astronaut()[:300, :300]
    on_gpu = Upscaler(generator, "cuda", tile=128)
    assert on_gpu.precision == "fp16"
    assert near(on_gpu(pixels), Upscaler(generator, "cpu")(pixels), 2)
    assert near(Upscaler(generator, "cuda", "fp32")(pixels), Upscaler(generator, "cpu")(pixels))
