from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2ycbcr
from torch import Tensor

from srgan.data.resize import imresize
from srgan.metrics.protocol import MATLAB, Protocol, ProtocolMetric
from srgan.metrics.psnr import PSNR
from srgan.metrics.ssim import SSIM

SET5 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "benchmarks" / "Set5"
METRICS = pytest.mark.parametrize("kind", [PSNR, SSIM])


def read(path: Path) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


def pictures(seed: int, count: int = 2) -> Tensor:
    """8-bit noise, (count, 3, 30, 36)."""
    return torch.randint(0, 256, (count, 3, 30, 36), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def score(metric: ProtocolMetric, *batches: tuple[Tensor, Tensor]) -> float:
    for sr, hr in batches:
        metric.update(sr, hr)
    return float(metric.compute())


@pytest.mark.skipif(not SET5.is_dir(), reason=f"needs {SET5}")
@pytest.mark.parametrize(
    ("scale", "published"),
    [(2, ("33.640", "0.9292")), (3, ("30.386", "0.8678")), (4, ("28.418", "0.8101"))],
)
def test_bicubic_on_set5_has_its_published_figures(scale: int, published: tuple[str, str]) -> None:
    psnr, ssim = PSNR(scale), SSIM(scale)
    files = sorted((SET5 / f"x{scale}" / "LR").iterdir())
    assert len(files) == 5
    for file in files:
        sr, hr = imresize(read(file), scale), read(file.parents[1] / "HR" / file.name)
        psnr.update(sr, hr)
        ssim.update(sr, hr)
    assert (f"{psnr.compute():.3f}", f"{ssim.compute():.4f}") == published


@pytest.mark.parametrize("rounded", [False, True])
def test_luma_is_scikit_images(rounded: bool) -> None:
    images = pictures(0)
    y = rgb2ycbcr(images.permute(0, 2, 3, 1).numpy())[..., 0]
    expected = np.floor(y + 0.5) if rounded else y
    found = Protocol("test", rounded=rounded, border=0).prepare(images, 4)
    assert found.shape == (2, 1, 30, 36)
    np.testing.assert_allclose(found[:, 0].numpy(), expected, rtol=0, atol=1e-9)


def test_black_and_white_have_the_studio_ranges_ends() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 20, 20)
    assert MATLAB.prepare(ends, 4).unique().tolist() == [16, 235]


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_border_is_as_wide_as_the_scale_unless_it_is_given(scale: int) -> None:
    whole = Protocol("whole", rounded=True, border=0).prepare(pictures(0), scale)
    assert torch.equal(MATLAB.prepare(pictures(0), scale), whole[..., scale : 30 - scale, scale : 36 - scale])
    five = Protocol("five", rounded=True, border=5).prepare(pictures(0), scale)
    assert torch.equal(five, whole[..., 5:25, 5:31])


def test_an_image_that_is_nothing_but_border_is_refused() -> None:
    assert MATLAB.prepare(pictures(0)[..., :17, :17], 8).shape == (2, 1, 1, 1)
    with pytest.raises(ValueError, match="nothing but border"):
        MATLAB.prepare(pictures(0)[..., :16], 8)


def test_8_bit_images_and_floats_agree() -> None:
    assert torch.equal(MATLAB.prepare(pictures(0), 4), MATLAB.prepare(pictures(0) / 255, 4))


def test_floats_are_clamped_and_rounded_to_8_bits_first() -> None:
    x = 2 * torch.rand((2, 3, 20, 20), generator=torch.Generator().manual_seed(0)) - 0.5
    in_a_file = torch.from_numpy(np.rint(255 * np.clip(x.numpy(), 0, 1)).astype(np.uint8))
    assert torch.equal(MATLAB.prepare(x, 2), MATLAB.prepare(in_a_file, 2))


@METRICS
def test_batches_of_any_size_give_the_same_mean(kind: type[PSNR] | type[SSIM]) -> None:
    sr, hr = pictures(0, 5), pictures(1, 5)
    sr[0] = hr[0] ^ 1  # one nearly equal pair, so that weights matter
    singly = score(kind(2), *((sr[i : i + 1], hr[i : i + 1]) for i in range(5)))
    unevenly = score(kind(2), (sr[:1], hr[:1]), (sr[1:], hr[1:]))
    at_once = score(kind(2), (sr, hr))
    assert unevenly == pytest.approx(singly, rel=1e-12)
    assert at_once == pytest.approx(singly, rel=1e-12)


@METRICS
def test_two_processes_with_unequal_shares_find_the_mean_of_the_whole(kind: type[PSNR] | type[SSIM]) -> None:
    sr, hr = pictures(0, 4), pictures(1, 4)
    sr[0] = hr[0] ^ 1
    here, there = kind(2), kind(2)
    here.update(sr[:1], hr[:1])
    there.update(sr[1:], hr[1:])

    def gather(mine: Tensor, group: object = None) -> list[Tensor]:
        return [mine, there.total if mine.is_floating_point() else there.count]

    here.dist_sync_fn, here.distributed_available_fn = gather, lambda: True
    assert float(here.compute()) == pytest.approx(score(kind(2), (sr, hr)), rel=1e-12)


@METRICS
def test_a_metric_forgets_when_reset(kind: type[PSNR] | type[SSIM]) -> None:
    metric = kind(2)
    score(metric, (pictures(0), pictures(0) ^ 1))
    metric.reset()
    assert score(metric, (pictures(1), pictures(2))) == score(kind(2), (pictures(1), pictures(2)))
