"""What networks hold for one step: the random alignment, and one pass of VGG19 for all who ask."""

import pytest
import torch
from torch import Tensor

from srgan.losses.perceptual import VGGLoss
from srgan.models.discriminators import ProjectedDiscriminator
from srgan.models.stepwise import RandomAlignment, stepwise_parts
from srgan.models.vgg import shared_vgg19


def ramp(side: int) -> Tensor:
    """Row and column of each pixel."""
    return torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))[None].float()


@pytest.mark.parametrize(("side", "margin"), [(96, 16), (40, 8), (32, 0), (16, 0)])
def test_every_step_has_its_offset_and_all_images_of_a_step_share_it(side: int, margin: int) -> None:
    alignment, images = RandomAlignment(), ramp(side)
    assert torch.equal(alignment(images), images)  # not within a step
    corners: list[tuple[float, ...]] = []
    for done in range(300):
        alignment.begin_step(done)
        cut = alignment(images)
        assert cut.shape[-2:] == (side - margin, side - margin)
        assert torch.equal(alignment(images + 1), cut + 1)
        corners.append(tuple(cut[0, :, 0, 0].tolist()))
        alignment.end_step()
    assert {row for row, _ in corners} == {column for _, column in corners} == set(map(float, range(max(1, margin))))
    assert len(set(corners)) >= min(150, margin**2)
    resumed = RandomAlignment()
    resumed.begin_step(123)
    assert tuple(resumed(images)[0, :, 0, 0].tolist()) == corners[123]


def test_a_loss_and_a_discriminator_share_one_vgg_and_one_pass_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = VGGLoss({"conv3_1": 1.0}, "random", before_relu=True)
    judge = ProjectedDiscriminator({"conv1_2": 4, "conv2_2": 4}, "random")
    assert judge.network is loss.network is shared_vgg19("random", ["conv1_1"], False)
    layers: list[str] = []
    convolve = type(loss.network).convolve

    def counted(network: object, name: str, x: Tensor) -> Tensor:
        layers.append(name)
        return convolve(loss.network, name, x)

    monkeypatch.setattr(type(loss.network), "convolve", counted)
    sr, hr = (torch.rand(1, 3, 64, 64) for _ in range(2))
    image = sr.clone().requires_grad_()

    def gradients() -> list[Tensor]:
        at_content = torch.autograd.grad(loss(image, hr), image, retain_graph=True)[0]
        for logits in (*judge(hr), *judge(image.detach())):  # what the discriminator learns from
            assert torch.autograd.grad(logits.sum(), image, allow_unused=True, retain_graph=True)[0] is None
        score = torch.stack([logits.mean() for logits in judge(image)]).sum()
        return [at_content, torch.autograd.grad(score, image)[0]]

    class Forgetful(dict[object, object]):
        def __setitem__(self, key: object, value: object) -> None:
            """Every look is a pass of its own."""

    judge.eval()  # or its spectral norms move
    for part in stepwise_parts(loss, judge):
        part.begin_step(7)
    kept, loss.network._passes = loss.network._passes, Forgetful()
    apart, passes = gradients(), len(layers)
    loss.network._passes = kept
    layers.clear()
    shared = gradients()
    assert sorted(set(layers)) == ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"]
    assert len(layers) == 2 * 5 < passes  # SR and HR
    for mine, theirs in zip(shared, apart, strict=True):
        torch.testing.assert_close(mine, theirs)
    other = sr.clone().requires_grad_()  # a leaf of its own gets its own gradient, also on the same memory
    for leaf in (other, other.detach().requires_grad_()):
        assert torch.autograd.grad(loss(leaf, hr), leaf)[0].any()
    for part in stepwise_parts(loss, judge):
        part.end_step()
    assert not loss.network._passes  # nothing is kept between steps
