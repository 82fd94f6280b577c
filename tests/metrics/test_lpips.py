from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srgan.errors import UserError
from srgan.imresize import imresize
from srgan.metrics.lpips import LPIPS, load, weights_file


@pytest.fixture(scope="module")
def lpips(shared: Path) -> Iterator[LPIPS]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(shared / "weights/torch_home"))
        if not weights_file("squeeze").is_file():
            pytest.skip(f"needs {weights_file('squeeze')}, which is not here")
        yield LPIPS()


def pictures(seed: int) -> Tensor:
    return torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("net", "name"),
    [("squeeze", "squeezenet1_1-b8a52dc0.pth"), ("alex", "alexnet-owt-7be5be79.pth"), ("vgg", "vgg16-397923af.pth")],
)
def test_without_its_weights_it_says_which_file_it_needs(
    net: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights_file(net) == tmp_path / "hub" / "checkpoints" / name
    with pytest.raises(FileNotFoundError, match=name):
        LPIPS(net)


def test_where_the_weights_are_not_it_is_left_out_and_the_log_says_what_was_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with caplog.at_level("INFO", "srgan"):
        assert load("squeeze") is None
    assert str(weights_file("squeeze")) in caplog.text


def test_the_log_says_which_network_measures_and_none_asks_for_none(
    lpips: LPIPS, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "srgan"):
        assert load(None) is None
        assert not caplog.records
        assert isinstance(load("squeeze"), LPIPS)
    assert "LPIPS is measured by the network squeeze" in caplog.text


def test_a_network_that_lpips_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(UserError, match=r"lpips=resnet: expected squeeze, alex, vgg or null"):
        load("resnet")


@pytest.mark.parametrize(("scale", "expected"), [(2, "0.1028"), (3, "0.1929"), (4, "0.2859")])
def test_bicubic_on_set5_is_at_the_distance_measured(
    lpips: LPIPS, set5: Callable[[int], list[tuple[Tensor, Tensor]]], scale: int, expected: str
) -> None:
    distances = torch.cat([lpips(imresize(lr, scale), hr) for lr, hr in set5(scale)])
    assert f"{distances.double().mean():.4f}" == expected


def test_an_image_is_at_no_distance_from_itself(lpips: LPIPS) -> None:
    assert lpips(pictures(0), pictures(0)).tolist() == [0, 0, 0]


def test_each_image_has_its_own_distance(lpips: LPIPS) -> None:
    sr, hr = pictures(0), pictures(1)
    hr[1] = sr[1]
    together = lpips(sr, hr)
    assert together.shape == (3,)
    assert (together > 0.01).tolist() == [True, False, True]
    singly = torch.cat([lpips(sr[i : i + 1], hr[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, singly)


def test_8_bit_images_and_floats_agree(lpips: LPIPS) -> None:
    sr, hr = (x.mul(255).round().to(torch.uint8) for x in (pictures(0), pictures(1)))
    assert torch.equal(lpips(sr, hr), lpips(sr / 255, hr / 255))


def test_its_network_is_frozen(lpips: LPIPS) -> None:
    parameters = list(lpips.parameters())
    assert parameters
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not lpips(pictures(0).requires_grad_(), pictures(1)).requires_grad
