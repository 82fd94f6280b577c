from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from srgan.imresize import imresize
from srgan.metrics.daala import daala_ssim
from srgan.metrics.protocol import FACES, FACES_ROUNDED, MATLAB, ON_REQUEST, PAPER, PROTOCOLS, RGB, Protocol
from srgan.metrics.scores import protocol_scores
from srgan.metrics.ssim import ssim

Pairs = list[tuple[Tensor, Tensor]]


def pictures(seed: int, count: int = 2) -> Tensor:
    """8-bit noise, (count, 3, 30, 36)."""
    return torch.randint(0, 256, (count, 3, 30, 36), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def nearest(images: Tensor, scale: int) -> Tensor:
    return images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def mean_scores(pairs: Pairs, scale: int, protocol: Protocol) -> tuple[str, str]:
    """Mean PSNR and SSIM of pairs of SR and HR, to the digits that are published."""
    scores = [protocol_scores(sr, hr, scale, protocol) for sr, hr in pairs]
    psnr, ssim = (torch.cat([each[name] for each in scores]).mean() for name in ("psnr", "ssim"))
    return f"{psnr:.3f}", f"{ssim:.4f}"


@pytest.mark.parametrize(
    ("scale", "protocol", "published"),
    [
        (2, MATLAB, ("33.640", "0.9292")),
        (3, MATLAB, ("30.386", "0.8678")),
        (4, MATLAB, ("28.418", "0.8101")),
        (4, PAPER, ("28.430", "0.8211")),  # Table 2 of the paper: 28.43 and 0.8211
        (2, RGB, ("31.787", "0.9086")),
        (3, RGB, ("28.625", "0.8383")),
        (4, RGB, ("26.693", "0.7731")),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_bicubic_on_set5_has_its_published_figures(
    set5: Callable[[int], Pairs], scale: int, protocol: Protocol, published: tuple[str, str]
) -> None:
    assert mean_scores([(imresize(lr, scale), hr) for lr, hr in set5(scale)], scale, protocol) == published


def test_under_the_papers_protocol_nearest_on_set5_has_the_psnr_of_its_table_2(set5: Callable[[int], Pairs]) -> None:
    psnr, _ = mean_scores([(nearest(lr, 4), hr) for lr, hr in set5(4)], 4, PAPER)
    assert f"{float(psnr):.2f}" == "26.26"


def test_each_protocol_is_found_by_its_name() -> None:
    assert list(PROTOCOLS) == ["paper", "matlab", "rgb"]
    assert all(protocol.name == name for name, protocol in (PROTOCOLS | ON_REQUEST).items())


@pytest.mark.parametrize(("protocol", "half"), [(FACES, 0), (FACES_ROUNDED, 127_500)])
def test_faces_are_scored_as_sparnets_code_does(protocol: Protocol, half: float) -> None:
    """Y cut off to 8 bits, here in whole numbers of 1/255,000; no border; scikit-image's SSIM with Gaussian windows."""
    sr, hr = pictures(0, 1), pictures(1, 1)
    hr = hr // 4 + 3 * (sr // 4)  # alike
    sr[..., :4], hr[..., :4] = 85, 170  # Y is a whole number
    weights = np.array([65_481, 128_553, 24_966])
    sums = (image[0].permute(1, 2, 0).numpy() @ weights + 16 * 255_000 for image in (sr, hr))
    x, y = (((total + half) // 255_000).astype(np.uint8) for total in sums)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    scores = protocol_scores(sr, hr, 8, protocol)
    assert float(scores["psnr"]) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255), abs=1e-9)
    assert float(scores["ssim"]) == pytest.approx(structural_similarity(y, x, **gaussian), abs=1e-9)


@pytest.mark.parametrize("rounded", [False, True])
def test_luma_is_scikit_images(rounded: bool) -> None:
    images = pictures(0)
    y = rgb2ycbcr(images.permute(0, 2, 3, 1).numpy())[..., 0]
    expected = np.floor(y + 0.5) if rounded else y
    luma = Protocol("test", planes="rounded y" if rounded else "y", border=0, ssim="wang").prepare(images, 4)
    assert luma.shape == (2, 1, 30, 36)
    np.testing.assert_allclose(luma[:, 0].numpy(), expected, rtol=0, atol=1e-9)


def test_the_papers_luma_is_not_rounded_and_matlabs_is() -> None:
    assert (PAPER.prepare(pictures(0), 4) % 1 != 0).any()
    assert (MATLAB.prepare(pictures(0), 4) % 1 == 0).all()


@pytest.mark.parametrize(
    ("protocol", "scale"), [(MATLAB, 2), (RGB, 3), (MATLAB, 8)], ids=["matlab x2", "rgb x3", "matlab x8"]
)
def test_the_border_is_as_wide_as_the_scale_unless_it_is_given(protocol: Protocol, scale: int) -> None:
    whole, five = (Protocol("test", protocol.planes, border, "wang").prepare(pictures(0), scale) for border in (0, 5))
    assert torch.equal(protocol.prepare(pictures(0), scale), whole[..., scale : 30 - scale, scale : 36 - scale])
    assert torch.equal(five, whole[..., 5:25, 5:31])


def test_the_papers_border_is_of_4_pixels_at_any_scale() -> None:
    whole = Protocol("whole", planes="y", border=0, ssim="daala").prepare(pictures(0), 2)
    for scale in (2, 4, 8):
        assert torch.equal(PAPER.prepare(pictures(0), scale), whole[..., 4:26, 4:32])


def test_psnr_and_ssim_under_rgb_are_scikit_images() -> None:
    scale = 3
    hr = pictures(0)
    noise = 40 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(1))
    sr = (hr + noise).round().clamp(0, 255).to(torch.uint8)
    psnrs: list[float] = []
    ssims: list[float] = []
    for picture, original in zip(sr.numpy(), hr.numpy(), strict=True):
        x, y = (each[:, scale:-scale, scale:-scale] for each in (picture, original))
        psnrs.append(peak_signal_noise_ratio(y, x))
        for plane_x, plane_y in zip(x, y, strict=True):
            options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
            _, full = structural_similarity(plane_x, plane_y, full=True, **options)
            ssims.append(full[5:-5, 5:-5].mean())
    scores = protocol_scores(sr, hr, scale, RGB)
    assert scores["psnr"].tolist() == pytest.approx(psnrs, rel=1e-12)
    assert scores["ssim"].tolist() == pytest.approx([np.mean(ssims[:3]), np.mean(ssims[3:])], abs=1e-9)


def test_a_protocol_names_its_ssim() -> None:
    for name, function in (("wang", ssim), ("daala", daala_ssim)):
        protocol = Protocol("test", planes="rounded y", border=2, ssim=name)
        x, y = protocol.prepare(pictures(0), 4), protocol.prepare(pictures(1), 4)
        assert torch.equal(protocol_scores(pictures(0), pictures(1), 4, protocol)["ssim"], function(x, y))
        assert abs(float(ssim(x, y).mean() - daala_ssim(x, y).mean())) > 0.01


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_an_image_that_is_nothing_but_border_is_refused(protocol: Protocol) -> None:
    border = 4 if protocol is PAPER else 8
    assert protocol.prepare(pictures(0)[..., : 2 * border + 1, : 2 * border + 1], 8).shape[-2:] == (1, 1)
    for small in (pictures(0)[..., : 2 * border], pictures(0)[..., : 2 * border, :]):
        with pytest.raises(ValueError, match="nothing but border"):
            protocol.prepare(small, 8)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_floats_are_clamped_and_rounded_to_8_bits_first(protocol: Protocol) -> None:
    assert torch.equal(protocol.prepare(pictures(0), 4), protocol.prepare(pictures(0) / 255, 4))
    x = 2 * torch.rand((2, 3, 20, 20), generator=torch.Generator().manual_seed(0)) - 0.5
    in_a_file = torch.from_numpy(np.rint(255 * np.clip(x.numpy(), 0, 1)).astype(np.uint8))
    assert torch.equal(protocol.prepare(x, 2), protocol.prepare(in_a_file, 2))
