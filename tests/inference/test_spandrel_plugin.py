"""Our generators and leftthomas/SRGAN's, loaded by spandrel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.models import checkpoints
from srgan.models.generators import Compact, SRResNet

spandrel = pytest.importorskip("spandrel")

from srgan.inference import spandrel_plugin  # noqa: E402 -- needs spandrel

IDS = ("srgan.SRResNet", "srgan.Compact", "srgan.leftthomas")


@pytest.fixture(autouse=True)
def installed() -> None:
    spandrel_plugin.install()


def randomised(network: nn.Module) -> nn.Module:
    """A network without any of its first values; its normalisations are no identities."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 2)
        elif value.is_floating_point():
            nn.init.normal_(value, std=0.1) if value.ndim > 1 else nn.init.uniform_(value, 0.1, 0.5)
    return network.eval()


def load(path: Path) -> Any:
    return spandrel.ModelLoader().load_from_file(path)


# --- ours -------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "scale", "channels", "blocks"),
    [(SRResNet, 2, 8, 1), (SRResNet, 3, 4, 2), (SRResNet, 8, 5, 1), (Compact, 3, 5, 1), (Compact, 4, 8, 2)],
)
def test_exported_weights_give_our_sr(
    kind: type[SRResNet | Compact], scale: int, channels: int, blocks: int, tmp_path: Path
) -> None:
    generator = randomised(kind(scale, channels, blocks))
    node = {"_target_": f"srgan.models.generators.{kind.__name__}", "scale": scale}
    checkpoints.save_weights(tmp_path / "net.safetensors", generator, node)
    loaded = load(tmp_path / "net.safetensors")
    assert loaded.architecture.id == f"srgan.{kind.__name__}"
    assert type(loaded.model) is kind
    assert (loaded.scale, loaded.tags) == (scale, [f"{channels}nf", f"{blocks}nb"])
    for height, width in ((1, 1), (7, 9)):
        lr = torch.rand(1, 3, height, width)
        assert torch.equal(loaded(lr), generator(lr).clamp(0, 1))


@torch.inference_mode()
def test_a_runs_checkpoint_gives_its_averaged_generator(tmp_path: Path) -> None:
    averaged, other = randomised(SRResNet(2, 4, 1)), SRResNet(2, 4, 1)
    state = {f"generator.{name}": value for name, value in other.state_dict().items()}
    state |= {f"ema.{name}": value for name, value in averaged.state_dict().items()}
    content = {
        "state_dict": state | {"discriminator.head.0.weight": torch.zeros(1)},
        "config": {"scale": 2},
        "epoch": 0,
    }
    torch.save(content, tmp_path / "best.ckpt")
    lr = torch.rand(1, 3, 6, 5)
    assert torch.equal(load(tmp_path / "best.ckpt")(lr), averaged(lr).clamp(0, 1))


# --- leftthomas/SRGAN, written once more, without modules -------------------------------------------------------------


def leftthomas_state(scale: int, channels: int, last_normalised: bool) -> dict[str, Tensor]:
    """Random weights by the names that are in its checkpoints."""
    generator = torch.Generator().manual_seed(scale)
    state: dict[str, Tensor] = {}

    def conv(name: str, inputs: int, outputs: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, side, side, generator=generator) * 0.1
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1

    def normalisation(name: str) -> None:
        for value in ("weight", "running_var"):
            state[f"{name}.{value}"] = torch.rand(channels, generator=generator) + 0.5
        for value in ("bias", "running_mean"):
            state[f"{name}.{value}"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.num_batches_tracked"] = torch.tensor(9)

    def prelu(name: str) -> None:
        state[f"{name}.weight"] = torch.rand(1, generator=generator) * 0.5

    conv("block1.0", 3, channels, 9)
    prelu("block1.1")
    for block in range(2, 7):
        conv(f"block{block}.conv1", channels, channels, 3)
        normalisation(f"block{block}.bn1")
        prelu(f"block{block}.prelu")
        conv(f"block{block}.conv2", channels, channels, 3)
        normalisation(f"block{block}.bn2")
    conv("block7.0", channels, channels, 3)
    (normalisation if last_normalised else prelu)("block7.1")
    stages = scale.bit_length() - 1
    for stage in range(stages):
        conv(f"block8.{stage}.conv", channels, 4 * channels, 3)
        prelu(f"block8.{stage}.prelu")
    conv(f"block8.{stages}", channels, 3, 9)
    return state


def leftthomas(state: dict[str, Tensor], x: Tensor) -> Tensor:
    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def normalise(name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{value}"][:, None, None] for value in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def prelu(name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, state[f"{name}.weight"] * x)

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
    [(2, True, "net.safetensors"), (4, False, "net.pth"), (8, True, "net.pth")],
)
def test_leftthomas_checkpoints_give_their_sr(scale: int, last_normalised: bool, name: str, tmp_path: Path) -> None:
    state = leftthomas_state(scale, 8, last_normalised)
    torch.save(state, tmp_path / name) if name.endswith("pth") else save_file(state, tmp_path / name)
    loaded = load(tmp_path / name)
    assert (loaded.architecture.id, loaded.scale) == ("srgan.leftthomas", scale)
    for height, width in ((1, 1), (11, 8)):
        lr = torch.rand(1, 3, height, width)
        expected = leftthomas(state, lr)
        assert expected.shape == (1, 3, scale * height, scale * width)
        torch.testing.assert_close(loaded(lr), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_leftthomas_checkpoints_of_old_torch_and_of_several_gpus_are_read_too(tmp_path: Path) -> None:
    state = leftthomas_state(4, 4, last_normalised=True)
    old = {f"module.{name}": value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "net.pth")
    lr = torch.rand(1, 3, 5, 6)
    torch.testing.assert_close(load(tmp_path / "net.pth")(lr), leftthomas(state, lr), atol=1e-5, rtol=0)


# --- what the descriptors say -----------------------------------------------------------------------------------------

OURS: list[Callable[[], dict[str, Tensor]]] = [
    lambda: randomised(SRResNet(2, 8, 1)).state_dict(),
    lambda: randomised(Compact(2, 8, 1)).state_dict(),
    lambda: leftthomas_state(2, 8, last_normalised=True),
    lambda: leftthomas_state(2, 8, last_normalised=False),
]


@torch.inference_mode()
@pytest.mark.parametrize("state", OURS)
def test_any_size_tiles_and_half_precision_are_supported(state: Callable[[], dict[str, Tensor]]) -> None:
    exact = spandrel.ModelLoader().load_from_state_dict(state())
    assert exact.size_requirements.none
    assert exact.tiling is spandrel.ModelTiling.SUPPORTED
    assert (exact.purpose, exact.input_channels, exact.output_channels) == ("SR", 3, 3)
    lr = torch.rand(1, 3, 9, 7)
    for dtype in (torch.float16, torch.bfloat16):
        half = spandrel.ModelLoader().load_from_state_dict(state())
        half.to(dtype)
        sr = half(lr.to(dtype))
        assert sr.dtype == dtype
        assert (sr.float() - exact(lr)).abs().mean() < 0.02


# --- beside spandrel's own --------------------------------------------------------------------------------------------


def test_installing_twice_adds_each_once_after_spandrels_own() -> None:
    before = [support.architecture.id for support in spandrel.MAIN_REGISTRY]
    assert sorted(name for name in before if name.startswith("srgan.")) == sorted(IDS)
    spandrel_plugin.install()
    assert [support.architecture.id for support in spandrel.MAIN_REGISTRY] == before
    order = [support.architecture.id for support in spandrel.MAIN_REGISTRY.architectures("detection")]
    assert set(order[-3:]) == set(IDS)


@pytest.mark.parametrize("state", OURS)
def test_one_architecture_alone_is_detected(state: Callable[[], dict[str, Tensor]]) -> None:
    detected = [support.architecture.id for support in spandrel.MAIN_REGISTRY if support.detect(state())]
    assert len(detected) == 1 and detected[0] in IDS


def test_spandrels_own_networks_are_still_detected_as_theirs() -> None:
    from spandrel import architectures
    from spandrel.architectures.ESRGAN import ESRGAN
    from spandrel.architectures.RCAN import RCAN
    from spandrel.architectures.SwiftSRGAN import SwiftSRGAN

    for name, network in {
        "ESRGAN": ESRGAN(num_filters=8, num_blocks=2),
        "Compact": architectures.Compact.Compact(num_feat=8),
        "RCAN": RCAN(scale=2, n_resgroups=1, n_resblocks=1, n_feats=16),
        "SwiftSRGAN": SwiftSRGAN(num_channels=8, num_blocks=1, upscale_factor=2),
    }.items():
        state = network.state_dict()
        assert not any(spandrel.MAIN_REGISTRY[architecture].detect(state) for architecture in IDS)
        assert spandrel.ModelLoader().load_from_state_dict(state).architecture.id == name


@pytest.mark.parametrize("missing", ["head.1.weight", "tail.bias", "upsampling.0.0.weight"])
def test_a_state_with_some_of_the_keys_is_not_ours(missing: str) -> None:
    state = SRResNet(2, 4, 1).state_dict()
    del state[missing]
    with pytest.raises(spandrel.UnsupportedModelError):
        spandrel.ModelLoader().load_from_state_dict(state)
