from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.models.discriminators import (
    KerasDiscriminator,
    PatchDiscriminator,
    ProjectedDiscriminator,
    SRGANDiscriminator,
    UNetDiscriminator,
)


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def small(crop: int) -> SRGANDiscriminator:
    torch.manual_seed(0)
    return SRGANDiscriminator(crop, channels=4, hidden=8)


@pytest.mark.parametrize("crop", [16, 48])
def test_logits_are_those_of_a_second_implementation_of_the_figure(crop: int) -> None:
    """In training, with the statistics of the batch; black and white enter as −1 and 1."""
    discriminator, images = small(crop), random_images(4, 3, crop, crop)
    weights = iter(p for p in discriminator.parameters())
    x = F.leaky_relu(F.conv2d(2 * images - 1, next(weights), next(weights), padding=1), 0.2)
    for stride in (2, 1, 2, 1, 2, 1, 2):
        x = F.conv2d(x, next(weights), stride=stride, padding=1)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        x = F.leaky_relu(x * next(weights)[:, None, None] + next(weights)[:, None, None], 0.2)
    assert x.shape == (4, 8 * 4, crop // 16, crop // 16)
    x = F.leaky_relu(F.linear(x.flatten(1), next(weights), next(weights)), 0.2)
    expected = F.linear(x, next(weights), next(weights))
    assert expected.shape == (4, 1) and next(weights, None) is None
    torch.testing.assert_close(discriminator(images), expected, atol=1e-4, rtol=1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert discriminator(images).dtype == torch.float32


def test_it_has_the_weights_of_the_papers_figure_at_crop_96() -> None:
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    convolutions = 9 * 3 * 64 + 64 + sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    dense = 512 * 6 * 6 * 1024 + 1024 + 1024 + 1
    with torch.device("meta"):
        weights = sum(p.numel() for p in SRGANDiscriminator(96, 64, 1024).parameters())
    assert weights == convolutions + dense == 23_563_649


def test_a_crop_that_does_not_suit_is_refused_with_those_that_do() -> None:
    for crop, suggested in ((100, (96, 112)), (90, (80, 96)), (17, (16, 32)), (8, (16, 32)), (0, (16, 32))):
        with pytest.raises(UserError, match=f"crop {crop} .*data.crop={suggested[0]} or {suggested[1]}"):
            SRGANDiscriminator(crop, 64, 1024)


def test_images_of_another_size_are_refused() -> None:
    for size in ((16, 16), (32, 48), (48, 32)):
        with pytest.raises(ValueError, match="32×32"):
            small(32)(random_images(2, 3, *size))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (70, 31)])
def test_patch_logits_are_those_of_a_second_implementation(height: int, width: int) -> None:
    assert sum(p.numel() for p in PatchDiscriminator(32).parameters()) == 438_689  # 0.44 M
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(4).eval()
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    images = random_images(2, 3, height, width)
    x = 2 * images - 1
    for m, stride, side in zip(convolutions, (1, 2, 1, 2, 1, 2, 1), (3, 4, 3, 4, 3, 4, 3), strict=True):
        assert m.weight.shape[-2:] == (side, side)
        x = F.conv2d(x, m.weight, m.bias, stride, padding=1)
        x = x if m is convolutions[-1] else F.leaky_relu(x, 0.2)
    assert [m.out_channels for m in convolutions] == [4, 4, 8, 8, 16, 16, 1]
    assert x.shape == (2, 1, height // 8, width // 8)
    torch.testing.assert_close(discriminator(images), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert discriminator(images).dtype == torch.float32


def test_a_patch_is_52_pixels_wide() -> None:
    torch.manual_seed(0)
    images = random_images(1, 3, 128, 128).double().requires_grad_()
    PatchDiscriminator(4).double().layers(images)[0, 0, 8, 8].backward()
    assert images.grad is not None
    for seen in (images.grad.abs().sum((0, 1, axis)).nonzero() for axis in (2, 3)):
        assert seen.max() - seen.min() + 1 == 52


def test_a_patch_discriminator_has_no_slope_above_one_in_its_inner_layers() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(4).train()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter *= 50
    for _ in range(100):  # each training pass refines its estimate of the largest singular value
        discriminator(random_images(1, 3, 8, 8))
    first, *inner, last = [m for m in discriminator.eval().layers if isinstance(m, nn.Conv2d)]
    norms = [float(torch.linalg.matrix_norm(m.weight.detach().flatten(1), 2)) for m in (first, *inner, last)]
    assert norms[1:-1] == pytest.approx([1] * 5, abs=0.01)
    assert norms[0] > 2 and norms[-1] > 2, "the first and the last layer are not normalised"


def test_the_keras_recipes_discriminator_is_a_second_implementation_of_its_layers() -> None:
    """LeakyReLU before BN; dense layers at each position; 16×16 validities at 256×256."""
    torch.manual_seed(0)
    discriminator, images = KerasDiscriminator(channels=4, hidden=8), random_images(2, 3, 64, 32)
    weights = iter(discriminator.parameters())
    x = F.leaky_relu(F.conv2d(2 * images - 1, next(weights), next(weights), padding=1), 0.2)
    for stride in (2, 1, 2, 1, 2, 1, 2):
        x = F.leaky_relu(F.conv2d(x, next(weights), next(weights), stride, padding=1), 0.2)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-3).sqrt()
        x = x * next(weights)[:, None, None] + next(weights)[:, None, None]
    for activation in (lambda x: F.leaky_relu(x, 0.2), nn.Identity()):  # a dense layer at each position
        weight, bias = next(weights), next(weights)
        x = activation(F.linear(x.movedim(1, -1), weight[:, :, 0, 0], bias)).movedim(-1, 1)
    assert x.shape == (2, 1, 4, 2) and next(weights, None) is None
    torch.testing.assert_close(discriminator(images), x, atol=1e-4, rtol=1e-3)
    with torch.device("meta"):
        whole = KerasDiscriminator(64, 1024)
        assert whole(torch.empty(1, 3, 256, 256)).shape == (1, 1, 16, 16)
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    convolutions = 9 * 3 * 64 + 64 + sum(9 * a * b + b + 2 * b for a, b in pairwise(widths))
    assert sum(p.numel() for p in whole.parameters()) == convolutions + (512 + 1) * 1024 + 1024 + 1 == 5_215_425


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 50)])
def test_a_unet_gives_a_logit_for_each_pixel_as_a_second_implementation_does(height: int, width: int) -> None:
    torch.manual_seed(0)
    discriminator, images = UNetDiscriminator(4).eval(), random_images(2, 3, height, width)
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    first, *down, up1, up2, up3, tail1, tail2, last = convolutions
    maps = [F.leaky_relu(F.conv2d(2 * images - 1, first.weight, first.bias, padding=1), 0.2)]
    for m in down:
        maps.append(F.leaky_relu(F.conv2d(maps[-1], m.weight, None, 2, padding=1), 0.2))
    x = maps[3]
    for m, skip in ((up1, maps[2]), (up2, maps[1]), (up3, maps[0])):
        x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
        x = F.leaky_relu(F.conv2d(x, m.weight, None, padding=1), 0.2) + skip
    for m in (tail1, tail2):
        x = F.leaky_relu(F.conv2d(x, m.weight, None, padding=1), 0.2)
    x = F.conv2d(x, last.weight, last.bias, padding=1)
    assert x.shape == (2, 1, height, width)
    torch.testing.assert_close(discriminator(images), x, atol=1e-5, rtol=1e-4)
    assert sum(p.numel() for p in UNetDiscriminator(64).parameters()) == 4_376_897  # Real-ESRGAN's
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert discriminator(images).dtype == torch.float32


def test_projected_heads_judge_vgg_maps_of_any_brightness_and_only_they_learn() -> None:
    torch.manual_seed(0)
    discriminator, images = ProjectedDiscriminator({"conv1_2": 4, "conv2_2": 8}, "random"), random_images(2, 3, 32, 32)
    logits, maps = discriminator.with_features(images)
    assert [tuple(x.shape) for x in logits] == [(2, 1, 32, 32), (2, 1, 16, 16)]
    assert [tuple(x.shape) for x in maps] == [(2, 4, 32, 32), (2, 8, 16, 16)]
    discriminator.eval()
    seen = discriminator.network(images)
    for name, expected in zip(discriminator.heads, discriminator(images), strict=True):
        values = seen(name, True)
        torch.testing.assert_close(discriminator.heads[name](7 * values)[0], expected, rtol=1e-3, atol=1e-4)
    learned = sum(p.numel() for p in discriminator.parameters())
    assert learned == sum((n + 1) * c + 2 * (9 * c + 1) * c + c + 1 for n, c in ((64, 4), (128, 8)))
    assert not [key for key in discriminator.state_dict() if key.startswith("network")]
