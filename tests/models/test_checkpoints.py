"""What a file with weights may hold: tensors and plain data, never something that runs."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.models.generators import Compact, Generator, SRResNet

SRRESNET = {"_target_": "srgan.models.generators.SRResNet", "scale": 2, "channels": 4, "blocks": 1}
COMPACT = {"_target_": "srgan.models.generators.Compact", "scale": 3, "channels": 4, "blocks": 1}


def trained(kind: type[Generator], node: dict[str, Any]) -> Generator:
    """A generator in which nothing has its first value."""
    torch.manual_seed(0)
    generator = kind(**{key: value for key, value in node.items() if key != "_target_"})
    for value in generator.state_dict().values():
        if value.is_floating_point():
            nn.init.uniform_(value, 0.1, 0.9)
    return generator.eval()


Write = Callable[..., Path]


def write_checkpoint(path: Path, node: Any, state: dict[str, torch.Tensor]) -> None:
    content = {"state_dict": {f"ema.{name}": value for name, value in state.items()}, "config": {"generator": node}}
    torch.save(content, path)


def write_weights(path: Path, node: Any, state: dict[str, torch.Tensor]) -> None:
    save_file(state, path, metadata={"srgan": json.dumps({"generator": node})})


@pytest.fixture(params=["net.ckpt", "net.safetensors"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """write(node, state): a checkpoint, and again exported weights, that describe their generator by `node`."""
    path = tmp_path / request.param
    writer = write_checkpoint if path.suffix == ".ckpt" else write_weights

    def do(node: Any, state: dict[str, torch.Tensor] | None = None) -> Path:
        writer(path, node, trained(SRResNet, SRRESNET).state_dict() if state is None else state)
        return path

    return do


@pytest.mark.parametrize(("kind", "node"), [(SRResNet, SRRESNET), (Compact, COMPACT)])
def test_exported_weights_give_the_same_generator(kind: type[Generator], node: dict[str, Any], tmp_path: Path) -> None:
    generator = trained(kind, node)
    path = tmp_path / "weights.safetensors"
    checkpoints.save_weights(path, generator, node)
    assert checkpoints.is_exported(path)
    loaded = checkpoints.load(path)
    assert type(loaded) is kind and not loaded.training
    lr = torch.rand(2, 3, 7, 9)
    assert torch.equal(loaded(lr), generator(lr))


def test_weights_laid_out_for_a_gpu_are_exported_too(tmp_path: Path) -> None:
    generator = trained(SRResNet, SRRESNET)
    checkpoints.save_weights(tmp_path / "a.safetensors", generator.to(memory_format=torch.channels_last), SRRESNET)
    lr = torch.rand(1, 3, 7, 9)
    torch.testing.assert_close(checkpoints.load(tmp_path / "a.safetensors")(lr), generator(lr))


def test_a_file_of_either_kind_gives_the_generator_it_describes(write: Write) -> None:
    generator = trained(SRResNet, SRRESNET)
    lr = torch.rand(1, 3, 7, 9)
    assert torch.equal(checkpoints.load(write(SRRESNET))(lr), generator(lr))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "srgan.models.generators.torch.hub.load",
        "srgan.models.generators.nn.Linear",
        "srgan.models.generators.math.prod",
        "srgan.models.generators.imresize",
        "srgan.models.generators.UserError",
        "srgan.models.generators.ResidualBlock",
        "srgan.models.generators.",
        "srgan.models.generators.__builtins__.exec",
        "srgan.models.discriminators.SRDiscriminator",
        "SRResNet",
        "",
        None,
        {"_target_": "os.system"},
    ],
)
def test_nothing_but_a_generator_of_ours_is_built(write: Write, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(os, "system", lambda *_, **__: ran.append("os.system"))
    monkeypatch.setattr(torch.hub, "load", lambda *_, **__: ran.append("torch.hub.load"))
    monkeypatch.setattr(nn.Linear, "__init__", lambda *_, **__: ran.append("nn.Linear"))
    with pytest.raises(UserError, match=r"as its generator; only the classes of srgan.models.generators"):
        checkpoints.load(write({"_target_": target, "command": "true", "in_features": 3, "out_features": 3}))
    assert not ran


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scale": {"_target_": "os.system", "command": "true"}}, "can't be built with scale"),
        ({"channels": ["os.system"]}, "can't be built with channels"),
        ({"blocks": None}, "can't be built with blocks"),
        ({"depth": 3}, "can't be built with .*depth"),
        ({"scale": 2.0}, "can't be built with scale"),
        ({"blocks": True}, "can't be built with blocks"),
        ({"blocks": 10**9}, "can't be built with blocks"),
        ({"channels": 10**12}, "can't be built with channels"),
    ],
)
def test_a_generator_is_built_with_its_own_plain_values_only(
    write: Write, values: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    monkeypatch.setattr(os, "system", ran.append)
    with pytest.raises(UserError, match=words):
        checkpoints.load(write(SRRESNET | values))
    assert not ran


def test_hydras_keys_in_a_file_do_nothing(write: Write) -> None:
    loaded = checkpoints.load(write(SRRESNET | {"_partial_": True, "_args_": ["x"], "_recursive_": True}))
    assert isinstance(loaded, SRResNet)


UNBUILDABLE = {
    "without its scale": {key: value for key, value in SRRESNET.items() if key != "scale"},
    "a scale that there is not": SRRESNET | {"scale": 5},
    "a scale in words": SRRESNET | {"scale": "two"},
    "a fraction of a channel": SRRESNET | {"channels": 4.5},
    "fewer than no channels": SRRESNET | {"channels": -4},
    "no mapping": ["srgan.models.generators.SRResNet"],
    "nothing": None,
}


@pytest.mark.parametrize("kind", UNBUILDABLE)
def test_a_file_that_describes_no_generator_is_one_clear_message(write: Write, kind: str) -> None:
    with pytest.raises(UserError):
        checkpoints.load(write(UNBUILDABLE[kind], {"x": torch.zeros(1)}))


def test_the_class_that_all_generators_share_is_none_itself(write: Write) -> None:
    with pytest.raises(UserError):
        checkpoints.load(write({"_target_": "srgan.models.generators.Generator"}, {}))


def test_weights_that_do_not_fit_their_description_are_refused(write: Write) -> None:
    path = write(SRRESNET | {"channels": 5})
    with pytest.raises(UserError, match=rf"{path.name} does not fit: .* head.0.weight, expected \(5, 3, 9, 9\)"):
        checkpoints.load(path)


def test_nothing_is_built_of_the_size_that_a_file_only_claims(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(SRRESNET | {"channels": 3000}, {"x": torch.zeros(3000)})
    built: list[str] = []
    register = nn.Conv2d.__init__

    def conv(self: nn.Conv2d, *args: Any, **kwargs: Any) -> None:
        register(self, *args, **kwargs)
        built.append(self.weight.device.type)

    monkeypatch.setattr(nn.Conv2d, "__init__", conv)
    with pytest.raises(UserError, match="does not fit"):
        checkpoints.load(path)
    assert built and set(built) == {"meta"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(write: Write, value: float) -> None:
    state = trained(SRResNet, SRRESNET).state_dict()
    state["tail.bias"][1] = value
    with pytest.raises(UserError, match="weights that are infinite or no numbers"):
        checkpoints.load(write(SRRESNET, state))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    for name in ("none.ckpt", "none.safetensors"):
        with pytest.raises(UserError, match=rf"no .*{tmp_path / name}"):
            checkpoints.load(tmp_path / name)
    assert not checkpoints.is_exported(tmp_path / "none.safetensors")


def test_a_truncated_file_is_refused(write: Write) -> None:
    path = write(SRRESNET)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=path.name):
            checkpoints.load(path)
        assert not checkpoints.is_exported(path)


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"srgan": "no json"}, {"srgan": "[]"}, {"srgan": "{}"}, {"srgan": "[" * 200_000}],
)
def test_safetensors_without_our_description_are_refused(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(trained(SRResNet, SRRESNET).state_dict(), path, metadata=metadata)
    assert checkpoints.is_exported(path) == ("srgan" in (metadata or {}))
    with pytest.raises(UserError, match=r"foreign.safetensors: not weights exported by srgan"):
        checkpoints.load(path)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self.path,)

    def __init__(self, path: Path) -> None:
        self.path = str(path)


@pytest.mark.parametrize("name", ["pickle.ckpt", "torch.ckpt", "pickle.safetensors"])
def test_a_pickle_with_code_is_refused_and_does_not_run(name: str, tmp_path: Path) -> None:
    path, made = tmp_path / name, tmp_path / "made"
    content = {"state_dict": {}, "config": {"generator": SRRESNET}, "code": Code(made)}
    if name == "torch.ckpt":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=name):
        checkpoints.load(path)
    assert not made.exists()
    pickle.loads(pickle.dumps(Code(made)))
    assert made.exists(), "the code must be able to run, or refusing it shows nothing"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}, "config": "text"}, "its config is a str"),
        ({"state_dict": {}, "config": [1]}, "its config is a list"),
        ({"state_dict": [1], "config": {}}, "its state_dict holds something else"),
        ({"state_dict": {3: torch.zeros(1)}, "config": {}}, "its state_dict holds something else"),
        ({"state_dict": {"ema.x": 3}, "config": {}}, "its state_dict holds something else"),
    ],
)
def test_a_checkpoint_of_other_contents_is_refused(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=rf"other.ckpt: not a checkpoint of srgan.train; {words}"):
        checkpoints.load(tmp_path / "other.ckpt")


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"config": {}}, [1, 2], torch.zeros(3)])
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"other.ckpt: not a checkpoint of srgan.train; it needs state_dict and config"):
        checkpoints.load(tmp_path / "other.ckpt")
