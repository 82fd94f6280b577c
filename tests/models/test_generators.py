import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.imresize import imresize
from srgan.models.generators import Compact, DenseBlock, Generator, MSRResNet, SRResNet

SCALES = (2, 3, 4, 8)
SHUFFLES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
kinds = pytest.mark.parametrize("kind", [SRResNet, Compact])


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_a_network_without_bn_begins_with_a_tenth_of_hes_weights() -> None:
    """ESRGAN §3.1."""
    torch.manual_seed(0)
    for network in (MSRResNet(4, channels=48, blocks=2), DenseBlock(channels=48, growth=24)):
        convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        assert len(convolutions) >= 5
        for layer in convolutions:
            expected = 0.1 * (2 / (layer.in_channels * 9)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert not layer.bias.any()


def plain_sr(generator: Generator, lr: Tensor, blocks: int) -> Tensor:
    """A second implementation: the layers of Fig. 4 one by one, on the tensors of the state dict by their names."""
    state = dict(generator.named_parameters()) | dict(generator.named_buffers())
    paper = isinstance(generator, SRResNet)

    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, gain, shift = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        scaled = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return scaled * gain[:, None, None] + shift[:, None, None]

    def prelu(x: Tensor, name: str) -> Tensor:
        return torch.where(x > 0, x, state[f"{name}.weight"] * x)

    head = x = prelu(conv(lr, "head.0"), "head.1")
    for block in (f"trunk.{index}.body" for index in range(blocks)):
        if paper:
            y = norm(conv(x, f"{block}.0"), f"{block}.1")
            y = norm(conv(prelu(y, f"{block}.2"), f"{block}.3"), f"{block}.4")
        else:
            y = conv(prelu(conv(x, f"{block}.0"), f"{block}.1"), f"{block}.2")
        x = x + y
    x = conv(x, f"trunk.{blocks}")
    x = head + (norm(x, f"trunk.{blocks + 1}") if paper else x)
    for stage, factor in enumerate(SHUFFLES[generator.scale]):
        x = prelu(F.pixel_shuffle(conv(x, f"upsampling.{stage}.0"), factor), f"upsampling.{stage}.2")
    return (conv(x, "tail") + 1) / 2 if paper else conv(x, "tail") + imresize(lr, generator.scale)


@kinds
@pytest.mark.parametrize("scale", SCALES)
def test_sr_and_all_gradients_are_those_of_a_second_implementation(kind: type[Generator], scale: int) -> None:
    torch.manual_seed(scale)
    generator = kind(scale, channels=6, blocks=2).eval()
    for name, value in generator.state_dict().items():
        if value.is_floating_point():
            nn.init.uniform_(value, *((0.5, 2.0) if value.dim() == 1 and "bias" not in name else (-0.2, 0.2)))
    lr = random_images(2, 3, 7, 5)
    results: list[tuple[Tensor, ...]] = []
    for sr in (generator(lr), plain_sr(generator, lr, 2)):
        assert sr.shape == (2, 3, 7 * scale, 5 * scale)
        results.append((sr, *torch.autograd.grad(sr.square().mean(), list(generator.parameters()))))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4 * float(plain.detach().abs().max()), rtol=1e-3)
        assert plain.abs().max() > 0
    assert generator.scale == scale
    enlarged = generator.tail(generator.upsampling(torch.zeros(1, 6, 2, 3)))  # the plain order works as well
    assert enlarged.shape == (1, 3, 2 * scale, 3 * scale)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sr = generator(lr)
    assert sr.dtype == torch.float32
    torch.testing.assert_close(sr, results[0][0], atol=0.05 * float(sr.detach().abs().max()), rtol=0)


@kinds
def test_an_unsupported_scale_is_refused_with_those_that_work(kind: type[Generator]) -> None:
    for scale in (0, 1, 5, 6, 16):
        with pytest.raises(UserError, match=rf"no generator for scale {scale};.*2, 3, 4 or 8"):
            kind(scale, 4, 1)


@pytest.mark.parametrize("scale", SCALES)
def test_srresnet_has_the_weights_of_the_papers_figure(scale: int) -> None:
    head = 9 * 9 * 3 * 64 + 64 + 1  # convolution with bias, one PReLU slope
    block = 2 * (3 * 3 * 64 * 64 + 2 * 64) + 1  # convolutions without bias, BN's gain and shift
    after_blocks, tail = 3 * 3 * 64 * 64 + 2 * 64, 9 * 9 * 64 * 3 + 3
    stages = sum(3 * 3 * 64 * 64 * r * r + 64 * r * r + 1 for r in SHUFFLES[scale])
    with torch.device("meta"):
        weights = sum(p.numel() for p in SRResNet(scale, 64, 16).parameters())
    assert weights == head + 16 * block + after_blocks + stages + tail
    assert scale != 4 or weights == 1_547_350  # 1.55 M


def test_compact_has_biases_in_place_of_normalisations() -> None:
    head, block, after_blocks = 9 * 3 * 32 + 32 + 1, 2 * (9 * 32 * 32 + 32) + 1, 9 * 32 * 32 + 32
    stage, tail = 9 * 32 * 128 + 128 + 1, 9 * 32 * 3 + 3
    weights = sum(p.numel() for p in Compact(4, 32, 8).parameters())
    assert weights == head + 8 * block + after_blocks + 2 * stage + tail == 232_974


@pytest.mark.parametrize("scale", SCALES)
def test_compact_starts_as_bicubic_interpolation_exactly_also_under_autocast(scale: int) -> None:
    generator, lr = Compact(scale, 32, 8), random_images(2, 3, 7, 9)
    assert torch.equal(generator(lr), imresize(lr, scale))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(generator(lr), imresize(lr, scale))
        half = lr.bfloat16()
        assert torch.equal(generator(half), imresize(half.float(), scale))
