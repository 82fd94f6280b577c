import subprocess
import sys
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
from srgan.errors import UserError
from srgan.images import to_uint8
from srgan.imresize import imresize
from srgan.inference.upscaler import FILL, Upscaler
from srgan.models import checkpoints
from srgan.models.generators import Compact, Generator, SRResNet

NODE = {"_target_": "srgan.models.generators.Compact", "scale": 2, "channels": 8, "blocks": 1}


def trained(kind: type[Generator] = Compact, scale: int = 2) -> Generator:
    """Whose SR is an image, near the LR's, by weights that are all other than those it began with."""
    torch.manual_seed(scale)
    generator = kind(scale, channels=8, blocks=1)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.06)
    return generator.eval()


@pytest.fixture
def upscaler() -> Upscaler:
    return Upscaler(trained(), "cpu")


def photograph(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    return np.ascontiguousarray(data.astronaut()[100 : 100 + height, 180 : 180 + width])


def reference(generator: Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with torch.inference_mode():
        sr = generator(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    return to_uint8(sr)[0].permute(1, 2, 0).numpy()


def near(found: NDArray[Any], expected: NDArray[Any], levels: float = 1) -> bool:
    return found.shape == expected.shape and float(np.abs(found.astype(float) - expected).max()) <= levels


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_result_is_the_generators(kind: type[Generator], scale: int) -> None:
    generator = trained(kind, scale)
    found = Upscaler(generator, "cpu", "fp32")(photograph())
    expected = reference(generator, photograph())
    assert expected.std() > 4
    assert found.dtype == np.uint8 and near(found, expected)


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("size", [(83, 97), (9, 330), (64, 64)])
def test_tiles_give_the_whole_within_one_grey_level(kind: type[Generator], size: tuple[int, int]) -> None:
    generator = trained(kind, 4)
    side = 2 * (generator.receptive_field + FILL) + 23
    pixels = data.astronaut()[: size[0], : size[1]]
    tiled, whole = Upscaler(generator, "cpu", tile=side)(pixels), Upscaler(generator, "cpu")(pixels)
    assert size[0] * size[1] > side**2
    assert near(tiled, whole) and whole.std() > 4


def test_with_transparency_tiles_give_the_whole(upscaler: Upscaler) -> None:
    rgba = np.dstack([data.astronaut()[:90, :80], data.camera()[:90, :80]])
    rgba[20:50, 10:60, 3] = 0
    tiled = Upscaler(trained(), "cpu", tile=2 * upscaler.overlap + 23)(rgba)
    assert near(tiled, upscaler(rgba))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_pillow_image_keeps_its_mode_and_profile(upscaler: Upscaler, mode: str) -> None:
    image = Image.fromarray(photograph()).convert(mode)
    profile = image.info["icc_profile"] = bytes(16) + (b"GRAY" if mode.startswith("L") else b"RGB ")
    found = upscaler(image)
    assert (found.mode, found.size) == (mode, (112, 80))
    assert found.info["icc_profile"] == profile


def test_arrays_of_all_types_agree(upscaler: Upscaler) -> None:
    eight = upscaler(photograph())
    sixteen = upscaler(photograph().astype(np.uint16) * 257)
    real = upscaler(photograph().astype(np.float64) / 255)
    assert (sixteen.dtype, real.dtype) == (np.uint16, np.float64)
    assert near(sixteen / 257, eight, 0.51) and near(real * 255, eight, 0.51)
    assert len(np.unique(sixteen)) > 256, "16 bits must not be 8 bits stretched"
    assert real.min() >= 0 and real.max() <= 1


def test_grey_stays_grey_in_every_form(upscaler: Upscaler) -> None:
    grey = data.camera()[200:240, 200:256]
    found = upscaler(grey)
    assert found.shape == (80, 112)
    np.testing.assert_array_equal(upscaler(grey[..., None])[..., 0], found)
    np.testing.assert_array_equal(np.asarray(upscaler(Image.fromarray(grey))), found)
    np.testing.assert_array_equal(upscaler(torch.from_numpy(grey.copy())[None])[0].numpy(), found)
    with torch.inference_mode():
        colours = trained()(torch.from_numpy(grey.copy()).expand(1, 3, -1, -1) / 255)
    assert near(found, to_uint8(colours.mean(1))[0].numpy())
    deep = upscaler(Image.fromarray(grey.astype(np.uint16) * 257))
    assert deep.mode == "I;16" and near(np.asarray(deep) / 257, found, 0.51)


def test_tensors_keep_shape_type_and_range(upscaler: Upscaler) -> None:
    lr = torch.from_numpy(photograph()).permute(2, 0, 1) / 255
    found = upscaler(lr)
    assert (found.shape, found.dtype) == ((3, 80, 112), torch.float32)
    assert found.min() >= 0 and found.max() <= 1
    batch = upscaler(torch.stack([lr, lr.flip(-1)]).half())
    assert (batch.shape, batch.dtype) == ((2, 3, 80, 112), torch.float16)
    torch.testing.assert_close(batch[0].float(), found, atol=2e-3, rtol=0)


def test_alpha_is_enlarged_by_bicubic_and_opaque_colours_are_those_without_it(upscaler: Upscaler) -> None:
    rgb = photograph()
    opaque = upscaler(np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]))
    np.testing.assert_array_equal(opaque[..., :3], upscaler(rgb))
    assert (opaque[..., 3] == 255).all()
    alpha = data.camera()[:40, :56]
    found = upscaler(np.dstack([rgb, alpha]))[..., 3]
    assert near(found, imresize(torch.from_numpy(alpha.copy()), 2).numpy())


def test_hidden_colours_do_not_bleed_into_what_is_seen(upscaler: Upscaler) -> None:
    seen = np.zeros((40, 40), bool)
    seen[10:30, 10:30] = True
    alpha = np.where(seen, 255, 0).astype(np.uint8)
    results = []
    for hidden in ((0, 0, 0), (0, 255, 0)):
        pixels = np.where(seen[..., None], (200, 100, 50), hidden).astype(np.uint8)
        results.append(upscaler(np.dstack([pixels, alpha])))
    inside = results[0][..., 3] > 0
    assert inside.sum() >= 40 * 40
    assert near(results[0][inside][:, :3], results[1][inside][:, :3])


def test_images_are_not_changed_and_may_be_read_only(upscaler: Upscaler) -> None:
    pixels = photograph()
    before = pixels.copy()
    pixels.flags.writeable = False
    flipped = upscaler(pixels[:, ::-1])
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(flipped, upscaler(np.ascontiguousarray(before[:, ::-1])))


def test_the_smallest_picture_works(upscaler: Upscaler) -> None:
    assert upscaler(np.full((1, 1, 3), 128, np.uint8)).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 5), np.uint8), "4×4 pixels with 5 channels; expected 1 to 4"),
        (np.zeros((0, 4, 3), np.uint8), "4×0 pixels"),
        (np.zeros((4, 4, 3), np.int64), "pixels of type torch.int64; expected uint8"),
        (np.zeros(4, np.uint8), r"an array of shape \(4,\)"),
        (torch.zeros(4, 4), r"a tensor of shape \(4, 4\)"),
        ("photo.jpg", "a str; expected a Pillow image"),
        (Image.new("F", (3, 3)), "mode F"),
    ],
)
def test_what_is_no_picture_is_refused(upscaler: Upscaler, image: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        upscaler(image)


def test_long_thin_pictures_are_cut(upscaler: Upscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bicubic enlargement of transparency would take memory by the square of the long side."""
    lr = torch.rand(4, 2, 10 * upscaler.tile)
    seen: list[int] = []
    at_once = upscaler._at_once
    monkeypatch.setattr(upscaler, "_at_once", lambda planes: seen.append(planes.shape[-1]) or at_once(planes))
    sr = upscaler(lr)
    assert max(seen) <= upscaler.tile
    with torch.inference_mode():
        torch.testing.assert_close(sr, at_once(lr[None])[0], atol=1 / 255, rtol=0)


def test_no_room_for_the_result_is_a_memory_error(upscaler: Upscaler) -> None:
    with pytest.raises(MemoryError, match="no room for 40000000×40000000 pixels"):
        upscaler(torch.zeros(1, 1, 1).expand(3, 40_000_000 // upscaler.scale, 40_000_000 // upscaler.scale))


def test_progress_counts_tiles(upscaler: Upscaler) -> None:
    seen: list[tuple[int, int]] = []
    upscaler(photograph(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]
    seen.clear()
    small = Upscaler(trained(), "cpu", tile=2 * upscaler.overlap + 20)
    small(photograph(70, 90), progress=lambda done, total: seen.append((done, total)))
    total = -(-70 // 20) * -(-90 // 20)
    assert seen == [(done, total) for done in range(1, total + 1)]


class Limited(nn.Module):
    """Runs out of memory for more than `pixels`."""

    def __init__(self, generator: nn.Module, pixels: int, error: Exception) -> None:
        super().__init__()
        self.generator, self.pixels, self.error = generator, pixels, error
        self.sizes: list[int] = []

    def forward(self, lr: Tensor) -> Tensor:
        self.sizes.append(lr.shape[-2] * lr.shape[-1])
        if self.sizes[-1] > self.pixels:
            raise self.error
        return self.generator(lr)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("tile", [384, 100])
def test_out_of_memory_halves_the_tile_and_goes_on(upscaler: Upscaler, error: Exception, tile: int) -> None:
    pixels = data.astronaut()[:150, :170]
    limited = Upscaler(trained(), "cpu", tile=tile)
    limited.generator = Limited(limited.generator, 60**2, error)  # type: ignore[assignment]
    assert near(limited(pixels), upscaler(pixels))
    assert 2 * limited.overlap < limited.tile <= 60
    sizes = limited.generator.sizes
    failed = [index for index, size in enumerate(sizes) if size > 60**2]
    assert failed == list(range(len(failed))) and len(failed) <= 3, "tried once for each size, then never again"


def test_too_little_memory_for_any_tile_is_said() -> None:
    limited = Upscaler(trained(), "cpu")
    limited.generator = Limited(limited.generator, 10, MemoryError())  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"not enough memory on cpu for .* pixels; close other programs"):
        limited(photograph())


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    limited = Upscaler(trained(), "cpu")
    limited.generator = Limited(limited.generator, 0, RuntimeError("wrong size"))  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="wrong size"):
        limited(photograph())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "quantum"}, "device 'quantum': expected auto, cpu, cuda"),
        ({"device": "meta"}, "device meta can't be used (.+); use cpu"),
        ({"device": "xla"}, "device xla can't be used (.+); use cpu"),
        ({"precision": "int8"}, "precision 'int8': expected auto, fp32, bf16, fp16"),
        ({"tile": 8}, r"tiles of 8 pixels are too small for this network; take more than \d+"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Upscaler(trained(), **{"device": "cpu"} | options)


def test_without_a_gpu_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds no CUDA device; use cpu"):
        Upscaler(trained(), "cuda")


def test_bf16_is_near_fp32() -> None:
    exact, coarse = (Upscaler(trained(), "cpu", precision) for precision in ("fp32", "bf16"))
    assert near(coarse(photograph()), exact(photograph()), 4)


def test_two_lines_from_a_file(tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "mine.safetensors", trained(), NODE)
    upscale = srgan.load_generator(tmp_path / "mine.safetensors")
    assert (upscale.name, upscale.scale) == ("mine", 2)
    assert near(upscale(photograph()), reference(trained(), photograph()))


def test_unknown_weights_are_refused_with_those_there_are() -> None:
    with pytest.raises(UserError, match="no weights 'srresnet_x99': expected a file, or one of "):
        srgan.load_generator("srresnet_x99")


def test_loading_imports_no_training_framework(tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "mine.safetensors", trained(), NODE)
    program = (
        "import sys, numpy; from srgan import load_generator;"
        f"load_generator({str(tmp_path / 'mine.safetensors')!r})(numpy.zeros((4, 4, 3), 'uint8'));"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"hydra", "omegaconf", "lightning", "pytorch_lightning", "wandb", "torchmetrics", "torchvision"}


def test_importing_the_package_alone_imports_no_torch() -> None:
    program = "import sys, srgan; print('torch' in sys.modules, srgan.__version__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = srgan.nothing


LIMITED = """
import sys
import numpy as np, torch
from srgan import machine
from srgan.models.generators import Compact
from srgan.inference.upscaler import Upscaler

torch.set_num_threads(2)
upscaler = Upscaler(Compact(4, channels=4, blocks=1), "cpu", tile=256)
pixels = np.zeros((int(sys.argv[1]), int(sys.argv[2]), 3), np.uint8)
upscaler(pixels[:300, :300])
cpu = torch.device("cpu")
machine.reset_peak(cpu)
before = machine.peak_mib(cpu)
result = upscaler(pixels)
print(machine.peak_mib(cpu) - before, result.nbytes / 2**20, *result.shape)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory by Linux's /proc")
def test_memory_is_bounded_by_the_tile_and_the_output() -> None:
    arguments = [sys.executable, "-c", LIMITED, "1000", "1500"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    used, output, *shape = (float(number) for number in done.stdout.split())
    assert shape == [4000, 6000, 3]
    assert used < output + 300, "MiB: the enlarged picture and one tile; 1,200 with the picture as a single tile"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_cpus_result() -> None:
    generator, pixels = trained(SRResNet, 4), data.astronaut()[:300, :300]
    on_gpu = Upscaler(generator, "cuda", tile=128)
    assert on_gpu.precision == "fp16"
    assert near(on_gpu(pixels), Upscaler(generator, "cpu")(pixels), 2)
    assert near(Upscaler(generator, "cuda", "fp32")(pixels), Upscaler(generator, "cpu")(pixels))
