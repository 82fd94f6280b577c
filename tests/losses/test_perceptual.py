import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg19
from torchvision.transforms.functional import normalize

from srgan.errors import UserError
from srgan.losses.perceptual import RandomViews, VGGLoss

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
CUT_SHORT = SHARED / "weights" / "vgg19_conv1_1_to_conv3_1.pth"
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
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def full_file(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(network.state_dict(), path)
    yield path
    path.unlink()  # 80 MB


@pytest.fixture
def cut_file(network: nn.Module, tmp_path: Path) -> Path:
    """The full file up to conv3_1."""
    path = tmp_path / "cut.pth"
    torch.save({k: v for k, v in network.state_dict().items() if int(re.findall(r"\d+|$", k)[0] or 99) <= 10}, path)
    return path


def images(seed: int) -> Tensor:
    return torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


def torchvision_features(network: nn.Module, x: Tensor, layer: str, before_relu: bool) -> Tensor:
    last = INDEX[layer] + (0 if before_relu else 1)
    return network.features[: last + 1](normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def code_that_makes(folder: Path) -> object:
    class MakesFolder:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(folder),)

    return MakesFolder()


@pytest.mark.parametrize("before_relu", [False, True])
@pytest.mark.parametrize("layer", INDEX)
def test_features_are_those_of_torchvisions_vgg19(
    network: nn.Module, full_file: Path, layer: str, before_relu: bool
) -> None:
    maps = VGGLoss({layer: 1.0}, before_relu, str(full_file)).network(images(0))
    expected = torchvision_features(network, images(0), layer, before_relu)
    assert expected.std() > 0.1
    assert (expected.min() < 0) == before_relu
    assert list(maps) == [layer]
    torch.testing.assert_close(maps[layer], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("before_relu", [False, True])
def test_the_loss_and_its_gradient_are_the_weighted_sum_over_layers(
    network: nn.Module, full_file: Path, before_relu: bool
) -> None:
    weights = {"conv3_1": 0.25, "conv1_2": 2.0, "conv5_4": 1.5}
    sr, reference_sr, hr = images(0).requires_grad_(), images(0).requires_grad_(), images(1).requires_grad_()
    value = VGGLoss(weights, before_relu, str(full_file))(sr, hr)
    expected = torch.zeros(())
    for layer, weight in weights.items():
        of_sr, of_hr = (torchvision_features(network, x, layer, before_relu) for x in (reference_sr, images(1)))
        expected = expected + weight * F.mse_loss(of_sr, of_hr)
    value.backward()
    expected.backward()
    assert value.shape == ()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(sr.grad, reference_sr.grad, rtol=1e-3, atol=1e-5)
    assert sr.grad is not None
    assert sr.grad.abs().max() > 1e-3
    assert hr.grad is None


def test_normalized_features_are_compared_by_direction(network: nn.Module, full_file: Path) -> None:
    sr, reference_sr = images(0).requires_grad_(), images(0).requires_grad_()
    weights = {"conv1_2": 2.0, "conv3_1": 0.5}
    value = VGGLoss(weights, weights=str(full_file), normalize=True)(sr, images(1))
    expected = torch.zeros(())
    for layer, weight in weights.items():
        of_sr, of_hr = (torchvision_features(network, x, layer, False) for x in (reference_sr, images(1)))
        cosine = F.cosine_similarity(of_sr, of_hr, dim=1)  # |a − b|² = 2 − 2 cos for unit vectors
        expected = expected + weight * (2 - 2 * cosine).mean()
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(sr.grad, reference_sr.grad, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_equal_images_have_no_loss(normalize: bool) -> None:
    assert VGGLoss({"conv1_2": 1.0}, weights="random", normalize=normalize)(images(0), images(0)) == 0


def test_normalized_features_that_are_all_zero_have_a_finite_gradient() -> None:
    loss = VGGLoss({"conv1_1": 1.0}, weights="random", normalize=True)
    loss.network.conv1_1_bias = torch.full_like(
        loss.network.get_buffer("conv1_1_bias"), -1e3
    )  # nothing passes the ReLU
    sr = images(0).requires_grad_()
    loss(sr, images(1)).backward()
    assert sr.grad is not None
    assert sr.grad.isfinite().all()


def test_sizes_are_compared_one_by_one_and_weigh_by_their_inverse(full_file: Path) -> None:
    sr, hr = images(0), images(1)
    plain, half, both = (
        VGGLoss({"conv1_2": 1.0, "conv2_2": 0.5}, weights=str(full_file), normalize=True, sizes=sizes)
        for sizes in ((1.0,), (0.5,), (1.0, 0.5))
    )
    assert half(sr, hr) == pytest.approx(2 * float(plain(F.avg_pool2d(sr, 2), F.avg_pool2d(hr, 2))), rel=1e-5)
    assert both(sr, hr) == pytest.approx(float(plain(sr, hr) + half(sr, hr)), rel=1e-5)


@pytest.mark.parametrize("sizes", [(), (0.0,), (1.0, 2.0)])
def test_sizes_that_no_image_can_be_compared_in_are_refused(sizes: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="VGG19 sizes"):
        VGGLoss({"conv1_2": 1.0}, weights="random", sizes=sizes)


# --- random views ---------------------------------------------------------------------------------------------------


def test_a_random_view_is_the_same_of_each_image_and_new_at_each_call() -> None:
    views, seen = RandomViews(), set[bytes]()
    x = images(0)
    for _ in range(20):
        of_x, of_more = views(x, 0.5 * x)
        torch.testing.assert_close(of_more, 0.5 * of_x)
        seen.add(of_x.numpy().tobytes())
    assert len(seen) == 20


def test_random_views_show_all_turns_shifts_and_a_range_of_sizes() -> None:
    """A ramp tells where a view was cut, how it was turned and how much it was resized."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ramp = torch.stack([rows, columns, torch.zeros(64, 64)])[None]
    views, turns, centres, sides = RandomViews(), set[tuple[bool, ...]](), list[float](), list[int]()
    for _ in range(200):
        (view,) = views(ramp)
        assert view.shape[-2] == view.shape[-1]
        side = view.shape[-1]
        middle = slice(side // 4, -side // 4)  # away from the borders, where the kernel sees repeated pixels
        down, right = (view[0, :2, middle, middle].diff(dim=axis).mean(dim=(1, 2)) for axis in (1, 2))
        turned = bool(down[1].abs() > down[0].abs())
        step = down[1 if turned else 0], right[0 if turned else 1]
        assert [float(abs(x)) for x in step] == pytest.approx([56 / side] * 2, rel=1e-2)  # 8 pixels are cut off
        turns.add((turned, bool(step[0] > 0), bool(step[1] > 0)))
        centres.append(float(view[0, 0].mean()))
        sides.append(side)
    assert len(turns) == 8
    assert min(sides) == pytest.approx(56 / 2**0.5, abs=2) and max(sides) == pytest.approx(56 * 2**0.5, abs=2)
    assert min(centres) == pytest.approx(27.5, abs=0.1) and max(centres) == pytest.approx(35.5, abs=0.1)


def test_random_views_go_on_where_a_checkpoint_left_them() -> None:
    loss = VGGLoss({"conv1_2": 1.0}, weights="random", random_views=True)
    values = [float(loss(images(0), images(1))) for _ in range(6)]
    other = VGGLoss({"conv1_2": 1.0}, weights="random", random_views=True)
    for _ in range(3):
        other(images(0), images(1))
    resumed = VGGLoss({"conv1_2": 1.0}, weights="random", random_views=True)
    resumed.load_state_dict(other.state_dict())
    assert [float(resumed(images(0), images(1))) for _ in range(3)] == values[3:]
    assert len(set(values)) == 6


def test_a_gradient_reaches_the_image_through_views_and_sizes() -> None:
    loss = VGGLoss({"conv1_2": 1.0}, weights="random", normalize=True, sizes=(1.0, 0.5), random_views=True)
    sr = images(0).requires_grad_()
    loss(sr, images(1)).backward()
    assert sr.grad is not None
    assert (sr.grad[..., 4:-4, 4:-4] != 0).all()  # at the edges up to 4 pixels may be cut off


# --- weights --------------------------------------------------------------------------------------------------------


def test_its_weights_belong_to_no_optimizer_and_no_checkpoint(cut_file: Path) -> None:
    loss = VGGLoss({"conv2_2": 1.0}, weights=str(cut_file))
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}


def test_its_weights_follow_to_another_type(cut_file: Path) -> None:
    loss = VGGLoss({"conv2_2": 1.0}, weights=str(cut_file))
    single = loss.network(images(0))["conv2_2"]
    double = loss.to(torch.float64).network(images(0).double())["conv2_2"]
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single)


def test_only_the_layers_needed_are_held(full_file: Path) -> None:
    channels = [(3, 64), (64, 64), (64, 128), (128, 128)]
    held = sum(buffer.numel() for buffer in VGGLoss({"conv2_2": 1.0}, weights=str(full_file)).buffers())
    assert held == sum(9 * before * after + after for before, after in channels) + 3 + 3  # mean and deviation


def test_a_file_cut_short_serves_the_layers_that_it_holds(network: nn.Module, cut_file: Path) -> None:
    maps = VGGLoss({"conv2_2": 1.0}, weights=str(cut_file)).network(images(0))
    expected = torchvision_features(network, images(0), "conv2_2", before_relu=False)
    torch.testing.assert_close(maps["conv2_2"], expected, rtol=1e-4, atol=1e-4)


def test_a_file_cut_short_says_where_it_ends(cut_file: Path) -> None:
    with pytest.raises(UserError, match=r"cut\.pth ends at conv3_1, but conv5_4"):
        VGGLoss({"conv5_4": 1.0}, weights=str(cut_file))


@pytest.mark.skipif(not CUT_SHORT.is_file(), reason=f"needs {CUT_SHORT}")
def test_the_shared_file_of_trained_weights_ends_at_conv3_1() -> None:
    loss = VGGLoss({"conv2_2": 1.0}, weights=str(CUT_SHORT))
    assert loss(images(0), images(1)) > loss(images(0), images(0) + 0.01) > 0
    with pytest.raises(UserError, match=r"ends at conv3_1, but conv5_4"):
        VGGLoss({"conv5_4": 1.0}, weights=str(CUT_SHORT))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pth.*vgg_weights=PATH"):
        VGGLoss({"conv1_2": 1.0}, weights=str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("content", [b"", b"these are no weights\n"], ids=["empty", "text"])
def test_a_file_that_torch_cannot_read_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"notes\.pth: not a file of VGG19 weights"):
        VGGLoss({"conv1_2": 1.0}, weights=str(tmp_path / "notes.pth"))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"features.0.weight": torch.zeros(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}, "another network"),
        ({"conv.weight": torch.zeros(64, 3, 3, 3)}, "holds none of VGG19's layers"),
        ([torch.zeros(64, 3, 3, 3)], "found list"),
    ],
    ids=["AlexNet", "other names", "no state dict"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"other\.pth.*{complaint}"):
        VGGLoss({"conv1_2": 1.0}, weights=str(tmp_path / "other.pth"))


@pytest.mark.parametrize("by_torch", [False, True], ids=["plain pickle", "saved by torch"])
def test_code_in_a_file_is_not_executed(tmp_path: Path, by_torch: bool) -> None:
    path, made = tmp_path / "code.pth", tmp_path / "made by the code"
    content = {"features.0.weight": code_that_makes(made)}
    if by_torch:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"code\.pth: not a file of VGG19 weights"):
        VGGLoss({"conv1_2": 1.0}, weights=str(path))
    assert not made.exists()
    torch.load(path, weights_only=False) if by_torch else pickle.loads(path.read_bytes())
    assert made.exists(), "the code would have shown"


@pytest.mark.parametrize("layers", [{}, {"conv6_1": 1.0}, {"conv1_2": 1.0, "relu5_4": 1.0}])
def test_an_unknown_layer_is_refused_with_all_that_exist(layers: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"conv1_1, .*conv3_4.*conv5_4$"):
        VGGLoss(layers, weights="random")


def test_without_file_and_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    with pytest.raises(UserError, match="no route to host") as caught:
        VGGLoss({"conv1_2": 1.0})
    assert str(tmp_path / "hub" / "checkpoints" / OFFICIAL_NAME) in str(caught.value)
    assert "vgg_weights=PATH" in str(caught.value)


def test_the_official_file_is_used_where_torch_hub_keeps_it(
    network: nn.Module, full_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_download(*_: object, **__: object) -> None:
        pytest.fail("downloads although the file is there")

    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / OFFICIAL_NAME).symlink_to(full_file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_download)
    maps = VGGLoss({"conv1_2": 1.0}).network(images(0))
    expected = torchvision_features(network, images(0), "conv1_2", before_relu=False)
    torch.testing.assert_close(maps["conv1_2"], expected, rtol=1e-4, atol=1e-4)
