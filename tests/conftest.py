"""Fixtures shared by all tests."""

import os

if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:  # which share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import srgan  # noqa: F401 -- before torch: it lets torch's threads spin briefly, which counts beside other work

# isort: split
import io
import pickle
import shutil
import signal
import socket
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from srgan import config
from srgan.models import checkpoints
from srgan.models.generators import Compact

SHARED = Path(__file__).parents[2] / "shared"


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start background jobs; runs would leave it so
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hosts that are looked up: none but this machine. A test that asks for a download empties the list."""
    hosts: list[str] = []

    def look_up(host: Any, *arguments: Any, found: Callable[..., Any] = socket.getaddrinfo, **options: Any) -> Any:
        if host in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()):
            return found(host, *arguments, **options)
        hosts.append(str(host))
        raise socket.gaierror(f"no network in tests: {host}")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield hosts
    assert not hosts, f"looked up unasked: {hosts}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Images and weights in a folder beside the checkout; tests that need them skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which is not here")
    return SHARED


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture
def noise(generator: torch.Generator) -> Callable[..., Tensor]:
    """noise(…, 3, H, W): random uint8 pixels of that shape."""
    return lambda *shape: torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """encoded(pixels, "PNG", …): the bytes of an image file, out of an array or a PIL image."""

    def encode(pixels: NDArray[np.generic] | Image.Image, file_format: str, **options: object) -> bytes:
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        file = io.BytesIO()
        image.save(file, file_format, **options)
        return file.getvalue()

    return encode


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory, encoded: Callable[..., bytes]) -> Path:
    """A folder of eight smooth 72×64 pictures, enough for a small run. No test may change it."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(5)
    for index in range(8):
        small = torch.rand(1, 3, 9, 8, generator=generator)
        picture = torch.nn.functional.interpolate(small, scale_factor=8, mode="bilinear")[0]
        pixels = picture.mul(255).byte().permute(1, 2, 0).numpy()
        (folder / f"{index}.png").write_bytes(encoded(pixels, "PNG"))
    return folder


@pytest.fixture
def photo_folder(tmp_path: Path, photos: Path) -> Path:
    """The same pictures in a folder of the test's own."""
    return shutil.copytree(photos, tmp_path / "photos")


@pytest.fixture(scope="session")
def tiny_on() -> Callable[[Path], list[str]]:
    """tiny_on(folder): overrides that make a run of seconds out of any experiment, on the pictures in it."""
    return lambda folder: [
        "data=folder",
        f"data.root={folder}",
        "data.crop=32",
        "batch_size=2",
        "generator.channels=4",
        "generator.blocks=1",
        "discriminator.channels=2",
        "discriminator.hidden=4",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.enable_progress_bar=false",
        "lpips=null",
        "niqe=false",
        "dists=false",
    ]


@pytest.fixture
def tiny(tiny_on: Callable[[Path], list[str]], photo_folder: Path) -> list[str]:
    return tiny_on(photo_folder)


@pytest.fixture(scope="session")
def compose_config() -> Callable[..., DictConfig]:
    """compose_config("scale=2", …, run_dir=PATH): the configuration that srgan.train, or another command, would run."""
    config.register()

    def composed(*overrides: str, run_dir: Path | None = None, command: str = "train") -> DictConfig:
        extra = [] if run_dir is None else [f"run_dir={run_dir}"]
        GlobalHydra.instance().clear()  # after a command that ran in this process
        with initialize_config_dir(str(config.CONF), version_base="1.3"):
            return compose(command, overrides=[*overrides, *extra])

    return composed


@pytest.fixture(scope="session")
def save_compact() -> Callable[..., Compact]:
    """save_compact(path, scale=2): writes weights of a tiny generator that differs from bicubic, and returns it."""

    def save(path: Path, scale: int = 2) -> Compact:
        generator = Compact(scale, channels=4, blocks=1).eval()
        torch.nn.init.normal_(generator.tail.weight, std=0.03)
        node = {"_target_": "srgan.models.generators.Compact", "scale": scale, "channels": 4, "blocks": 1}
        checkpoints.save_weights(path, generator, node, {"data": "noise"})
        return generator

    return save


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """run_main(look, "key=value", …): `python -m srgan.look` in this process, in `tmp_path`; exit code and stderr."""

    def do(command: types.ModuleType, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(command.__file__), *arguments])
        try:
            command.main()
        except SystemExit as end:
            return int(end.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return do


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[object]:
    """An object that makes a folder when it is unpickled, which the test must not let happen."""
    folder = tmp_path / "made by code in a file"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(folder),)

    yield Trap()
    assert not folder.exists()
    pickle.loads(pickle.dumps(Trap()))
    assert folder.exists(), "the code must be able to run, or refusing it shows nothing"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium: the system's, else the one that playwright brought."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with api.sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs Chromium")
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch hub's folder with random weights for SqueezeNet; VGG16 takes random ones without a file of 528 MB."""
    from torchvision.models import squeezenet1_1, vgg

    torch.manual_seed(0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(squeezenet1_1(weights=None).state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    (folder / "vgg16-397923af.pth").touch()
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)
    network = types.SimpleNamespace(features=features)
    monkeypatch.setattr("torchmetrics.functional.image.dists.vgg16", lambda weights: network)
    return folder
