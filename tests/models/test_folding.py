import pytest
import torch
from torch import nn
from torch.nn import functional as F

from srgan.imresize import imresize
from srgan.models.folding import bicubic_before_shuffle, conv_before_shuffle, fold
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


@pytest.mark.parametrize("kind", [SRResNet, Compact])
def test_a_folded_generator_makes_no_kernels_when_it_runs(kind: type[Generator]) -> None:
    def made(generator: Generator) -> bool:
        graph_module = torch.export.export(generator, (torch.rand(1, 3, 7, 6),)).graph_module
        graphs = [module.graph for module in graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
        called = {str(node.target) for graph in graphs for node in graph.nodes}
        assert "aten.conv2d.default" in called
        return "aten.arange.default" in called

    assert not made(fold(used(kind, 4)))
    assert made(used(SRResNet, 4)), "it would not be seen"


@pytest.mark.parametrize(("side", "factor"), [(9, 2), (9, 3), (3, 2), (1, 2), (5, 4)])
def test_a_convolution_goes_before_a_shuffle(side: int, factor: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 3, side, padding=side // 2).double()
    x = torch.rand(2, 4 * factor**2, 7, 6, dtype=torch.float64)
    before = conv_before_shuffle(conv, factor)
    torch.testing.assert_close(F.pixel_shuffle(before(x), factor), conv(F.pixel_shuffle(x, factor)))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_bicubic_enlargement_goes_before_a_shuffle(scale: int) -> None:
    x = torch.rand(2, 3, 1, 6)
    padded = F.pad(x, (2, 2, 2, 2), mode="replicate")
    enlarged = F.pixel_shuffle(bicubic_before_shuffle(scale)(padded), scale)
    torch.testing.assert_close(enlarged, imresize(x, scale), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", [SRResNet, Compact])
def test_a_folded_generator_in_bfloat16_errs_no_more_than_the_generator(kind: type[Generator]) -> None:
    generator, lr = used(kind, 4), torch.rand(1, 3, 9, 8)
    expected = generator(lr)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        errors = [float((network(lr) - expected).abs().mean()) for network in (generator, fold(generator))]
    assert errors[1] < 1.5 * errors[0]
