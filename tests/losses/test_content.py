"""Content losses of the field, against numbers worked out by another way, and their gradients by finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from srgan.imresize import imresize
from srgan.losses.frequency import FocalFrequencyLoss
from srgan.losses.pixel import CharbonnierLoss, LRConsistencyLoss


def images(seed: int) -> Tensor:
    return torch.rand((2, 3, 8, 12), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("loss", [CharbonnierLoss(0.1), FocalFrequencyLoss(0.0), LRConsistencyLoss(2)])
def test_gradients_are_those_of_finite_differences(loss: nn.Module) -> None:
    sr = images(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss.double()(x, images(1)), (sr,), atol=1e-3, eps=1e-4)


def test_charbonnier_is_l1_far_from_zero_and_epsilon_at_zero() -> None:
    sr, hr = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.5)
    assert float(CharbonnierLoss(1e-3)(sr, hr)) == pytest.approx((0.25 + 1e-6) ** 0.5)
    assert float(CharbonnierLoss(1e-3)(sr, sr)) == pytest.approx(1e-3)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_focal_frequency_is_the_weighted_distance_of_numpys_spectra(alpha: float) -> None:
    sr, hr = images(0), images(1)
    difference = np.abs(np.fft.fft2((sr - hr).numpy(), norm="ortho"))
    weight = difference**alpha / (difference**alpha).max((-2, -1), keepdims=True)
    expected = (weight * difference**2).mean()
    assert float(FocalFrequencyLoss(alpha)(sr, hr)) == pytest.approx(expected, rel=1e-5)
    if alpha == 0:
        assert expected == pytest.approx(float((sr - hr).square().mean()))  # Parseval
    assert float(FocalFrequencyLoss(alpha)(sr, sr)) == 0


def test_no_gradient_passes_through_the_weights_of_focal_frequency() -> None:
    sr = images(0).requires_grad_()
    (gradient,) = torch.autograd.grad(FocalFrequencyLoss(1.0)(sr, images(1)), sr)
    spectrum = torch.fft.fft2(sr.detach() - images(1), norm="ortho")
    weight = spectrum.abs() / spectrum.abs().amax((-2, -1), keepdim=True)
    expected = 2 * torch.fft.ifft2(weight * spectrum, norm="ortho").real / sr.numel()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)


def test_lr_consistency_sees_colours_and_not_what_the_reduction_removes() -> None:
    hr, loss = images(0), LRConsistencyLoss(2)
    assert float(loss(hr + 0.1, hr)) == pytest.approx(0.1)
    assert float(loss(hr, images(1))) == pytest.approx(
        float((imresize(hr, 0.5) - imresize(images(1), 0.5)).abs().mean())
    )
    checkers = 0.2 * (torch.arange(8)[:, None] + torch.arange(12) % 2 - 0.5).remainder(2).sub(1).sign()
    assert float(loss(hr + checkers, hr)) < 0.2 * 0.1
