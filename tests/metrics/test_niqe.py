"""NIQE against a second implementation, against figures of Set5, and where its model of pristine photographs is not."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate
from scipy.special import gamma
from torch import Tensor

from srgan.errors import UserError
from srgan.imresize import imresize
from srgan.metrics import niqe
from srgan.metrics.niqe import NIQE, block_features, load, model_file

Plane = NDArray[np.float64]


@pytest.fixture
def picture(generator: torch.Generator) -> Tensor:
    """Smooth shapes with noise: (1, 3, 200, 300) uint8 without a flat region, six blocks of 96×96."""
    shapes = imresize(torch.rand((1, 3, 25, 38), generator=generator), 8)[..., :200, :300]
    return (shapes + 0.05 * torch.randn(shapes.shape, generator=generator)).clamp(0.02, 0.98).mul(255).byte()


def pristine(path: Path, seed: int = 0) -> Path:
    """A model in the published files' format, with a covariance that can be inverted."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(36, 36))
    np.savez(path, mu_pris_param=rng.normal(size=(1, 36)), cov_pris_param=root @ root.T + np.eye(36))
    return path


# --- a second implementation: plain loops over the paper's equations -------------------------------------------------


def fit(x: Plane) -> tuple[float, float, float]:
    """Shape, left and right scale; the shape by bisection instead of a table."""
    left, right = math.sqrt((x[x < 0] ** 2).mean()), math.sqrt((x[x >= 0] ** 2).mean())
    ratio = left / right
    wanted = np.abs(x).mean() ** 2 / (x**2).mean() * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    low, high = 0.2, 10.0
    for _ in range(60):
        shape = (low + high) / 2
        given = gamma(2 / shape) ** 2 / (gamma(1 / shape) * gamma(3 / shape))
        low, high = (shape, high) if given < wanted else (low, shape)
    scale = math.sqrt(gamma(1 / low) / gamma(3 / low))
    return low, left * scale, right * scale


def features_of_block(x: Plane) -> list[float]:
    shape, left, right = fit(x)
    features = [shape, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        neighbour = np.empty_like(x)
        for row in range(len(x)):
            for column in range(x.shape[1]):
                neighbour[row, column] = x[row - down, (column - across) % x.shape[1]]
        shape, left, right = fit(x * neighbour)
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return features


def features_by_loops(luma: Plane) -> Plane:
    offset = np.arange(7) - 3
    taps = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * (7 / 6) ** 2))
    taps /= taps.sum()
    rows, columns = (side // 96 for side in luma.shape)
    luma = luma[: rows * 96, : columns * 96]
    half = imresize(torch.from_numpy(luma)[None], 0.5, "symmetric")[0].numpy()
    scales: list[list[list[float]]] = []
    for plane, side in ((luma, 96), (half, 48)):
        mean = correlate(plane, taps, mode="nearest")
        deviation = np.sqrt(np.abs(correlate(plane**2, taps, mode="nearest") - mean**2))
        x = (plane - mean) / (deviation + 1)
        blocks = [x[r * side : (r + 1) * side, c * side : (c + 1) * side] for r in range(rows) for c in range(columns)]
        scales.append([features_of_block(block) for block in blocks])
    return np.concatenate(scales, 1)


def rounded_luma(picture: Tensor) -> Plane:
    red, green, blue = picture[0].numpy().astype(np.float64)
    return np.floor(16.5 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255)


def test_features_and_distance_are_those_of_a_second_implementation(picture: Tensor, tmp_path: Path) -> None:
    luma = rounded_luma(picture)
    expected = features_by_loops(luma)
    assert expected.shape == (6, 36)
    features = block_features(torch.from_numpy(luma)[None])
    np.testing.assert_allclose(features.numpy(), expected, rtol=0.01, atol=1e-3)  # shapes are looked up in a table

    path = pristine(tmp_path / "model.npz")
    model = np.load(path)
    difference = model["mu_pris_param"][0] - features.numpy().mean(0)
    covariance = (model["cov_pris_param"] + np.cov(features.numpy(), rowvar=False)) / 2
    distance = math.sqrt(difference @ np.linalg.solve(covariance, difference))
    assert float(NIQE(path, 0)(picture)) == pytest.approx(distance, rel=1e-9)


def test_the_border_is_cut_off_first_and_floats_are_rounded(picture: Tensor, tmp_path: Path) -> None:
    path = pristine(tmp_path / "model.npz")
    assert torch.equal(NIQE(path, 4)(picture), NIQE(path, 0)(picture[..., 4:-4, 4:-4]))
    assert torch.equal(NIQE(path, 4)(picture / 255), NIQE(path, 4)(picture))
    assert not NIQE(path, 4).state_dict()


def test_an_image_of_fewer_than_two_blocks_that_are_not_flat_has_no_niqe(picture: Tensor, tmp_path: Path) -> None:
    measure = NIQE(pristine(tmp_path / "model.npz"), 0)
    for small in (picture[..., :96, :191], picture[..., :50, :50]):
        assert measure(small).isnan().tolist() == [True]
    flat = torch.full_like(picture, 80)
    assert measure(torch.cat([flat, picture])).isnan().tolist() == [True, False]
    picture[..., :96] = 80  # two of six blocks
    assert not measure(picture).isnan()


# By the function of mmagic 1.2.0, given the same luma in float64.
SET5_X4 = {"HR": 5.508, "bicubic": 8.447}


def test_figures_of_set5_are_those_of_another_package(set5: Callable[[int], list[tuple[Tensor, Tensor]]]) -> None:
    path = model_file()
    if path is None:
        pytest.skip(f"needs a model of pristine photographs: {niqe.INSTALL}")
    measure = NIQE(path, 4)
    pictures = {"HR": [hr for _, hr in set5(4)], "bicubic": [imresize(lr, 4) for lr, _ in set5(4)]}
    for name, images in pictures.items():
        mean = torch.cat([measure(image) for image in images]).mean()
        assert float(mean) == pytest.approx(SET5_X4[name], abs=0.03), name


# --- the model of pristine photographs -------------------------------------------------------------------------------


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages in which those that bring the model are not, wherever else they are."""
    monkeypatch.setattr(niqe, "MODELS", {"pristine_photographs": "data/model.npz"})
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_model_is_found_in_a_package_that_is_not_imported(packages: Path) -> None:
    data = packages / "pristine_photographs" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise ImportError('its dependencies are not installed')")
    assert model_file() is None
    pristine(data / "model.npz")
    assert model_file() == data / "model.npz"
    assert isinstance(load(4), NIQE) and "pristine_photographs" not in sys.modules


def test_without_a_model_niqe_is_left_out_and_the_log_says_how_to_get_one(
    packages: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "srgan"):
        assert load(4) is None
    (line,) = caplog.messages
    assert "NIQE is not measured" in line and "pip install --no-deps mmagic" in line


def test_a_file_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", mu_pris_param=np.zeros(35), cov_pris_param=np.zeros((36, 36)))
    (tmp_path / "text.npz").write_text("text")
    np.savez(tmp_path / "empty.npz")
    for name in ("other", "text", "empty"):
        with pytest.raises(UserError, match=f"{name}.npz: not a model for NIQE"):
            NIQE(tmp_path / f"{name}.npz", 4)
