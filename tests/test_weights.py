"""What comes with the package is what its card says."""

from pathlib import Path
from typing import Any

import pytest

from srgan import load_generator, weights
from srgan.data.sources import photo_splits
from srgan.images import crop_to_multiple, decode, luma, shave, to_uint8
from srgan.imresize import imresize
from srgan.metrics.lpips import LPIPS
from srgan.metrics.psnr import psnr
from srgan.models import checkpoints


@pytest.mark.parametrize("name", weights.names())
def test_weights_are_small_and_say_what_they_are_as_their_card_does(name: str) -> None:
    path = weights.find(name)
    assert path.stat().st_size < 7e6
    description = checkpoints.describe(path)
    about: dict[str, Any] = description["about"]
    scale = int(name[-1])
    assert description["generator"]["scale"] == about["scale"] == scale == checkpoints.load(path).scale
    assert {"architecture", "weights", "steps", "loss", "data", "note", "git_commit", "versions"} <= about.keys()
    own = about["figures"]["Set5"]["own"]
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    for protocol in ("paper", "matlab", "rgb"):
        assert own[protocol].keys() == {"psnr", "ssim"}
        assert f"{own[protocol]['psnr']:.2f} / {own[protocol]['ssim']:.4f}" in card


def test_the_names_are_those_of_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert weights.names()
    for name in weights.names():
        assert f"[`{name}`](src/srgan/weights/{name}.md)" in readme


def gain_on_photographs(name: str) -> float:
    """PSNR above bicubic's in dB on Y, the mean over photographs that are in scikit-image."""
    upscale = load_generator(name, "cpu", "fp32")
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
@pytest.mark.parametrize("name", weights.names())
def test_the_figures_of_set5_are_those_in_file_and_card(
    name: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights/torch_home"))
    lpips = LPIPS("alex")
    upscale = load_generator(name, "cpu", "fp32")
    folder = shared / f"data/benchmarks/Set5/x{upscale.scale}"
    decibels: list[float] = []
    distances: list[float] = []
    for path in sorted((folder / "LR").glob("*.png")):
        lr, hr = (decode(file.read_bytes(), file.name)[None] for file in (path, folder / "HR" / path.name))
        sr = to_uint8(upscale(lr))
        decibels.append(float(psnr(*(shave(luma(image).round(), upscale.scale) for image in (sr, hr)))))
        distances.append(float(lpips(sr, hr)))
    assert len(decibels) == 5
    own = checkpoints.describe(weights.find(name))["about"]["figures"]["Set5"]["own"]
    assert sum(decibels) / 5 == pytest.approx(own["matlab"]["psnr"], abs=0.002)
    card = weights.find(name).with_suffix(".md").read_text(encoding="utf-8")
    (row,) = (line for line in card.splitlines() if line.startswith("| Set5 |"))
    assert f" {sum(distances) / 5:.4f} " in row
