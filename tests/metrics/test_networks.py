"""Weights of LPIPS and DISTS: found, fetched once, or left out with one line; the networks are frozen."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import squeezenet1_1

from srgan.errors import UserError
from srgan.metrics import measures, networks
from srgan.metrics.lpips import LPIPS
from srgan.metrics.networks import FILES, dists_network, fetch, lpips_network, weights_file


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder in torchvision's place, and an empty torch hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "server"
    folder.mkdir()
    monkeypatch.setattr(networks, "URL", f"{folder.as_uri()}/")
    return folder


def publish(server: Path, monkeypatch: pytest.MonkeyPatch, checksum: str | None = None) -> None:
    """Put a SqueezeNet of random weights on the server, under a name that ends in its checksum as torchvision's do."""
    torch.save(squeezenet1_1(weights=None).state_dict(), server / "new")
    checksum = checksum or hashlib.sha256((server / "new").read_bytes()).hexdigest()[:8]
    (server / "new").rename(server / f"squeezenet1_1-{checksum}.pth")
    monkeypatch.setitem(networks.FILES, "squeeze", (f"squeezenet1_1-{checksum}.pth", 5))


@pytest.mark.parametrize(
    ("net", "name"),
    [("squeeze", "squeezenet1_1-b8a52dc0.pth"), ("alex", "alexnet-owt-7be5be79.pth"), ("vgg", "vgg16-397923af.pth")],
)
def test_the_files_are_torchvisions_and_lie_where_torch_hub_puts_them(net: str, name: str, server: Path) -> None:
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

    weights = {"squeeze": SqueezeNet1_1_Weights, "alex": AlexNet_Weights, "vgg": VGG16_Weights}[net].DEFAULT
    assert weights.url == f"https://download.pytorch.org/models/{name}"
    assert abs(weights.meta["_file_size"] - networks.FILES[net][1]) < 1
    assert weights_file(net) == Path(torch.hub.get_dir()) / "checkpoints" / name
    with pytest.raises(UserError, match=f"needs .*{name}"):
        lpips_network(net)
    with pytest.raises(UserError, match=r"DISTS needs .*vgg16"):
        dists_network()


def test_weights_are_fetched_once_with_their_size_said(
    server: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(server, monkeypatch)
    with caplog.at_level("INFO", "srgan"):
        fetch("squeeze")
    (line,) = caplog.messages
    assert "squeezenet1_1-" in line and "(5 MB)" in line and str(weights_file("squeeze")) in line
    assert "100%" in capsys.readouterr().err  # the progress bar
    for file in server.iterdir():
        file.unlink()
    fetch("squeeze")  # it is there
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("damage", ["nothing there", "another file"])
def test_what_was_asked_for_and_can_not_be_fetched_is_an_error(
    damage: str, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage == "another file":
        publish(server, monkeypatch, checksum="00000000")
    with pytest.raises(
        UserError, match=rf"can't be fetched .*; put it at {weights_file('squeeze')}, or leave out down"
    ):
        measures.load("squeeze", with_niqe=False, dists=False, scale=4, download=True)
    assert not list(weights_file("squeeze").parent.iterdir())  # no half of a file


def test_a_file_that_was_cut_off_is_one_line(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(server, monkeypatch)
    (whole,) = server.iterdir()
    hub = server.parent / "torch" / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    hub.parent.mkdir(parents=True)
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(server.parent / "torch"))
    hub.write_bytes(whole.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"squeezenet1_1-b8a52dc0.pth can't be read \(.*\); remove it and"):
        lpips_network("squeeze")


def test_a_network_that_lpips_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(UserError, match="lpips=resnet: expected alex, squeeze or vgg"):
        measures.load(["resnet"], with_niqe=False, dists=False, scale=4)


def test_measures_are_named_by_their_networks_and_none_asks_for_none(
    server: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for net in FILES:
        weights_file(net).parent.mkdir(parents=True, exist_ok=True)
        weights_file(net).touch()
    monkeypatch.setattr(measures, "LPIPS", lambda net: nn.Identity())
    monkeypatch.setattr(measures, "DISTS", nn.Identity)
    with caplog.at_level(logging.INFO, "srgan"):
        assert measures.load(None, with_niqe=False, dists=False, scale=4) == {}
        assert not caplog.messages
        assert list(measures.load("vgg", False, False, 4)) == ["lpips_vgg"]
        assert list(measures.load(["squeeze", "alex"], False, True, 4)) == ["lpips_squeeze", "lpips_alex", "dists"]
    assert "Measured beside PSNR and SSIM: LPIPS (squeeze), LPIPS (alex), DISTS" in caplog.messages


def test_nothing_is_downloaded_unasked_and_the_log_says_how(
    server: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(server, monkeypatch)
    assert measures.load("squeeze", with_niqe=False, dists=True, scale=4) == {}
    assert not list(weights_file("squeeze").parent.glob("*"))
    lpips, dists = caplog.messages
    assert lpips.startswith("LPIPS (squeeze) is not measured: ") and dists.startswith("DISTS is not measured: ")
    assert all("download=true" in line and "download.pytorch.org" in line for line in (lpips, dists))


def test_a_network_is_frozen_and_in_no_state_dict(hub: Path, noise: Callable[..., torch.Tensor]) -> None:
    for network in (lpips_network("squeeze"), dists_network()):
        assert not list(network.parameters()) and not network.state_dict()
        assert all(not module.training for module in network.train().modules())
    sr, hr = noise(2, 3, 40, 40), noise(2, 3, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):  # figures are those of fp32
        distance = LPIPS("squeeze")(sr, hr)
    assert distance.dtype == torch.float32 and torch.equal(distance, LPIPS("squeeze")(sr, hr))
