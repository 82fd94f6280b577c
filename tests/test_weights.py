"""What comes with the package is what its card says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from srgan import load_generator, weights
from srgan.data.sources import photo_splits
from srgan.images import crop_to_multiple, decode, luma, shave, to_uint8
from srgan.imresize import imresize
from srgan.metrics.psnr import psnr
from srgan.models import checkpoints

SET5 = Path(__file__).parents[2] / "shared/data/benchmarks/Set5"


@pytest.mark.parametrize("name", weights.names())
def test_weights_are_small_and_say_what_they_are(name: str) -> None:
    path = weights.find(name)
    assert path.stat().st_size < 7e6
    description = checkpoints.describe(path)
    about: dict[str, Any] = description["about"]
    scale = int(name[-1])
    assert description["generator"]["scale"] == about["scale"] == scale == checkpoints.load(path).scale
    assert {"architecture", "weights", "steps", "loss", "data", "note", "git_commit", "versions"} <= about.keys()
    own = about["figures"]["Set5"]["own"]
    assert all(own[protocol].keys() == {"psnr", "ssim"} for protocol in ("paper", "matlab", "rgb"))


@pytest.mark.parametrize("name", weights.names())
def test_each_has_a_card_with_its_own_figures(name: str) -> None:
    card = weights.find(name).with_suffix(".md").read_text(encoding="utf-8")
    own = checkpoints.describe(weights.find(name))["about"]["figures"]["Set5"]["own"]
    for protocol in ("paper", "matlab", "rgb"):
        assert f"{own[protocol]['psnr']:.2f} / {own[protocol]['ssim']:.4f}" in card


def test_the_names_are_those_of_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert weights.names()
    for name in weights.names():
        assert f"[`{name}`](src/srgan/weights/{name}.md)" in readme


def gain_on_photographs(name: str) -> float:
    """dB over bicubic on Y, the mean of photographs that are in scikit-image."""
    upscale = load_generator(name, "cpu")
    splits, gains = photo_splits(), []
    for source in (splits.test, splits.validation):
        for index in range(len(source)):
            picture = decode(source.read(index), source.name(index))[:, 60:320, 60:320].clone()
            hr = crop_to_multiple(picture, upscale.scale)[None]
            lr = imresize(hr, 1 / upscale.scale)
            errors = [
                psnr(shave(luma(sr), upscale.scale), shave(luma(hr), upscale.scale))
                for sr in (upscale(lr), imresize(lr, upscale.scale))
            ]
            gains.append(float(errors[0] - errors[1]))
    return sum(gains) / len(gains)


@pytest.mark.parametrize("name", [name for name in weights.names() if name.startswith("srresnet")])
def test_content_weights_are_far_above_bicubic_on_photographs(name: str) -> None:
    assert gain_on_photographs(name) > 1.0


@pytest.mark.slow
@pytest.mark.skipif(not SET5.is_dir(), reason="needs ../shared/data/benchmarks/Set5")
@pytest.mark.parametrize("name", weights.names())
def test_the_figures_of_set5_are_those_in_the_file(name: str) -> None:
    own = checkpoints.describe(weights.find(name))["about"]["figures"]["Set5"]["own"]
    upscale, found = load_generator(name, "cpu"), []
    for path in sorted((SET5 / f"x{upscale.scale}" / "LR").glob("*.png")):
        lr, hr = (decode(file.read_bytes(), file.name)[None] for file in (path, path.parents[1] / "HR" / path.name))
        planes = [shave(luma(image).round(), upscale.scale) for image in (to_uint8(upscale(lr)), hr)]
        found.append(float(psnr(*planes)))
    assert len(found) == 5
    assert torch.tensor(found).mean().item() == pytest.approx(own["matlab"]["psnr"], abs=0.002)
