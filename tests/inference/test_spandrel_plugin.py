"""Our generators and leftthomas/SRGAN's, loaded by spandrel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from srgan.models import checkpoints
from srgan.models.generators import Compact, SRResNet

spandrel = pytest.importorskip("spandrel")

from srgan.inference import spandrel_plugin  # noqa: E402 -- needs spandrel

IDS = ("srgan.SRResNet", "srgan.Compact", "srgan.leftthomas")


@pytest.fixture(autouse=True)
def installed() -> None:
    spandrel_plugin.install()  # before each test: once too often does no harm


def check(path: Path, name: str, scale: int, expected: Callable[[Tensor], Tensor]) -> Any:
    """A file is taken for one architecture alone, and gives the expected SR at any size, in half precision, too."""
    loaded = spandrel.ModelLoader().load_from_file(path)
    assert (loaded.architecture.id, loaded.scale, loaded.purpose) == (f"srgan.{name}", scale, "SR")
    assert (loaded.input_channels, loaded.output_channels) == (3, 3)
    assert loaded.size_requirements.none and loaded.tiling is spandrel.ModelTiling.SUPPORTED
    state = loaded.model.state_dict()
    assert [each.architecture for each in spandrel.MAIN_REGISTRY if each.detect(state)] == [loaded.architecture]
    for height, width in ((1, 1), (7, 9)):
        lr = torch.rand(1, 3, height, width)
        sr = loaded(lr)
        assert sr.shape == (1, 3, scale * height, scale * width)
        torch.testing.assert_close(sr, expected(lr), atol=1e-5, rtol=0)
    for dtype in (torch.float16, torch.bfloat16):
        half = loaded.to(dtype)(lr.to(dtype))
        assert half.dtype == dtype and (half.float() - sr).abs().mean() < 0.02
    return loaded


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "scale", "channels", "blocks"), [(SRResNet, 3, 4, 2), (SRResNet, 8, 5, 1), (Compact, 4, 8, 2)]
)
def test_exported_weights_and_a_runs_averaged_ones_give_our_sr(
    kind: type[SRResNet | Compact], scale: int, channels: int, blocks: int, trained: Any, tmp_path: Path
) -> None:
    generator = trained(kind, scale, channels, blocks)
    node = {"_target_": f"srgan.models.generators.{kind.__name__}", "scale": scale}
    checkpoints.save_weights(tmp_path / "net.safetensors", generator, node)
    state = {f"generator.{name}": -value for name, value in generator.state_dict().items()}
    state |= {f"ema.{name}": value for name, value in generator.state_dict().items()}
    state["discriminator.head.0.weight"] = torch.zeros(1)
    torch.save({"state_dict": state, "config": {"scale": scale}, "epoch": 0}, tmp_path / "best.ckpt")
    for name in ("net.safetensors", "best.ckpt"):
        loaded = check(tmp_path / name, kind.__name__, scale, lambda lr: generator(lr).clamp(0, 1))
        assert type(loaded.model) is kind and loaded.tags == [f"{channels}nf", f"{blocks}nb"]


@torch.inference_mode()
@pytest.mark.parametrize("scale", [2, 3, 8])
def test_exported_weights_of_a_direct_upsampler_give_our_sr(scale: int, tmp_path: Path) -> None:
    torch.manual_seed(scale)
    generator = Compact(scale, 8, 2, upsampler="direct").eval()
    for parameter in generator.tail.parameters():
        torch.nn.init.uniform_(parameter, -0.05, 0.05)
    node = {"_target_": "srgan.models.generators.Compact", "scale": scale, "upsampler": "direct"}
    checkpoints.save_weights(tmp_path / "net.safetensors", generator, node)
    check(tmp_path / "net.safetensors", "Compact", scale, lambda lr: generator(lr).clamp(0, 1))


def leftthomas_state(scale: int, channels: int, last_normalised: bool) -> dict[str, Tensor]:
    """Random weights by the names that are in its checkpoints."""
    torch.manual_seed(scale)
    stages = range(scale.bit_length() - 1)
    shapes = {"block1.0": (channels, 3, 9), "block7.0": (channels, channels, 3)}
    shapes |= {f"block{block}.conv{place}": (channels, channels, 3) for block in range(2, 7) for place in (1, 2)}
    shapes |= {f"block8.{stage}.conv": (4 * channels, channels, 3) for stage in stages}
    shapes[f"block8.{len(stages)}"] = (3, channels, 9)
    normalisations = [f"block{block}.bn{place}" for block in range(2, 7) for place in (1, 2)]
    slopes = ["block1.1", *(f"block{block}.prelu" for block in range(2, 7))]
    slopes += [f"block8.{stage}.prelu" for stage in stages]
    (normalisations if last_normalised else slopes).append("block7.1")
    state = {f"{name}.weight": torch.rand(1) * 0.5 for name in slopes}
    for name, (outputs, inputs, side) in shapes.items():
        state[f"{name}.weight"] = torch.randn(outputs, inputs, side, side) * 0.1
        state[f"{name}.bias"] = torch.randn(outputs) * 0.1
    for name in normalisations:
        state |= {f"{name}.{value}": torch.rand(channels) + 0.5 for value in ("weight", "running_var")}
        state |= {f"{name}.{value}": torch.randn(channels) * 0.1 for value in ("bias", "running_mean")}
        state[f"{name}.num_batches_tracked"] = torch.tensor(9)
    return state


def leftthomas(state: dict[str, Tensor], x: Tensor) -> Tensor:
    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def normalise(name: str, x: Tensor) -> Tensor:
        return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    def prelu(name: str, x: Tensor) -> Tensor:
        return F.prelu(x, state[f"{name}.weight"])

    block1 = prelu("block1.1", conv("block1.0", x))
    block = block1
    for number in range(2, 7):
        residual = prelu(f"block{number}.prelu", normalise(f"block{number}.bn1", conv(f"block{number}.conv1", block)))
        block = block + normalise(f"block{number}.bn2", conv(f"block{number}.conv2", residual))
    block7 = conv("block7.0", block)
    block7 = normalise("block7.1", block7) if "block7.1.running_mean" in state else prelu("block7.1", block7)
    x = block1 + block7
    stage = 0
    while f"block8.{stage}.conv.weight" in state:
        x = prelu(f"block8.{stage}.prelu", F.pixel_shuffle(conv(f"block8.{stage}.conv", x), 2))
        stage += 1
    return (torch.tanh(conv(f"block8.{stage}", x)) + 1) / 2


@torch.inference_mode()
@pytest.mark.parametrize(
    ("scale", "last_normalised", "name"),
    [(2, True, "net.safetensors"), (4, False, "net.pth"), (8, True, "of_old_torch_and_several_gpus.pth")],
)
def test_leftthomas_checkpoints_give_their_sr(scale: int, last_normalised: bool, name: str, tmp_path: Path) -> None:
    state = leftthomas_state(scale, 8, last_normalised)
    written = state
    if name.startswith("of_old"):
        written = {f"module.{key}": value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    (torch.save if name.endswith("pth") else save_file)(written, tmp_path / name)
    check(tmp_path / name, "leftthomas", scale, lambda lr: leftthomas(state, lr))


def test_leftthomas_published_file_of_torch_0_3_gives_the_figures_of_its_sr(shared: Path) -> None:
    from srgan.data.degradation import BicubicDegradation
    from srgan.evaluation.benchmarks import FolderBenchmark
    from srgan.evaluation.methods import methods
    from srgan.evaluation.score import evaluate
    from srgan.metrics.protocol import MATLAB

    root, file = shared / "data/benchmarks/Set5", shared / "weights/leftthomas_netG_epoch_4_100.pth"
    benchmark = FolderBenchmark(str(root), BicubicDegradation(4), None, None)
    compared = methods({"leftthomas": str(file)}, benchmark, torch.device("cpu"))
    figures = evaluate(compared, benchmark, torch.device("cpu"), [MATLAB]).mean("leftthomas")["matlab"]
    assert (round(figures["psnr"], 3), round(figures["ssim"], 4)) == (30.640, 0.8631)


def test_spandrels_own_networks_and_damaged_ones_are_not_taken_for_ours() -> None:
    from spandrel.architectures.Compact import Compact as SpandrelsCompact
    from spandrel.architectures.ESRGAN import ESRGAN
    from spandrel.architectures.RCAN import RCAN
    from spandrel.architectures.SwiftSRGAN import SwiftSRGAN

    for name, network in {
        "ESRGAN": ESRGAN(num_filters=8, num_blocks=2),
        "Compact": SpandrelsCompact(num_feat=8),
        "RCAN": RCAN(scale=2, n_resgroups=1, n_resblocks=1, n_feats=16),
        "SwiftSRGAN": SwiftSRGAN(num_channels=8, num_blocks=1, upscale_factor=2),
    }.items():
        state = network.state_dict()
        assert not any(spandrel.MAIN_REGISTRY[architecture].detect(state) for architecture in IDS)
        assert spandrel.ModelLoader().load_from_state_dict(state).architecture.id == name
    for missing in ("head.1.weight", "tail.bias", "upsampling.0.0.weight"):
        state = SRResNet(2, 4, 1).state_dict()
        del state[missing]
        with pytest.raises(spandrel.UnsupportedModelError):
            spandrel.ModelLoader().load_from_state_dict(state)
