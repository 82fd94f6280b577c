"""What a file with weights may hold: tensors and plain data, never something that runs."""

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.models.generators import Compact, Generator, KerasSRResNet, SRResNet

SRRESNET = {"_target_": "srgan.models.generators.SRResNet", "scale": 2, "channels": 4, "blocks": 1}
COMPACT = {"_target_": "srgan.models.generators.Compact", "scale": 3, "channels": 4, "blocks": 1}

Write = Callable[..., Path]


def trained(kind: type[Generator], config: dict[str, Any]) -> Generator:
    """A generator in which nothing has its first value."""
    torch.manual_seed(0)
    generator = kind(**{key: value for key, value in config.items() if key != "_target_"})
    for value in generator.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.1, 0.9)
    return generator.eval()


@pytest.fixture(params=["net.ckpt", "net.safetensors"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """write(config, state): a checkpoint, and again exported weights, that describe their generator by `config`."""
    path = tmp_path / request.param

    def do(config: Any, state: dict[str, Tensor] | None = None) -> Path:
        state = trained(SRResNet, SRRESNET).state_dict() if state is None else state
        if path.suffix == ".ckpt":
            averaged = {f"ema.{name}": value for name, value in state.items()}
            others = {f"generator.{name}": -value for name, value in state.items()} | {"losses": {"calls": 3}}
            torch.save({"state_dict": averaged | others, "config": {"generator": config}}, path)
        else:
            save_file(state, path, metadata={"srgan": json.dumps({"generator": config})})
        return path

    return do


@pytest.mark.parametrize(("kind", "config"), [(SRResNet, SRRESNET), (Compact, COMPACT)])
def test_exported_weights_give_the_same_generator(
    kind: type[Generator], config: dict[str, Any], tmp_path: Path
) -> None:
    generator, lr = trained(kind, config), torch.rand(2, 3, 7, 9)
    path = tmp_path / "weights.safetensors"
    checkpoints.save_weights(path, generator, config, {"psnr": 31.5})
    assert checkpoints.is_exported(path)
    assert checkpoints.describe(path) == {"generator": config, "about": {"psnr": 31.5}}
    loaded = checkpoints.load(path)
    assert type(loaded) is kind and not loaded.training
    assert torch.equal(loaded(lr), generator(lr))
    checkpoints.save_weights(path, generator.to(memory_format=torch.channels_last), config)  # as laid out for a GPU
    torch.testing.assert_close(checkpoints.load(path)(lr), generator(lr))


def test_a_file_of_either_kind_gives_the_generator_it_describes(write: Write) -> None:
    """And its weights to start another from. Hydra's keys do nothing."""
    generator, lr = trained(SRResNet, SRRESNET), torch.rand(1, 3, 7, 9)
    path = write(SRRESNET | {"_partial_": True, "_args_": ["x"], "_recursive_": True})
    assert torch.equal(checkpoints.load(path)(lr), generator(lr))
    other = SRResNet(2, 4, 1).eval()
    state = checkpoints.initial_state(path, other)
    assert torch.equal(other(lr), generator(lr)) and state.keys() == generator.state_dict().keys()
    with pytest.raises(UserError, match=r"does not fit: .* head.0.weight, expected \(5, 3, 9, 9\), found \(4, 3"):
        checkpoints.initial_state(path, SRResNet(2, 5, 1))


@pytest.mark.parametrize("kind", [SRResNet, KerasSRResNet, Compact])
def test_training_may_start_from_a_network_with_fewer_blocks(
    kind: type[Generator], write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """The added blocks change nothing at first, and learn from the first step."""
    caplog.set_level("INFO")
    config = {"_target_": f"srgan.models.generators.{kind.__name__}", "scale": 2, "channels": 4, "blocks": 2}
    generator, lr = trained(kind, config), torch.rand(2, 3, 7, 9)
    for value in generator.parameters():
        nn.init.normal_(value, std=0.1)  # or the tanh of the Keras recipe has no gradient
    deeper = kind(2, 4, 5).eval()
    first = next(layer for layer in deeper.trunk[4].body if isinstance(layer, torch.nn.Conv2d)).weight
    random = first.detach().clone()
    checkpoints.initial_state(write(config, generator.state_dict()), deeper)
    torch.testing.assert_close(deeper(lr), generator(lr))
    assert torch.equal(first, random)
    assert "the last 3 residual blocks are new" in caplog.text
    deeper(lr).square().mean().backward()
    for block in deeper.trunk[2:5]:
        *_, last = block.body
        assert last.weight.grad.abs().sum() > 0
        if isinstance(last, nn.BatchNorm2d):
            assert (last.running_var == 1).all()  # or its first averages would be wrong
    with pytest.raises(UserError, match="does not fit"):
        checkpoints.initial_state(write(config, generator.state_dict()), kind(2, 4, 1))


OF_GENERATORS = ["", "torch.hub.load", "nn.Linear", "math.prod", "imresize", "UserError", "ResidualBlock", "Generator"]
FOREIGN = ["os.system", "srgan.models.discriminators.SRGANDiscriminator", "SRResNet", None, {"_target_": "os.system"}]


@pytest.mark.parametrize("target", [*(f"srgan.models.generators.{name}" for name in OF_GENERATORS), *FOREIGN])
def test_nothing_but_a_generator_of_ours_is_built(write: Write, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(os, "system", lambda *_, **__: ran.append("os.system"))
    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: ran.append("torch.hub.load"))
    monkeypatch.setattr(nn.Linear, "__init__", lambda *_, **__: ran.append("nn.Linear"))
    with pytest.raises(UserError, match=r"as its generator; only the classes of srgan.models.generators"):
        checkpoints.load(write({"_target_": target, "command": "true", "in_features": 3, "out_features": 3}))
    assert not ran


def test_a_generator_is_built_with_its_own_plain_values_only(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(os, "system", ran.append)
    wrong: list[tuple[str, list[Any]]] = [("scale", [{"_target_": "os.system", "command": "true"}, 2.0])]
    wrong += [("blocks", [None, True, 10**9]), ("channels", [["os.system"], 10**12])]
    for key, value in ((key, value) for key, values in wrong for value in values):
        with pytest.raises(UserError, match=f"can't be built with {key}$"):
            checkpoints.load(write(SRRESNET | {key: value}))
    without_scale = {key: value for key, value in SRRESNET.items() if key != "scale"}
    cases: list[tuple[Any, str]] = [(SRRESNET | {"depth": 3}, "with .*depth"), (without_scale, r"\(.*scale")]
    cases += [(SRRESNET | {"scale": 5}, r"\(no generator for scale 5"), (SRRESNET | {"channels": -4}, r"\(")]
    for config, words in cases:
        with pytest.raises(UserError, match=rf"can't be built {words}"):
            checkpoints.load(write(config))
    for config in ([COMPACT["_target_"]], None):
        with pytest.raises(UserError, match=r"names '' as its generator|not weights exported by srgan"):
            checkpoints.load(write(config))
    assert not ran


def test_weights_that_do_not_fit_are_refused_before_memory_is_taken(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []
    initialise = nn.Conv2d.__init__

    def conv(self: nn.Conv2d, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        devices.append(self.weight.device.type)

    path = write(SRRESNET | {"channels": 3000}, {"x": torch.zeros(3000)})
    monkeypatch.setattr(nn.Conv2d, "__init__", conv)
    with pytest.raises(UserError, match=rf"{path.name} does not fit: .* head.0.weight, expected \(3000, 3, 9, 9\)"):
        checkpoints.load(path)
    assert devices and set(devices) == {"meta"}


def test_weights_that_are_no_numbers_are_refused(write: Write) -> None:
    state = trained(SRResNet, SRRESNET).state_dict()
    for value in (float("nan"), float("inf")):
        state["tail.bias"][1] = value
        with pytest.raises(UserError, match="weights are infinite or NaN"):
            checkpoints.load(write(SRRESNET, state))


def test_an_absent_or_truncated_file_is_named(write: Write) -> None:
    path = write(SRRESNET)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=path.name):
            checkpoints.load(path)
        assert not checkpoints.is_exported(path)
    path.unlink()
    with pytest.raises(UserError, match=rf"no .*{path}"):
        checkpoints.load(path)
    assert not checkpoints.is_exported(path)


def test_weights_that_are_closed_to_the_user_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors itself would say that there is no such file."""
    checkpoints.save_weights(tmp_path / "net.safetensors", trained(SRResNet, SRRESNET), SRRESNET)
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(UserError, match=r"net.safetensors: can't be read \(Permission denied\)"):
        checkpoints.load(tmp_path / "net.safetensors")


def test_safetensors_without_our_description_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}, *({"srgan": text} for text in ("no json", "[]", "{}", "[" * 200_000))):
        save_file({"x": torch.zeros(1)}, path, metadata=metadata)
        assert checkpoints.is_exported(path) == ("srgan" in (metadata or {}))
        with pytest.raises(UserError, match=r"foreign.safetensors: not weights exported by srgan"):
            checkpoints.load(path)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, trap: object) -> None:
    content = {"state_dict": {}, "config": {"generator": SRRESNET}, "code": trap}
    torch.save(content, tmp_path / "torch.ckpt")
    torch.save(content, tmp_path / "torch.pth")
    for name in ("torch.ckpt", "torch.pth", "pickle.ckpt", "pickle.safetensors"):
        if name.startswith("pickle"):
            (tmp_path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=name) as refusal:
            checkpoints.load(tmp_path / name)
        assert "weights_only" not in str(refusal.value), "torch's advice runs the code"


def test_a_checkpoint_of_other_contents_is_refused(tmp_path: Path) -> None:
    needs, other = "it needs state_dict and config", "its state_dict holds something else"
    cases: list[tuple[object, str]] = [(content, needs) for content in ({"state_dict": {}}, {"config": {}}, [1, 2])]
    cases += [({"state_dict": state, "config": {}}, other) for state in ([1], {3: torch.zeros(1)}, {"ema.x": 3})]
    for content, words in [*cases, ({"state_dict": {}, "config": "text"}, "its config is a str")]:
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match=rf"other.ckpt: not a checkpoint of srgan.train; {words}"):
            checkpoints.load(tmp_path / "other.ckpt")
