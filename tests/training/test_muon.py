"""Muon: against torch's own for matrices, against Adam for the rest, and against the singular values it promises."""

from functools import partial

import pytest
import torch
from torch import nn

from srgan.errors import UserError
from srgan.training.muon import Muon, orthogonal


def step(optimizer, parameters, gradients):
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_matrices_are_updated_as_by_torchs_muon(shape):
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([ours], lr=0.01)
    torchs = torch.optim.Muon([theirs], lr=0.01, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn(shape)
        step(muon, [ours], [gradient])
        step(torchs, [theirs], [gradient])
    # torch's works in bf16
    assert (ours - theirs).abs().max() < 0.03 * (theirs - start).abs().max()


def test_a_convolution_is_a_matrix_whatever_its_memory_format():
    torch.manual_seed(0)
    weight, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    matrix, image = nn.Parameter(weight.flatten(1)), nn.Parameter(weight.clone())
    last = nn.Parameter(weight.to(memory_format=torch.channels_last))
    step(Muon([matrix]), [matrix], [gradient.flatten(1)])
    step(Muon([image, last]), [image, last], [gradient, gradient.to(memory_format=torch.channels_last)])
    torch.testing.assert_close(image.flatten(1), matrix)
    torch.testing.assert_close(last, image)


def test_vectors_are_updated_as_by_adam():
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.ones(7)), nn.Parameter(torch.ones(7))
    muon, adam = Muon([ours], lr=0.01, betas=(0.8, 0.9)), torch.optim.Adam([theirs], lr=0.01, betas=(0.8, 0.9))
    for _ in range(5):
        gradient = torch.randn(7)
        step(muon, [ours], [gradient])
        step(adam, [theirs], [gradient])
    torch.testing.assert_close(ours, theirs)


def test_singular_values_come_near_one_and_directions_stay():
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(3, 12, 12))[0], torch.linalg.qr(torch.randn(3, 30, 12))[0]
    values = torch.logspace(0, -1.5, 12)
    result = orthogonal(1e-4 * (left * values) @ right.mT)
    inner = left.mT @ result @ right  # diagonal if the singular vectors are the same
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    torch.testing.assert_close(inner, torch.diag_embed(diagonal), atol=1e-4, rtol=0)
    assert not orthogonal(torch.zeros(1, 3, 5)).any()


def test_it_goes_on_from_its_state_and_takes_the_rate_as_a_tensor():
    def trained(changes):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
        optimizer = Muon(network.parameters(), lr=0.01)
        for index in range(6):
            if index == 3:
                optimizer = changes(optimizer, network)
            optimizer.zero_grad()
            network(torch.ones(1, 3, 9, 9)).square().mean().backward()
            optimizer.step()
        return torch.cat([p.flatten() for p in network.parameters()])

    def resumed(optimizer, network):
        other = Muon(network.parameters(), lr=0.5)
        other.load_state_dict(optimizer.state_dict())
        return other

    def tensor(optimizer, network):
        optimizer.param_groups[0]["lr"] = torch.tensor(0.01)
        return optimizer

    plain = trained(lambda optimizer, network: optimizer)
    assert torch.equal(trained(resumed), plain)
    torch.testing.assert_close(trained(tensor), plain)


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"momentum": 1.0}, {"betas": (0.9, 1.5)}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="expected 0 or more"):
        partial(Muon, **options)([nn.Parameter(torch.zeros(2, 2))])
