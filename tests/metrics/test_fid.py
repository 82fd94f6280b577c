import io
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.image.fid import NoTrainInceptionV3

from srgan.errors import UserError
from srgan.metrics import fid
from srgan.metrics.fid import FID, URL, fetch_weights, weights_file

CPU = torch.device("cpu")
NAME = "weights-inception-2015-12-05-6726825d.pth"


class Response(io.BytesIO):
    """What the server sends; breaks off at its end if `broken`."""

    broken = False

    def info(self) -> Message:
        return Message()

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if self.broken and not data:
            raise ConnectionResetError("connection reset")
        return data


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TORCH_HOME."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Random weights of Inception where `weights_file()` points."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Untrained(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        patch.setattr(NoTrainInceptionV3, "INPUT_IMAGE_SIZE", 75)  # instead of 299: a sixteenth of the time
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            state = Untrained("inception-v3-compat", ["2048"]).state_dict()
        weights_file().parent.mkdir(parents=True)
        scaled = {name: 6**0.5 * value if "conv.weight" in name else value for name, value in state.items()}
        torch.save(scaled, weights_file())  # scaled as by He et al. 2015, or features would fade with depth
        yield
        weights_file().unlink()


@pytest.fixture
def shallow(random_weights: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of a layer near the input: the eigenvalues for all 2048 take half a minute."""
    monkeypatch.setattr(fid, "FEATURES", 64)


def pictures(seed: int, count: int = 6, low: int = 0, high: int = 256) -> Tensor:
    """8-bit blocks, (count, 3, 24, 32)."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(low, high, (count, 3, 3, 4), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)


def features(images: Tensor) -> NDArray[np.float64]:
    network = NoTrainInceptionV3("inception-v3-compat", ["64"], str(weights_file()), antialias=False)
    return network(images).double().numpy()


def distance(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """|μx − μy|² + tr(Cx + Cy − 2 (Cx Cy)^½) of features (n, d).

    With X, Y centred and divided by √(n − 1), Cx = XᵀX and Cy = YᵀY: the last trace is the sum of the singular
    values of X Yᵀ, which needs no root of a matrix of deficient rank.
    """
    centred_x, centred_y = ((each - each.mean(0)) / np.sqrt(len(each) - 1) for each in (x, y))
    cross = np.linalg.svd(centred_x @ centred_y.T, compute_uv=False).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + (centred_x**2).sum() + (centred_y**2).sum() - 2 * cross)


def test_without_its_weights_it_says_which_file_it_needs(home: Path) -> None:
    assert weights_file() == home / "hub" / "checkpoints" / NAME
    with pytest.raises(FileNotFoundError) as error:
        FID(["bicubic"], CPU)
    assert str(weights_file()) in str(error.value)


def test_without_torch_fidelity_it_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fid, "find_spec", lambda _: None)
    weights_file().parent.mkdir(parents=True)
    weights_file().touch()
    with pytest.raises(UserError, match="torch-fidelity"):
        FID(["bicubic"], CPU)


def test_a_file_without_inceptions_weights_is_named(home: Path) -> None:
    weights_file().parent.mkdir(parents=True)
    weights_file().write_text("<html>Log in</html>")
    with pytest.raises(UserError, match=rf"{NAME}: not Inception's weights \(.+\); remove it"):
        FID(["bicubic"], CPU)


def test_weights_are_downloaded_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def serve(request: object) -> Response:
        asked.append(request.full_url)
        return Response(b"weights")

    monkeypatch.setattr(torch.hub, "urlopen", serve)
    for _ in range(2):
        fetch_weights()
    assert weights_file().read_bytes() == b"weights"
    assert asked == [URL]
    assert [path.name for path in weights_file().parent.iterdir()] == [NAME]


@pytest.mark.parametrize("midway", [False, True])
def test_a_download_that_fails_names_url_and_path_and_leaves_no_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, midway: bool
) -> None:
    def serve(request: object) -> Response:
        if not midway:
            raise URLError("no route to host")
        response = Response(b"half of the wei")
        response.broken = True
        return response

    monkeypatch.setattr(torch.hub, "urlopen", serve)
    with pytest.raises(UserError, match="connection reset" if midway else "no route to host") as error:
        fetch_weights()
    assert URL in str(error.value)
    assert str(weights_file()) in str(error.value)
    assert list(weights_file().parent.iterdir()) == []


@pytest.mark.usefixtures("shallow")
def test_each_method_has_its_own_distance_to_hr() -> None:
    hr = pictures(0)
    sets = {"same": hr, "dark": pictures(0, high=100), "other": pictures(1, count=5)}
    scores = FID(list(sets), CPU)
    scores.add_hr(hr)
    for method, sr in sets.items():
        scores.add_sr(method, sr)
    distances = scores.compute()
    expected = {method: distance(features(hr), features(sr)) for method, sr in sets.items()}
    assert list(distances) == list(sets)
    assert all(type(value) is float for value in distances.values())
    assert expected["dark"] > 2 * expected["other"] > 0
    tolerance = 1e-5 * expected["dark"]
    assert distances["same"] == pytest.approx(0, abs=tolerance)
    assert distances == pytest.approx(expected, rel=1e-4, abs=tolerance)


@pytest.mark.usefixtures("shallow")
def test_batches_of_any_size_and_8_bit_images_and_floats_agree() -> None:
    hr, sr = pictures(0, 4), pictures(1, 4)
    scores = FID(["at once", "singly", "floats"], CPU)
    scores.add_hr(hr[:3] / 255)
    scores.add_hr(hr[3:])
    scores.add_sr("at once", sr)
    for picture in sr:
        scores.add_sr("singly", picture[None])
    scores.add_sr("floats", sr / 255)
    distances = scores.compute()
    expected = distance(features(hr), features(sr))
    assert expected > 0
    assert distances == pytest.approx(dict.fromkeys(distances, expected), rel=1e-4)


@pytest.mark.usefixtures("random_weights")
def test_all_methods_share_a_network_that_moves_to_the_device_with_the_first() -> None:
    scores = FID(["a", "b"], torch.device("meta"))
    assert {parameter.device.type for parameter in scores._sr["b"].inception.parameters()} <= {"meta"}


@pytest.mark.usefixtures("random_weights")
def test_features_are_the_2048_of_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    products: list[Tensor] = []

    def eigenvalues(product: Tensor) -> Tensor:
        products.append(product)
        return torch.zeros(len(product), dtype=torch.complex128)  # the true ones would take long

    monkeypatch.setattr(torch.linalg, "eigvals", eigenvalues)
    scores = FID(["bicubic"], CPU)
    scores.add_hr(pictures(0, 2))
    scores.add_sr("bicubic", pictures(1, 2))
    scores.compute()
    assert [product.shape for product in products] == [(2048, 2048)]
