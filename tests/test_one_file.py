"""examples/srgan_in_one_file.py does what the library does: same weights and batch, same losses and gradients."""

import ast
import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import nn

from srgan.data.datamodule import Pair
from srgan.data.sources import PHOTOS_TEST, PHOTOS_TRAIN
from srgan.imresize import imresize
from srgan.losses.adversarial import NonSaturating
from srgan.losses.mix import LossMix
from srgan.losses.perceptual import VGGLoss
from srgan.losses.pixel import MSELoss
from srgan.metrics.protocol import MATLAB
from srgan.metrics.psnr import psnr
from srgan.models.discriminators import SRGANDiscriminator
from srgan.models.generators import SRResNet
from srgan.training.step import Step

FILE = Path(__file__).parents[1] / "examples" / "srgan_in_one_file.py"


@pytest.fixture(scope="module")
def one_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("srgan_in_one_file", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of VGG19's first four convolutions under torchvision's names."""
    torch.manual_seed(3)
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128)}
    state = {f"features.{index}.weight": 0.05 * torch.randn(*shape, 3, 3) for index, shape in shapes.items()}
    state |= {f"features.{index}.bias": 0.1 * torch.randn(shape[0]) for index, shape in shapes.items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    return path


def test_it_is_short_and_needs_torch_and_pillow_alone() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        names |= {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {str(node.module).split(".")[0]} if isinstance(node, ast.ImportFrom) else set()
    assert names - set(sys.stdlib_module_names) == {"torch", "PIL"}


def test_data_and_measure_are_the_librarys(one_file: ModuleType) -> None:
    assert one_file.TRAIN == PHOTOS_TRAIN and one_file.TEST == PHOTOS_TEST
    torch.manual_seed(0)
    hr = torch.randint(256, (3, 44, 60), dtype=torch.uint8)
    lr = one_file.imresize(hr, 1 / 4)
    assert torch.equal(lr, imresize(hr, 1 / 4))
    sr = one_file.imresize(lr, 4)
    assert torch.equal(sr, imresize(lr, 4))
    expected = float(psnr(MATLAB.prepare(sr[None], 4), MATLAB.prepare(hr[None], 4)))
    assert one_file.psnr(sr, hr) == pytest.approx(expected, abs=1e-9)
    lr_batch, hr_batch = next(one_file.batches([hr], 32, 2))
    assert torch.equal((lr_batch * 255).round().byte(), imresize((hr_batch * 255).round().byte(), 1 / 4))


@pytest.mark.parametrize("phase", ["content", "gan", "gan vgg"])
def test_a_step_has_the_librarys_losses_and_gradients(one_file: ModuleType, vgg_file: Path, phase: str) -> None:
    torch.manual_seed(0)
    generator = SRResNet(4, channels=4, blocks=2)
    discriminator = SRGANDiscriminator(32, channels=2, hidden=8)
    g = one_file.SRResNet(4, 2)
    d = one_file.SRGANDiscriminator(32, 2, 8)
    g.load_state_dict(generator.state_dict())
    d.load_state_dict(discriminator.state_dict())
    vgg = one_file.VGGLoss(str(vgg_file)) if phase == "gan vgg" else None
    adversarial_loss = NonSaturating(r1=0.0, real_label=1.0)
    mse, adversarial = LossMix({"mse": MSELoss()}, {"mse": 4.0}), {"adversarial": 1e-3}
    mix = {
        "content": mse,
        "gan": LossMix({"mse": MSELoss()}, {"mse": 4.0} | adversarial, adversarial_loss),
        "gan vgg": LossMix(
            {"vgg22": VGGLoss({"conv2_2": 1.0}, weights=str(vgg_file))},
            {"vgg22": 1.0} | adversarial,
            adversarial_loss,
        ),
    }[phase]
    step = Step(
        generator=generator,
        loss=mix,
        optimizer=torch.optim.SGD(generator.parameters(), lr=0.1),
        discriminator=discriminator,
        discriminator_optimizer=torch.optim.SGD(discriminator.parameters(), lr=0.1),
    )
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(g.eval()(lr), generator.eval()(lr), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d.eval()(hr), discriminator.eval()(hr), rtol=1e-5, atol=1e-5)
    for network in (g, d, generator, discriminator):
        network.train()
    g_optimizer, d_optimizer = (torch.optim.SGD(network.parameters(), lr=0.1) for network in (g, d))
    expected = step(Pair(lr, hr), 0, logging=True)
    loss = one_file.train_step(lr, hr, g, g_optimizer, vgg, *((d, d_optimizer) if phase != "content" else ()))
    assert loss == pytest.approx(float(expected["train/loss"]), rel=1e-5)
    pairs: list[tuple[nn.Module, nn.Module]] = [(g, generator), (d, discriminator)]
    for mine, theirs in pairs[: 1 if phase == "content" else 2]:
        for (name, ours), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5, msg=name)  # after the step
            if mine is g:  # a discriminator's gradients also hold what the generator's update left there
                torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_it_runs_and_prints_bicubic_beside_its_result(
    vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--steps", "2", "2", "--channels", "2", "--blocks", "1", "--crop", "16", "--batch-size", "2"]
    monkeypatch.setattr(sys, "argv", [str(FILE), *options, "--vgg", str(vgg_file), "--output", str(tmp_path / "a.png")])
    runpy.run_path(str(FILE), run_name="__main__")
    bicubic, content, gan = capsys.readouterr().out.splitlines()
    assert bicubic == "bicubic  29.15 dB"  # the library's figure for these two photographs
    assert content.startswith("SRResNet") and gan.startswith("SRGAN")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (5 * 256, 2 * 256)
