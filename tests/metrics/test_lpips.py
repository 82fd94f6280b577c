from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from srgan.errors import UserError
from srgan.imresize import imresize
from srgan.metrics.lpips import LPIPS, load, weights_file
from srgan.metrics.means import ImageMean, MeanLPIPS


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


def test_none_asks_for_no_network(lpips: LPIPS) -> None:
    assert load(None) is None
    assert isinstance(load("squeeze"), LPIPS)


def test_a_network_that_lpips_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(UserError, match=r"lpips=resnet: expected squeeze, alex, vgg or null"):
        load("resnet")


def test_bicubic_on_set5_is_at_a_distance_of_0_166(
    lpips: LPIPS, set5: Callable[[int], list[tuple[Tensor, Tensor]]]
) -> None:
    metric = MeanLPIPS(lpips)
    for lr, hr in set5(4):
        metric.update(imresize(lr, 4), hr)
    assert f"{metric.compute():.3f}" == "0.166"


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


def test_the_mean_is_over_the_images_of_batches_of_any_size(lpips: LPIPS) -> None:
    sr, hr = pictures(0), pictures(1)
    hr[0] = sr[0]
    singly = [lpips(x[None], y[None]).item() for x, y in zip(sr, hr, strict=True)]
    for sizes in ([3], [1, 2], [1, 1, 1]):
        metric = MeanLPIPS(lpips)
        for x, y in zip(sr.split(sizes), hr.split(sizes), strict=True):
            metric.update(x, y)
        assert metric.compute().item() == pytest.approx(sum(singly) / 3, rel=1e-5)


def test_two_processes_with_unequal_shares_find_the_mean_of_the_whole(
    lpips: LPIPS, merged: Callable[[ImageMean, ImageMean], float]
) -> None:
    sr, hr = pictures(0), pictures(1)
    hr[0] = sr[0]
    here, there = MeanLPIPS(lpips), MeanLPIPS(lpips)
    here.update(sr[:1], hr[:1])
    there.update(sr[1:], hr[1:])
    assert merged(here, there) == pytest.approx(lpips(sr, hr).mean().item(), rel=1e-5)


def test_the_mean_holds_no_network(lpips: LPIPS) -> None:
    metric = MeanLPIPS(lpips)
    metric.update(pictures(0), pictures(1))
    assert metric.state_dict() == {}
    assert list(metric.parameters()) == []
    assert list(metric.children()) == []
    assert nn.ModuleList([metric]).state_dict() == {}
    assert len(lpips.state_dict()) > 0
