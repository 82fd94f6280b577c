import pytest
import torch
from torch import nn

from srgan.models.folding import FoldedCompact, FoldedSRResNet, fold
from srgan.models.generators import Compact, Generator, SRResNet

kinds = pytest.mark.parametrize("kind", [SRResNet, Compact])


def trained(kind: type[Generator], scale: int) -> Generator:
    """A generator in training mode whose normalisations are no identities."""
    torch.manual_seed(scale)
    generator = kind(scale, channels=8, blocks=2)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.1)
    return generator


@kinds
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_a_folded_generator_gives_the_same_sr_without_normalisation(kind: type[Generator], scale: int) -> None:
    generator = trained(kind, scale)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    folded, lr = fold(generator), torch.rand(2, 3, 7, 6)
    assert (folded.scale, folded.receptive_field) == (scale, generator.receptive_field)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    # The kernels that take the last convolution, or bicubic interpolation, before the shuffle are made once.
    assert isinstance(folded, FoldedSRResNet if kind is SRResNet else FoldedCompact)
    kernel = (folded.tail if isinstance(folded, FoldedSRResNet) else folded.bicubic[1]).weight
    factor = 3 if scale == 3 else 2
    assert kernel.shape == ((3 * factor**2, 8 * factor**2, 5, 5) if kind is SRResNet else (3 * scale**2, 1, 5, 5))
    assert generator.training and not any(module.training for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    torch.testing.assert_close(folded(lr), generator.eval()(lr), atol=2e-5, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


@kinds
def test_a_folded_generator_in_bfloat16_errs_no_more_than_the_generator(kind: type[Generator]) -> None:
    generator, lr = trained(kind, 4).eval(), torch.rand(1, 3, 9, 8)
    expected = generator(lr)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        results = [network(lr) for network in (generator, fold(generator))]
        half = fold(generator)(lr.bfloat16())
    assert all(sr.dtype == torch.float32 for sr in (*results, half))
    errors = [float((sr - expected).detach().abs().mean()) for sr in results]
    assert errors[1] < 1.5 * errors[0]
