import pytest
import torch
from torch import nn

from srgan.models.folding import fold
from srgan.models.generators import Compact, Generator, SRResNet


def used(kind: type[Generator], scale: int) -> Generator:
    """A generator whose normalisations are no identities."""
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
    return generator.eval()


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_a_folded_generator_gives_the_same_sr_without_normalisation(kind: type[Generator], scale: int) -> None:
    generator = used(kind, scale)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    folded, lr = fold(generator), torch.rand(2, 3, 7, 6)
    assert (folded.scale, folded.receptive_field) == (scale, generator.receptive_field)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(lr), generator(lr), atol=2e-5, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_a_generator_in_training_is_folded_with_its_running_statistics() -> None:
    generator = used(SRResNet, 2).train()
    folded, lr = fold(generator), torch.rand(1, 3, 6, 6)
    assert generator.training and not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    torch.testing.assert_close(folded(lr), generator.eval()(lr), atol=2e-5, rtol=1e-4)
