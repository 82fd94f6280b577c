import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.imresize import imresize
from srgan.models.generators import Compact, Generator, SRResNet

SCALES = (2, 3, 4, 8)
SHUFFLES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


def small(kind: type[Generator], scale: int) -> Generator:
    torch.manual_seed(0)
    return kind(scale, channels=8, blocks=1)


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("size", [(6, 6), (4, 9), (7, 5)])
@pytest.mark.parametrize("scale", SCALES)
def test_sr_is_scale_times_as_large_as_lr(kind: type[Generator], size: tuple[int, int], scale: int) -> None:
    generator = small(kind, scale)
    assert generator.scale == scale
    assert generator(random_images(2, 3, *size)).shape == (2, 3, scale * size[0], scale * size[1])


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("scale", SCALES)
def test_upsampling_takes_one_stage_for_each_prime_factor_of_the_scale(kind: type[Generator], scale: int) -> None:
    factors = [m.upscale_factor for m in small(kind, scale).modules() if isinstance(m, nn.PixelShuffle)]
    assert factors == list(SHUFFLES[scale])


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("scale", [0, 1, 5, 6, 16])
def test_an_unsupported_scale_is_refused_with_those_that_work(kind: type[Generator], scale: int) -> None:
    with pytest.raises(UserError, match=rf"scale {scale};.*2, 3, 4 or 8"):
        kind(scale, 4, 1)


@pytest.mark.parametrize("scale", SCALES)
def test_srresnet_has_the_weights_of_the_papers_figure(scale: int) -> None:
    head = 9 * 9 * 3 * 64 + 64 + 1  # convolution with bias, one PReLU slope
    block = 2 * (3 * 3 * 64 * 64 + 2 * 64) + 1  # convolutions without bias, BN's gain and shift
    after_blocks = 3 * 3 * 64 * 64 + 2 * 64
    stages = sum(3 * 3 * 64 * 64 * r * r + 64 * r * r + 1 for r in SHUFFLES[scale])
    tail = 9 * 9 * 64 * 3 + 3
    with torch.device("meta"):
        found = sum(p.numel() for p in SRResNet(scale, 64, 16).parameters())
    assert found == head + 16 * block + after_blocks + stages + tail


def test_srresnet_at_x4_has_1550_thousand_weights_33_normalisations_and_19_prelus() -> None:
    with torch.device("meta"):
        generator = SRResNet(4, 64, 16)
    assert round(sum(p.numel() for p in generator.parameters()) / 1e6, 2) == 1.55
    assert count(generator, nn.BatchNorm2d) == 2 * 16 + 1
    assert count(generator, nn.PReLU) == 1 + 16 + 2


def test_compact_has_no_batch_normalisation() -> None:
    assert count(Compact(4, 32, 8), nn.BatchNorm2d) == 0


def test_srresnet_maps_zero_of_its_last_convolution_to_the_middle_of_the_range() -> None:
    generator = small(SRResNet, 2)
    last = [m for m in generator.modules() if isinstance(m, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    for level, expected in ((-1.0, 0.0), (0.0, 0.5), (1.0, 1.0)):
        nn.init.constant_(last.bias, level)
        assert torch.equal(generator(random_images(1, 3, 4, 4)), torch.full((1, 3, 8, 8), expected))


@pytest.mark.parametrize("scale", SCALES)
def test_compact_starts_as_bicubic_interpolation_exactly(scale: int) -> None:
    lr = random_images(2, 3, 7, 9)
    assert torch.equal(Compact(scale, 32, 8)(lr), imresize(lr, scale))


@pytest.mark.parametrize("kind", [SRResNet, Compact])
def test_under_autocast_sr_is_float32(kind: type[Generator]) -> None:
    generator, lr = small(kind, 2), random_images(2, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sr = generator(lr)
    assert sr.dtype == torch.float32
    torch.testing.assert_close(sr, generator(lr), atol=0.05, rtol=0)


def test_autocast_does_not_round_the_bicubic_part_of_compact() -> None:
    generator, lr = Compact(4, 32, 8), random_images(1, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(generator(lr), imresize(lr, 4))


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("scale", SCALES)
def test_a_few_steps_lower_the_loss_and_reach_every_weight(kind: type[Generator], scale: int) -> None:
    generator = small(kind, scale)
    before = {name: p.detach().clone() for name, p in generator.named_parameters()}
    lr = random_images(2, 3, 6, 6)
    hr = 0.5 * imresize(lr, scale)
    optimizer = torch.optim.Adam(generator.parameters(), lr=3e-3)
    losses: list[float] = []
    for _ in range(12):
        loss = F.mse_loss(generator(lr), hr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert math.isfinite(losses[-1])
    assert losses[-1] < 0.9 * losses[0]
    still = [name for name, p in generator.named_parameters() if torch.equal(p, before[name])]
    assert not still


@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize(("scale", "blocks"), [(2, 0), (3, 1), (4, 3), (8, 0)])
def test_an_sr_pixel_depends_on_lr_pixels_as_far_as_the_receptive_field_and_no_farther(
    kind: type[Generator], scale: int, blocks: int
) -> None:
    torch.manual_seed(scale)
    generator = kind(scale, channels=4, blocks=blocks).eval()
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.uniform_(module.weight, 0.1, 0.2)  # all positive, so that no way through the layers cancels another
        if isinstance(module, nn.PReLU):
            nn.init.ones_(module.weight)
    radius = generator.receptive_field
    middle = radius + 2
    lr = random_images(1, 3, 2 * middle + 1, 2 * middle + 1).requires_grad_()
    sr = generator(lr)[..., scale * middle : scale * (middle + 1), scale * middle : scale * (middle + 1)]
    (gradient,) = torch.autograd.grad(sr.sum(), lr)
    rows, columns = gradient[0].abs().amax(0).nonzero().sub(middle).unbind(1)
    assert (int(rows.min()), int(rows.max())) == (-radius, radius)
    assert (int(columns.min()), int(columns.max())) == (-radius, radius)
