from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from srgan.errors import UserError
from srgan.losses.adversarial import NonSaturating
from srgan.models.discriminators import PatchDiscriminator, SRGANDiscriminator


def random_images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def small(crop: int) -> SRGANDiscriminator:
    torch.manual_seed(0)
    return SRGANDiscriminator(crop, channels=4, hidden=8)


@pytest.mark.parametrize("crop", [16, 32, 48, 64, 96, 128])
def test_each_image_gets_one_float32_logit(crop: int) -> None:
    logits = small(crop)(random_images(3, 3, crop, crop))
    assert logits.shape == (3, 1)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("crop", [16, 96])
def test_features_are_a_sixteenth_of_the_crop(crop: int) -> None:
    assert small(crop).features(random_images(2, 3, crop, crop)).shape == (2, 8 * 4, crop // 16, crop // 16)


def test_it_has_the_weights_of_the_papers_figure_at_crop_96() -> None:
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    convolutions = 9 * 3 * 64 + 64 + sum(9 * a * b + 2 * b for a, b in pairwise(widths))
    dense = 512 * 6 * 6 * 1024 + 1024 + 1024 + 1
    with torch.device("meta"):
        found = sum(p.numel() for p in SRGANDiscriminator(96, 64, 1024).parameters())
    assert found == convolutions + dense
    assert round(found / 1e6, 1) == 23.6


def test_its_layers_are_those_of_the_papers_figure() -> None:
    with torch.device("meta"):
        modules = list(SRGANDiscriminator(96, 64, 1024).modules())
    convolutions = [(m.kernel_size, m.out_channels, m.stride[0]) for m in modules if isinstance(m, nn.Conv2d)]
    assert convolutions == [((3, 3), width, stride) for width in (64, 128, 256, 512) for stride in (1, 2)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in modules) == 7  # after all convolutions but the first
    assert [m.negative_slope for m in modules if isinstance(m, nn.LeakyReLU)] == [0.2] * 9
    assert not any(isinstance(m, nn.Sigmoid) for m in modules)


def test_black_and_white_enter_the_first_convolution_as_minus_one_and_one() -> None:
    discriminator = small(16)
    seen: list[Tensor] = []
    first = next(m for m in discriminator.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    discriminator(torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)]))
    assert torch.equal(seen[0][:, 0, 0, 0], torch.tensor([-1.0, 1.0]))


def test_logits_are_unbounded() -> None:
    discriminator, images = small(16).eval(), random_images(2, 3, 16, 16)
    logits = discriminator(images)
    last = [m for m in discriminator.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter *= 1e4
    torch.testing.assert_close(discriminator(images), 1e4 * logits)
    assert discriminator(images).abs().min() > 1


def test_under_autocast_logits_are_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert small(16)(random_images(2, 3, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize(("crop", "suggested"), [(100, (96, 112)), (90, (80, 96)), (97, (96, 112)), (8, (16, 32))])
def test_a_crop_that_does_not_suit_is_refused_with_those_that_do(crop: int, suggested: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"crop {crop} .*data.crop={suggested[0]} or {suggested[1]}"):
        SRGANDiscriminator(crop, 64, 1024)


@pytest.mark.parametrize("size", [(16, 16), (48, 48), (32, 48), (48, 32)])
def test_images_of_another_size_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="32×32"):
        small(32)(random_images(2, 3, *size))


def test_a_few_steps_teach_it_to_tell_noise_from_grey() -> None:
    discriminator, adversarial = small(16), NonSaturating()
    real, fake = random_images(4, 3, 16, 16), torch.full((4, 3, 16, 16), 0.5)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        adversarial.discriminator_loss(discriminator(real), discriminator(fake)).backward()
        optimizer.step()
    assert discriminator(real).min() > 0 > discriminator(fake).max()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (96, 96), (70, 31)])
def test_a_patch_discriminator_gives_a_float32_logit_each_8_pixels(height: int, width: int) -> None:
    discriminator = PatchDiscriminator(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = discriminator(random_images(2, 3, height, width))
    assert logits.shape == (2, 1, height // 8, width // 8)
    assert logits.dtype == torch.float32


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
    inner = [m for m in discriminator.eval().layers if isinstance(m, nn.Conv2d)][1:-1]
    assert len(inner) == 5
    for convolution in inner:
        largest = torch.linalg.matrix_norm(convolution.weight.detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1, abs=0.01)
