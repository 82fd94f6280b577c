"""LPIPS by each network; how its weights are found and fetched is in test_networks.py."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from srgan.imresize import imresize
from srgan.metrics.lpips import LPIPS
from srgan.metrics.networks import SMALLEST, weights_file


@pytest.fixture(scope="module")
def by_network(shared: Path) -> Iterator[Callable[[str], LPIPS]]:
    """by_network("alex"): the metric with torchvision's weights; skips where they are absent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(shared / "weights/torch_home"))
        for net in ("alex", "squeeze"):
            if not weights_file(net).is_file():
                pytest.skip(f"needs {weights_file(net)}, which is not here")
        yield LPIPS


@pytest.fixture(scope="module")
def lpips(by_network: Callable[[str], LPIPS]) -> LPIPS:
    return by_network("squeeze")


def pictures(seed: int) -> Tensor:
    return torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("net", "expected"), [("alex", "0.340"), ("squeeze", "0.286")])
def test_bicubic_on_set5_x4_is_at_the_distance_measured(
    by_network: Callable[[str], LPIPS], set5: Callable[[int], list[tuple[Tensor, Tensor]]], net: str, expected: str
) -> None:
    lpips = by_network(net)
    distances = torch.cat([lpips(imresize(lr, 4), hr) for lr, hr in set5(4)])
    assert f"{distances.double().mean():.3f}" == expected


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_an_image_too_small_for_the_network_has_none(by_network: Callable[[str], LPIPS], net: str) -> None:
    smallest = SMALLEST[net]
    metric, image = by_network(net), torch.rand(2, 3, smallest, 40)
    assert metric(image, image).isfinite().all()
    assert metric(image[..., 1:, :], image[..., 1:, :]).isnan().tolist() == [True, True]


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
    assert not list(lpips.parameters()) and not lpips.state_dict()
    assert not lpips(pictures(0).requires_grad_(), pictures(1)).requires_grad
