import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.losses.perceptual import RandomViews, VGGLoss
from srgan.models.vgg import shared_vgg19

WEIGHTS = {"conv3_1": 0.25, "conv1_2": 2.0, "conv2_2": 1.5}


def images(seed: int) -> Tensor:
    return torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "options", [{}, {"before_relu": True, "distance": "l1"}, {"rescale": "paper"}, {"normalize": True}]
)
def test_the_loss_and_its_gradient_are_the_weighted_sum_over_layers(options: dict[str, Any]) -> None:
    """Mean squared or absolute errors of the maps, or 2 − 2 cos at each position if features are normalised."""
    before_relu = options.get("before_relu", False)
    vgg = shared_vgg19("random", WEIGHTS, before_relu)
    sr, plain_sr, hr = images(0).requires_grad_(), images(0).requires_grad_(), images(1).requires_grad_()
    value = VGGLoss(WEIGHTS, "random", **options)(sr, hr)
    expected = torch.zeros(())
    for layer, weight in WEIGHTS.items():
        x, y = (vgg(image)(layer, before_relu) for image in (plain_sr, images(1)))
        if "normalize" in options:
            distance = (2 - 2 * F.cosine_similarity(x, y, dim=1)).mean()
        else:
            distance = (x - y).abs().mean() if "distance" in options else (x - y).square().mean()
        expected = expected + weight * distance / (12.75**2 if "rescale" in options else 1)
    assert value.shape == ()
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5)
    value.backward()
    expected.backward()
    torch.testing.assert_close(sr.grad, plain_sr.grad, rtol=1e-2, atol=1e-5)
    assert sr.grad is not None and sr.grad.abs().max() > 1e-6 and hr.grad is None


def test_signed_input_leaves_the_preprocessing_out_as_a_network_for_b_g_r_sees_r_g_b() -> None:
    loss, network = VGGLoss({"conv1_1": 1.0}, "random", signed_input=True), shared_vgg19("random", ["conv1_1"], False)
    weight, bias = (network.get_buffer(f"conv1_1_{kind}") for kind in ("weight", "bias"))
    maps = [F.relu(F.conv2d(2 * images(seed) - 1, weight.flip(1), bias, padding=1)) for seed in (0, 1)]
    torch.testing.assert_close(loss(images(0), images(1)), F.mse_loss(*maps))


def test_what_the_loss_does_not_know_is_refused() -> None:
    for option, wrong in (("distance", "huber"), ("rescale", "1/12.75")):
        with pytest.raises(UserError, match=f"{option}={wrong}: expected"):
            VGGLoss(WEIGHTS, "random", **{option: wrong})


def test_the_gradient_is_finite_where_all_features_are_zero_and_reaches_the_image_through_views_and_sizes() -> None:
    loss = VGGLoss({"conv1_1": 1.0}, "random", normalize=True, sizes=(1.0, 0.5), random_views=True)
    sr, loss.network = images(0).requires_grad_(), copy.deepcopy(loss.network)
    (gradient,) = torch.autograd.grad(loss(sr, images(1)), sr)
    assert (gradient[..., 4:-4, 4:-4] != 0).all()  # at the edges up to 4 pixels may be cut off
    loss.network.conv1_1_bias = torch.full((64,), -1e3)  # nothing passes the ReLU
    (gradient,) = torch.autograd.grad(loss(sr, images(1)), sr)
    assert gradient.isfinite().all()


def test_sizes_are_compared_one_by_one_and_weigh_by_their_inverse() -> None:
    sr, hr = images(0), images(1)
    plain, half, both = (
        VGGLoss({"conv1_2": 1.0, "conv2_2": 0.5}, weights="random", normalize=True, sizes=sizes)
        for sizes in ((1.0,), (0.5,), (1.0, 0.5))
    )
    assert half(sr, hr) == pytest.approx(2 * float(plain(F.avg_pool2d(sr, 2), F.avg_pool2d(hr, 2))), rel=1e-5)
    assert both(sr, hr) == pytest.approx(float(plain(sr, hr) + half(sr, hr)), rel=1e-5)
    for sizes in ((), (0.0,), (1.0, 2.0)):
        with pytest.raises(UserError, match="VGG19 sizes"):
            VGGLoss({"conv1_2": 1.0}, weights="random", sizes=sizes)


def test_random_views_show_all_turns_shifts_and_a_range_of_sizes() -> None:
    """A ramp tells where a view was cut, how it was turned and how much it was resized."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ramp = torch.stack([rows, columns, torch.zeros(64, 64)])[None]
    views, turns, centres, sides = RandomViews(), set[tuple[bool, ...]](), list[Tensor](), list[int]()
    for _ in range(200):
        view, darker = views(ramp, 0.5 * ramp)
        torch.testing.assert_close(darker, 0.5 * view)  # the same view of each image
        assert view.shape[-2] == view.shape[-1]
        side = view.shape[-1]
        middle = slice(side // 4, -side // 4)  # away from the borders, where the kernel sees repeated pixels
        down, right = (view[0, :2, middle, middle].diff(dim=axis).mean(dim=(1, 2)) for axis in (1, 2))
        turned = bool(down[1].abs() > down[0].abs())
        step = down[1 if turned else 0], right[0 if turned else 1]
        assert [float(abs(x)) for x in step] == pytest.approx([56 / side] * 2, rel=1e-2)  # 8 pixels are cut off
        turns.add((turned, bool(step[0] > 0), bool(step[1] > 0)))
        centres.append(view[0, :2].mean((1, 2)))
        sides.append(side)
    assert len(turns) == 8
    assert min(sides) == pytest.approx(56 / 2**0.5, abs=2) and max(sides) == pytest.approx(56 * 2**0.5, abs=2)
    lowest, highest = torch.stack(centres).aminmax(dim=0)
    assert lowest.tolist() == pytest.approx([27.5] * 2, abs=0.1)
    assert highest.tolist() == pytest.approx([35.5] * 2, abs=0.1)
    (small,) = RandomViews()(torch.rand(1, 3, 24, 40))  # an eighth of the shorter side is cut off
    assert sorted(small.shape[-2:])[1] / sorted(small.shape[-2:])[0] == pytest.approx(37 / 21, rel=0.05)


def test_random_views_go_on_where_a_checkpoint_left_them() -> None:
    whole, other, resumed = (VGGLoss({"conv1_2": 1.0}, weights="random", random_views=True) for _ in range(3))
    values = [float(whole(images(0), images(1))) for _ in range(6)]
    assert [float(other(images(0), images(1))) for _ in range(3)] == values[:3]
    resumed.load_state_dict(other.state_dict())
    assert [float(resumed(images(0), images(1))) for _ in range(3)] == values[3:]
    assert len(set(values)) == 6
