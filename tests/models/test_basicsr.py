"""MSRResNet, RRDBNet and BasicSR's files of them: second implementations, and spandrel's reading of the same file."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan import export, upscale
from srgan.data.degradation import BicubicDegradation
from srgan.errors import UserError
from srgan.evaluation.benchmarks import FolderBenchmark
from srgan.evaluation.methods import Network, methods
from srgan.models import basicsr, checkpoints
from srgan.models.generators import Compact, Generator, KerasSRResNet, MSRResNet, RRDBNet


def trained(generator: Generator) -> Generator:
    """The generator with random weights as large as those of a trained one."""
    torch.manual_seed(0)
    for name, value in generator.named_parameters():
        nn.init.xavier_normal_(value) if name.endswith("weight") else nn.init.normal_(value, std=0.1)
    return generator.eval()


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def conv(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)


def plain_msrresnet(state: dict[str, Tensor], lr: Tensor, factors: tuple[int, ...]) -> Tensor:
    """MSRResNet by BasicSR's names, without modules."""

    def lrelu(x: Tensor) -> Tensor:
        return torch.maximum(x, 0.1 * x)

    x = lrelu(conv(state, "conv_first", lr))
    for block in sorted({key.split(".")[1] for key in state if key.startswith("body.")}, key=int):
        x = x + conv(state, f"body.{block}.conv2", conv(state, f"body.{block}.conv1", x).clamp(min=0))
    for stage, factor in enumerate(factors, start=1):
        y = conv(state, f"upconv{stage}", x).unflatten(1, (-1, factor, factor))  # (B, C, r, r, h, w)
        x = lrelu(y.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3))
    x = conv(state, "conv_last", lrelu(conv(state, "conv_hr", x)))
    size = [side * x.shape[-1] // lr.shape[-1] for side in lr.shape[-2:]]
    return x + F.interpolate(lr, size=size, mode="bilinear", align_corners=False)


@torch.inference_mode()
@pytest.mark.parametrize(("scale", "factors"), [(2, (2,)), (3, (3,)), (4, (2, 2))])
def test_msrresnet_files_give_the_sr_of_a_second_implementation(
    scale: int, factors: tuple[int, ...], tmp_path: Path
) -> None:
    state = trained(MSRResNet(scale, channels=5, blocks=2)).state_dict()
    names = {"conv_first", *(f"body.{block}.conv{layer}" for block in (0, 1) for layer in (1, 2)), "conv_hr"}
    names |= {"conv_last", *(f"upconv{stage}" for stage in range(1, len(factors) + 1))}
    assert state.keys() == {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
    torch.save({"params": state}, tmp_path / "net.pth")
    generator, lr = checkpoints.load(tmp_path / "net.pth"), random_images(2, 3, 7, 9)
    assert isinstance(generator, MSRResNet) and generator.scale == scale and not generator.training
    torch.testing.assert_close(generator(lr), plain_msrresnet(state, lr, factors), atol=1e-5, rtol=1e-5)


def test_the_networks_have_the_weights_that_basicsr_counts() -> None:
    def conv_weights(inputs: int, outputs: int) -> int:
        return 9 * inputs * outputs + outputs

    dense = sum(conv_weights(64 + 32 * layer, 32) for layer in range(4)) + conv_weights(64 + 4 * 32, 64)
    ends = conv_weights(3, 64) + conv_weights(64, 64) + conv_weights(64, 3)
    msrresnet = ends + 16 * 2 * conv_weights(64, 64) + 2 * conv_weights(64, 256)
    rrdb = ends + 23 * 3 * dense + 3 * conv_weights(64, 64)
    with torch.device("meta"):
        counted = [sum(p.numel() for p in net.parameters()) for net in (MSRResNet(4, 64, 16), RRDBNet(4, 64, 23, 32))]
    assert counted == [msrresnet, rrdb] == [1_517_571, 16_697_987]


def old_name(name: str, stages: int) -> str:
    """The name in ESRGAN's first release of what BasicSR calls `name`."""
    layers = {"conv_first": 0, "conv_hr": 3 * stages + 2, "conv_last": 3 * stages + 4}
    layers |= {f"conv_up{number}": 3 * number for number in range(1, stages + 1)}
    head, _, kind = name.rpartition(".")
    if head == "conv_body":
        return f"model.1.sub.2.{kind}"
    if head in layers:
        return f"model.{layers[head]}.{kind}"
    _, block, dense, layer = head.split(".")
    return f"model.1.sub.{block}.{dense.upper()}.{layer}.0.{kind}"


def new_name(name: str) -> str:
    """The name in ESRGAN's second release of what BasicSR calls `name`."""
    name = re.sub(r"body\.(\d)\.rdb(\d)", r"RRDB_trunk.\1.RDB\2", name)
    return name.replace("conv_body", "trunk_conv").replace("conv_up", "upconv").replace("conv_hr", "HRconv")


@torch.inference_mode()
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_rrdb_files_give_the_sr_that_spandrel_makes_of_them(scale: int, tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel")
    generator = trained(RRDBNet(scale, channels=8, blocks=2, growth=32))  # spandrel knows no other growth
    state, stages = generator.state_dict(), 3 if scale == 8 else 2
    files: dict[str, Any] = {
        "params.pth": {"params": state},
        "ema.pth": {"params": {name: -value for name, value in state.items()}, "params_ema": state},
        "plain.pth": state,
        "old.pth": {old_name(name, stages): value for name, value in state.items()},
        "new.pth": {new_name(name): value for name, value in state.items()},
    }
    lr = random_images(1, 3, 7, 9)  # odd: mirrored at the edges for ×1 and ×2
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        ours, theirs = checkpoints.load(tmp_path / name), spandrel.ModelLoader().load_from_file(tmp_path / name)
        assert isinstance(ours, RRDBNet) and ours.scale == theirs.scale == scale
        sr = ours(lr)
        assert torch.equal(sr, generator(lr)) and sr.shape == (1, 3, 7 * scale, 9 * scale) and sr.std() > 0.01
        torch.testing.assert_close(sr, theirs.model(lr), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_spandrels_network_is_read_by_us(tmp_path: Path) -> None:
    architecture: Any = pytest.importorskip("spandrel.architectures.ESRGAN")
    torch.manual_seed(0)
    theirs = architecture.ESRGAN(num_filters=8, num_blocks=2).eval()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    lr = random_images(2, 3, 5, 6)
    torch.testing.assert_close(checkpoints.load(tmp_path / "net.pth")(lr), theirs(lr), atol=1e-5, rtol=1e-5)


def test_every_command_takes_a_file_of_basicsr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: Any, noise: Any
) -> None:
    """Upscaled, evaluated, a start for training, exported as safetensors and back; without spandrel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "spandrel", None)
    generator = trained(MSRResNet(2, channels=4, blocks=1))
    torch.save({"params": generator.state_dict()}, "net.pth")
    Path("hr").mkdir()
    Path("hr/a.png").write_bytes(encoded(noise(3, 48, 40).permute(1, 2, 0).numpy(), "PNG"))

    upscale.main(["hr/a.png", "-o", "sr.png", "--weights", "net.pth"])
    assert Path("sr.png").is_file()

    method = methods(["net.pth"], FolderBenchmark("hr", BicubicDegradation(2), None, None), torch.device("cpu"))[
        "net.pth"
    ]
    assert isinstance(method, Network) and type(method.generator) is MSRResNet

    other = MSRResNet(2, 4, 1)
    checkpoints.initial_state("net.pth", other)
    state = generator.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    with pytest.raises(UserError, match=r"net\.pth does not fit"):
        checkpoints.initial_state("net.pth", MSRResNet(2, 5, 1))

    export.main(["net.pth", "--format", "safetensors", "-o", "net.safetensors"])
    description = checkpoints.describe(Path("net.safetensors"))
    assert description["about"]["architecture"] == "MSRResNet, 4 channels, 1 blocks"
    export.main(["net.safetensors", "--format", "basicsr", "-o", "again.pth"])
    again = torch.load("again.pth", weights_only=True)
    assert again.keys() == {"params"} and again["params"].keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in again["params"].items())


@pytest.mark.parametrize("generator", [Compact(2, 4, 1), KerasSRResNet(2, 4, 1), MSRResNet(8, 4, 1)])
def test_what_basicsr_does_not_have_is_not_written_for_it(generator: Generator, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"BasicSR has no {type(generator).__name__} ×{generator.scale}, only MSRR"):
        basicsr.save(tmp_path / "net.pth", generator)


def test_other_files_are_refused_in_one_line_and_run_nothing(tmp_path: Path, trap: object) -> None:
    path, state = tmp_path / "net.pth", trained(RRDBNet(4, 4, 1, 2)).state_dict()
    grey = state | {"conv_first.weight": state["conv_first.weight"][:, :1]}
    doubled = {old_name(name, 2): value for name, value in state.items()}  # ×2 without pixel unshuffle
    doubled = {f"model.{int(k[6]) - 3}{k[7:]}" if k[6] in "68" else k: v for k, v in doubled.items() if k[6] != "3"}
    missing = {name: value for name, value in state.items() if name != "body.0.rdb2.conv3.bias"}
    others: list[Any] = [{}, [1], {"params": [1]}, {"params": {"x": 3}}, nn.Linear(2, 3).state_dict(), grey, doubled]
    others += [missing, state | {"more": torch.zeros(1)}, {"conv_first.weight": torch.zeros(0)}]
    for content in others:
        torch.save(content, path)
        with pytest.raises(UserError, match=r"net\.pth: not the weights of BasicSR's MSRResNet or RRDBNet"):
            checkpoints.load(path)
        assert not basicsr.is_readable(path)
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write({"params": state, "code": trap}, path)
        with pytest.raises(UserError, match=r"net\.pth: not weights that can be read safely"):
            checkpoints.load(path)
    state["conv_last.bias"][0] = float("nan")
    torch.save({"params": state}, path)
    with pytest.raises(UserError, match="infinite or NaN"):
        checkpoints.load(path)
