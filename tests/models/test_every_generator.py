"""What holds for every option of `generator=`, at every scale: it trains, folds, is cut into tiles, and comes back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from srgan import config
from srgan.errors import UserError
from srgan.inference import formats
from srgan.inference.tiles import MAX_OVERLAP, MAX_SIDE, in_tiles
from srgan.inference.upscaler import Upscaler
from srgan.models import checkpoints
from srgan.models.folding import fold
from srgan.models.generators import Generator, RRDBNet

TINY = {"channels": 4, "blocks": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "srresnet": ("SRResNet", {}),
    "srresnet relu": ("SRResNet", {"activation": "relu"}),
    "srresnet resize": ("SRResNet", {"activation": "leaky_relu", "upsampler": "resize"}),
    "compact": ("Compact", {}),
    "compact resize": ("Compact", {"activation": "relu", "upsampler": "resize"}),
    "compact direct": ("Compact", {"upsampler": "direct"}),
    "keras": ("KerasSRResNet", {}),
    "msrresnet": ("MSRResNet", {}),
    "rrdb": ("RRDBNet", {"growth": 3}),
}
CASES = [(name, scale) for name in KINDS for scale in (1, 2, 3, 4, 8) if (name == "rrdb" or scale > 1)]
CASES.remove(("rrdb", 3))
each = pytest.mark.parametrize(("name", "scale"), CASES)


def node(name: str, scale: int, **values: Any) -> dict[str, Any]:
    """A generator's `_target_` and values."""
    kind, options = KINDS[name]
    return {"_target_": f"srgan.models.generators.{kind}", "scale": scale} | TINY | options | values


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def trained(name: str, scale: int, **values: Any) -> Generator:
    """A generator in evaluation mode in which nothing has its first value and all layers matter."""
    torch.manual_seed(scale)
    generator = instantiate(node(name, scale, **values))
    for key, value in generator.state_dict().items():
        if key.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 2)
        elif value.ndim > 1:
            nn.init.xavier_normal_(value)
        elif value.is_floating_point():
            nn.init.uniform_(value, 0.1, 0.5)
    return generator.eval()


def test_every_option_of_the_group_is_here(compose_config: Callable[..., DictConfig], tmp_path: Path) -> None:
    assert set(config.GROUPS["generator"]) <= KINDS.keys()
    for option in config.GROUPS["generator"]:
        overrides = (f"generator={option}", "generator.channels=4", "generator.blocks=1", "scale=2")
        composed = compose_config(*overrides, run_dir=tmp_path)
        target = composed.generator["_target_"]
        assert target == node(option, 2)["_target_"] and isinstance(instantiate(composed.generator), Generator)


@each
def test_two_steps_change_every_weight(name: str, scale: int) -> None:
    torch.manual_seed(3)
    generator = instantiate(node(name, scale, channels=8)).train()
    before = [parameter.detach().clone() for parameter in generator.parameters()]
    optimizer = torch.optim.Adam(generator.parameters(), 1e-3)
    lr, hr = random_images(2, 3, 8, 12), random_images(2, 3, 8 * scale, 12 * scale)
    losses: list[float] = []
    for _ in range(2):
        loss = nn.functional.l1_loss(generator(lr), hr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert all((old != new).any() for old, new in zip(before, generator.parameters(), strict=True))


@each
@torch.inference_mode()
def test_the_folded_copy_gives_the_same_sr(name: str, scale: int) -> None:
    generator, lr = trained(name, scale), random_images(2, 3, 7, 6)
    folded, sr = fold(generator), generator(lr)
    assert sr.shape == (2, 3, 7 * scale, 6 * scale) and sr.dtype == torch.float32
    torch.testing.assert_close(folded(lr), sr, atol=1e-5, rtol=1e-5)
    for attribute in ("scale", "receptive_field", "multiple"):
        assert getattr(folded, attribute) == getattr(generator, attribute)
    with torch.autocast("cpu", torch.bfloat16):
        assert folded(lr).dtype == generator(lr.bfloat16()).dtype == torch.float32


@each
def test_an_sr_pixel_depends_on_lr_as_far_as_the_receptive_field_and_no_farther(name: str, scale: int) -> None:
    generator = trained(name, scale, blocks=3).double()  # in which no long way's gradient vanishes
    for parameter in generator.parameters():  # means of all inputs: no way through the layers cancels another
        nn.init.constant_(parameter, 1 / parameter[0].numel() if parameter.ndim > 1 else 0.1)
    radius, multiple = generator.receptive_field, generator.multiple
    middle = (radius + 2 + multiple) // multiple * multiple
    lr = random_images(1, 3, 4, 2 * middle + 2 * multiple).double() / 3 + 0.6  # positive also in [−1, 1]
    lr.requires_grad_()
    reach = 0
    for column in range(middle, middle + multiple):
        sr = generator(lr)[..., scale * column : scale * (column + 1)]
        (gradient,) = torch.autograd.grad(sr.sum(), lr)
        columns = gradient.abs().amax((0, 1, 2)).nonzero().flatten().sub(column)
        reach = max(reach, -int(columns.min()), int(columns.max()))
    assert reach == radius


@each
@torch.inference_mode()
def test_tiles_give_the_sr_of_the_whole(name: str, scale: int) -> None:
    generator = trained(name, scale)
    radius = generator.receptive_field
    side = 2 * radius + 11
    lr = random_images(1, 3, 5, MAX_SIDE * side + 2)  # so thin that it is cut
    sizes: list[int] = []
    generator.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-1]))
    tiled = in_tiles(generator, lr, scale, side, radius, multiple=generator.multiple)
    assert len(sizes) > 1 and max(sizes) <= side
    torch.testing.assert_close(tiled, generator(lr), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(("scale", "blocks", "warned"), [(2, 1, False), (4, 5, True)])
def test_the_upscaler_says_when_tiles_overlap_by_less_than_a_deep_network_sees(
    scale: int, blocks: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    generator = trained("rrdb", scale, blocks=blocks)
    side = 2 * min(generator.receptive_field, MAX_OVERLAP) + 25
    lr = random_images(3, 5, MAX_SIDE * side + 2)  # so thin that it is cut
    sr = Upscaler(generator, "cpu", "fp32", tile=side)(lr)
    torch.testing.assert_close(sr, generator(lr[None])[0].clamp(0, 1), atol=1e-4, rtol=0)
    assert (generator.receptive_field > MAX_OVERLAP) == warned == ("tiles overlap by 64" in caplog.text)


@pytest.mark.parametrize("name", KINDS)
def test_exported_weights_come_back(name: str, tmp_path: Path) -> None:
    generator, lr = trained(name, 2), random_images(1, 3, 5, 6)
    checkpoints.save_weights(tmp_path / "net.safetensors", generator, node(name, 2))
    assert torch.equal(checkpoints.load(tmp_path / "net.safetensors")(lr), generator(lr))


@pytest.mark.parametrize(("name", "scale"), [("keras", 3), ("msrresnet", 2), ("rrdb", 2)])
def test_onnx_gives_the_sr_at_odd_sizes(name: str, scale: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    description = {"generator": node(name, scale, blocks=0), "about": {}}  # what differs is before and after them
    assert formats.export(trained(name, scale, blocks=0), description, "onnx", tmp_path / "net.onnx") < 0.05


@pytest.mark.parametrize("name", ["srresnet", "compact"])
def test_a_checkpoint_without_the_later_options_is_a_prelu_network_with_pixel_shuffles(name: str) -> None:
    options = {"activation": "prelu", "upsampler": "shuffle"}
    torch.manual_seed(1)
    old = instantiate(node(name, 4))
    torch.manual_seed(1)
    new = instantiate(node(name, 4) | options)
    assert old.state_dict().keys() == new.state_dict().keys()
    assert {"head.1.weight", "upsampling.1.0.weight", "upsampling.1.2.weight"} <= old.state_dict().keys()
    lr = random_images(1, 3, 6, 5)
    assert torch.equal(old.eval()(lr), new.eval()(lr))


def test_options_and_scales_that_do_not_exist_are_refused_with_those_that_do() -> None:
    for name, upsamplers in (("srresnet", "shuffle, resize"), ("compact", "shuffle, resize, direct")):
        for option, known in (("activation", "prelu, relu, leaky_relu"), ("upsampler", upsamplers)):
            with pytest.raises(UserError, match=f"no {option} 'x'; choose {known}$"):
                _build(node(name, 2) | {option: "x"})
    for name in ("keras", "msrresnet"):
        with pytest.raises(UserError, match=r"no generator for scale 5; choose scale=2, 3, 4 or 8"):
            _build(node(name, 5))
    with pytest.raises(UserError, match=r"RRDBNet doesn't enlarge by 3; choose scale=2, 4 or 8"):
        RRDBNet(3, 4, 1, 2)


def _build(values: dict[str, Any]) -> Generator:
    kind = get_object(values["_target_"])
    return kind(**{key: value for key, value in values.items() if key != "_target_"})
