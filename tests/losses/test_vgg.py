import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from srgan.losses.vgg import VGG19
from torch import Tensor, nn
from torchvision.models import vgg19
from torchvision.transforms.functional import normalize

from srgan.errors import UserError

OFFICIAL_NAME = "vgg19-dcbb9e9d.pth"
INDEX = {"conv1_2": 2, "conv2_2": 7, "conv3_1": 10, "conv5_4": 34}  # of the convolution in torchvision's `features`


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """torchvision's VGG19 with random weights; its classifier, 124 M weights that no test needs, is cut down."""
    torch.manual_seed(0)
    with torch.device("meta"):
        network = vgg19(weights=None)
    network.classifier = nn.Linear(2, 2)
    network.features.to_empty(device="cpu")
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    return network.half().float().requires_grad_(False)


@pytest.fixture(scope="module")
def full_file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file of weights in half precision, which holds them exactly."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save({key: value.half() for key, value in network.state_dict().items()}, path)
    yield path
    path.unlink()  # 40 MB


def images() -> Tensor:
    return torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))


def torchvision_features(network: nn.Module, layer: str, before_relu: bool) -> Tensor:
    last = INDEX[layer] + (0 if before_relu else 1)
    return network.features[: last + 1](normalize(images(), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


@pytest.mark.parametrize("before_relu", [False, True])
def test_features_are_those_of_torchvisions_vgg19(network: nn.Module, full_file: Path, before_relu: bool) -> None:
    maps = VGG19(INDEX, before_relu, str(full_file))(images())
    assert list(maps) == list(INDEX)
    for layer, features in maps.items():
        expected = torchvision_features(network, layer, before_relu)
        assert expected.std() > 0.1 and (expected.min() < 0) == before_relu
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_only_the_layers_needed_are_held_and_belong_to_no_optimizer_and_no_checkpoint(full_file: Path) -> None:
    vgg = VGG19(["conv2_2"], False, str(full_file))
    channels = [(3, 64), (64, 64), (64, 128), (128, 128)]
    weights = sum(9 * before * after + after for before, after in channels)
    assert sum(buffer.numel() for buffer in vgg.buffers()) == weights + 3 + 3  # mean and deviation
    assert list(vgg.parameters()) == [] and vgg.state_dict() == {}
    assert vgg.to(torch.float64)(images().double())["conv2_2"].dtype == torch.float64


def test_a_file_cut_short_serves_the_layers_that_it_holds_and_says_where_it_ends(
    network: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "cut.pth"
    torch.save(
        {key: value for key, value in network.state_dict().items() if re.match(r"features.(\d|10)\.", key)}, path
    )
    maps = VGG19(["conv2_2"], False, str(path))(images())
    torch.testing.assert_close(maps["conv2_2"], torchvision_features(network, "conv2_2", False), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"cut\.pth ends at conv3_1, but conv5_4"):
        VGG19(["conv1_2", "conv5_4"], False, str(path))


def test_random_weights_keep_the_size_of_activations_and_are_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    vgg, again = (VGG19(["conv3_1"], False, "random") for _ in range(2))
    assert "good for timing, not for training" in caplog.text
    for name, inputs in (("conv1_2", 64), ("conv3_1", 128)):
        weight = vgg.get_buffer(f"{name}_weight")
        assert float(weight.std()) == pytest.approx((2 / (9 * inputs)) ** 0.5, rel=0.02)
        assert torch.equal(weight, again.get_buffer(f"{name}_weight"))
        assert not vgg.get_buffer(f"{name}_bias").any()


def code_that_makes(folder: Path) -> object:
    class MakesFolder:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(folder),)

    return MakesFolder()


NOT_WEIGHTS = r"file\.pth: not a file of VGG19 weights"
ALEXNET = {"features.0.weight": torch.zeros(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path: None, r"no VGG19 file at .*file\.pth; name one by vgg_weights=PATH"),
        (lambda path: path.write_bytes(b""), NOT_WEIGHTS),
        (lambda path: path.write_bytes(b"these are no weights\n"), NOT_WEIGHTS),
        (lambda path: path.write_bytes(pickle.dumps({"x": code_that_makes(path.with_name("made"))})), NOT_WEIGHTS),
        (lambda path: torch.save({"x": code_that_makes(path.with_name("made"))}, path), NOT_WEIGHTS),
        (lambda path: torch.save([torch.zeros(64, 3, 3, 3)], path), NOT_WEIGHTS + ".*found list"),
        (lambda path: torch.save({"conv.weight": torch.zeros(1)}, path), "file.*holds none of VGG19's layers"),
        (lambda path: torch.save(ALEXNET, path), r"features\.0\.weight is \(64, 3, 11, 11\).*another network"),
        (lambda path: torch.save({"features.3.weight": 0}, path), r"features\.3\.weight is no layer.*another network"),
    ],
)
def test_a_file_of_something_else_is_refused_and_its_code_does_not_run(
    tmp_path: Path, write: Callable[[Path], None], complaint: str
) -> None:
    write(tmp_path / "file.pth")
    with pytest.raises(UserError, match=complaint):
        VGG19(["conv1_2"], False, str(tmp_path / "file.pth"))
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(code_that_makes(tmp_path / "made")))
    assert (tmp_path / "made").exists(), "the code must be able to run, or refusing it shows nothing"


def test_an_unknown_layer_is_refused_with_all_that_exist() -> None:
    for layers in ([], ["conv6_1"], ["conv1_2", "relu5_4"]):
        with pytest.raises(UserError, match=r"conv1_1, .*conv3_4.*conv5_4$"):
            VGG19(layers, False, "random")


def test_the_official_file_is_used_where_torch_hub_keeps_it_or_the_error_says_what_to_do(
    full_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **options: object) -> None:
        assert options["check_hash"]
        raise URLError("no route to host")

    official = tmp_path / "hub" / "checkpoints" / OFFICIAL_NAME
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    with pytest.raises(UserError, match=r"no route to host.*vgg_weights=PATH") as caught:
        VGG19(["conv1_2"], False, None)
    assert str(official) in str(caught.value)
    official.parent.mkdir(parents=True)
    official.symlink_to(full_file)
    expected = VGG19(["conv1_2"], False, str(full_file))(images())
    assert torch.equal(VGG19(["conv1_2"], False, None)(images())["conv1_2"], expected["conv1_2"])
