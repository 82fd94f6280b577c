"""Real-ESRGAN's degradation: its parts against other implementations, its draws, and what is refused."""

import io
import math
from collections.abc import Callable
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from scipy import ndimage, special
from skimage import data as photographs
from torch import Tensor

from srgan.data import realworld
from srgan.data.datamodule import ImageDataModule
from srgan.data.jpeg import jpeg
from srgan.data.realworld import Noise, RealWorldDegradation, Rng, filtered, gaussian_kernels, sinc_kernels
from srgan.evaluation.benchmarks import split_benchmark
from srgan.metrics.consistency import lr_psnr

Build = Callable[..., Any]
CPU = torch.device("cpu")


@pytest.fixture
def build(compose_config: Callable[..., DictConfig]) -> Build:
    """build("data", "data.crop=64", …): one node of a training's configuration, built."""

    def build(node: str, *overrides: str) -> Any:
        return instantiate(compose_config("degradation=realworld", *overrides)[node], _convert_="all")

    return build


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95, 100])
def test_jpeg_is_pillows_within_a_grey_level(quality: int) -> None:
    """Sides that are no multiples of 16. What JPEG itself changes is 5 to 14 levels at qualities up to 75."""
    pixels = [np.ascontiguousarray(photo()[40:141, 100:213]) for photo in (photographs.astronaut, photographs.chelsea)]
    originals = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in pixels]).float()
    expected: list[Tensor] = []
    for array in pixels:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=quality)
        expected.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float())
    ours = jpeg(originals / 255, torch.tensor([quality, quality])) * 255
    difference = ours - torch.stack(expected)
    assert difference.abs().mean() < 0.5
    assert rms(difference) < min(1.2, rms(ours - originals) / 2)
    mixed = jpeg(originals / 255, torch.tensor([quality, 1])) * 255
    assert torch.equal(mixed[0], ours[0]) and rms(mixed[1] - ours[1]) > 5


def kernel(sigma_x: float, sigma_y: float, angle: float, beta: float, plateau: bool, size: int = 21) -> Tensor:
    numbers = [torch.tensor([x]) for x in (sigma_x, sigma_y, angle, beta)]
    return gaussian_kernels(*numbers, torch.tensor([plateau]), torch.tensor([size]), 21)[0]


def moments(kernel: Tensor) -> Tensor:
    """The covariance of a kernel taken as a distribution over (x, y)."""
    y, x = torch.meshgrid(*[torch.arange(21.0) - 10] * 2, indexing="ij")
    return torch.stack([(kernel * a * b).sum() for a in (x, y) for b in (x, y)]).view(2, 2)


def test_gaussian_kernels_have_the_width_turn_and_shape_they_are_given() -> None:
    impulse = np.zeros((21, 21))
    impulse[10, 10] = 1
    expected = torch.from_numpy(ndimage.gaussian_filter(impulse, 1.7, radius=10)).float()
    torch.testing.assert_close(kernel(1.7, 1.7, 0.3, 1.0, False), expected, rtol=0, atol=1e-6)
    turned = moments(kernel(2.5, 1.0, math.pi / 6, 1.0, False))
    rotation = torch.tensor([[math.cos(math.pi / 6), -0.5], [0.5, math.cos(math.pi / 6)]])
    torch.testing.assert_close(turned, rotation @ torch.diag(torch.tensor([6.25, 1.0])) @ rotation.T, rtol=0, atol=0.02)
    for beta, plateau, value in ((2.0, False, math.exp(-8)), (1.5, True, 1 / 9)):  # d = 4 at two deviations
        shaped = kernel(1.0, 1.0, 0.0, beta, plateau)
        torch.testing.assert_close(shaped[10, 12] / shaped[10, 10], torch.tensor(value), rtol=1e-4, atol=0)
    small = kernel(3.0, 3.0, 0.0, 1.0, False, size=7)
    assert torch.count_nonzero(small) == 49 and small[7, 7] > 0
    torch.testing.assert_close(small.sum(), torch.tensor(1.0))


def test_sinc_kernels_pass_what_is_slower_than_their_cutoff_and_stop_what_is_faster() -> None:
    cutoff = 1.5
    found = sinc_kernels(torch.tensor([cutoff]), torch.tensor([21]), 21)[0]
    radius = np.hypot(*np.mgrid[-10:11, -10:11])
    radius[10, 10] = 1e-6  # the limit at the centre
    formula = cutoff * special.j1(cutoff * radius) / (2 * math.pi * radius)
    torch.testing.assert_close(found, torch.from_numpy(formula / formula.sum()).float(), rtol=0, atol=1e-5)
    gains = [float((found * torch.cos(w * (torch.arange(21.0) - 10))).sum()) for w in (0.6, 2.4)]
    assert abs(gains[0] - 1) < 0.15 and abs(gains[1]) < 0.15 and (found < 0).any()


def test_each_image_is_filtered_by_its_own_kernel_with_its_edge_repeated(generator: torch.Generator) -> None:
    images, kernels = (torch.rand(*shape, generator=generator) for shape in ((2, 3, 6, 9), (2, 5, 5)))
    for image, weights, result in zip(images, kernels, filtered(images, kernels), strict=True):
        for plane, found in zip(image, result, strict=True):
            expected = ndimage.correlate(plane.numpy(), weights.numpy(), mode="nearest")
            torch.testing.assert_close(found, torch.from_numpy(expected))


@pytest.mark.parametrize("grey", [False, True])
def test_noise_is_as_strong_as_it_is_told(grey: bool) -> None:
    """Gaussian: 20 levels everywhere. Poisson of 255 photons, doubled: variance in proportion to brightness."""
    levels = torch.tensor([0.2, 0.6]).view(-1, 1, 1, 1).expand(2, 3, 200, 200)
    for gaussian, expected in ((1.0, [20 / 255] * 2), (0.0, [2 * math.sqrt(x / 255) for x in (0.2, 0.6)])):
        noise = Noise(gaussian=gaussian, sigma=[20, 20], poisson=[2, 2], grey=float(grey))(levels, Rng(3, CPU)) - levels
        for image, deviation in zip(noise, expected, strict=True):
            assert float(image.std()) == pytest.approx(deviation, rel=0.02) and abs(image.mean()) < 0.002
            assert torch.equal(image[0], image[2]) == grey


def test_poisson_noise_takes_what_a_sinc_filter_made_darker_than_black() -> None:
    noise = Noise(gaussian=0.0, sigma=[1, 1], poisson=[2, 2], grey=0.5)
    found = noise(torch.full((4, 3, 8, 8), -0.05), Rng(0, CPU))
    assert torch.equal(found, torch.zeros_like(found))  # black has no photons


@pytest.mark.parametrize(("scale", "height", "width"), [(2, 48, 96), (3, 48, 33), (4, 96, 64), (8, 16, 40)])
def test_lr_has_the_size_of_hr_over_the_scale_and_depends_on_the_seed(
    build: Build, noise: Callable[..., Tensor], scale: int, height: int, width: int
) -> None:
    degradation: RealWorldDegradation = build("degradation", f"scale={scale}")
    hr = noise(5, 3, height, width)
    first = degradation(hr, 1)
    assert (first.shape, first.dtype) == ((5, 3, height // scale, width // scale), torch.uint8)
    assert torch.equal(degradation(hr, 1), first) and not torch.equal(degradation(hr, 2), first)
    alike = degradation(hr[:1].expand(4, -1, -1, -1), 1)
    assert len({image.numpy().tobytes() for image in alike}) == 4


def test_the_operations_come_in_order_and_are_drawn_as_published(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 images, by operations that note what they are given. Real-ESRGAN's numbers are written out here again."""
    events: list[tuple[Any, ...]] = []

    def note(name: str, *values: Any) -> None:
        events.append((name, *values))

    def resize(images: Tensor, size: tuple[int, ...], rng: Rng) -> Tensor:
        note("resize", size)
        return torch.zeros(len(images), 3, *size)

    def gaussian(*values: Any) -> Tensor:
        first, second, _, beta, plateau, size, side = values
        note("shaped", first, second, beta, plateau, size)
        return torch.full((len(first), side, side), 2.0)

    def sinc(cutoff: Tensor, size: Tensor, side: int) -> Tensor:
        note("sinc", cutoff)
        return torch.full((len(cutoff), side, side), 3.0)

    def filter_(images: Tensor, kernels: Tensor) -> Tensor:
        note("filter", kernels[:, 0, 0])  # 2 for a shape, 3 for a sinc, 0 for the identity
        return images

    def compress(images: Tensor, qualities: Any, rng: Rng) -> Tensor:
        note("jpeg", tuple(qualities))
        return images

    for name, stand_in in (
        ("resized", resize), ("gaussian_kernels", gaussian), ("sinc_kernels", sinc), ("filtered", filter_),
        ("_compressed", compress),
    ):  # fmt: skip
        monkeypatch.setattr(realworld, name, stand_in)
    monkeypatch.setattr(Noise, "__call__", lambda noise, images, rng: (note("noise", noise), images)[1])
    degradation = build("degradation", "scale=4")
    whole = ["sinc", "shaped"], ["filter", "resize", "noise", "jpeg"]
    orders: list[list[str]] = []
    draws: list[list[tuple[Any, ...]]] = []
    for seed in range(500):
        events.clear()
        assert degradation(torch.zeros(4, 3, 400, 800, dtype=torch.uint8), seed).shape == (4, 3, 100, 200)
        draws.append([*events])
        orders.append([event[0] for event in events])
    last_jpeg = [order[-1] == "jpeg" for order in orders]
    for order, jpeg_last in zip(orders, last_jpeg, strict=True):
        kernels, operations = whole
        assert sorted(order[:2]) == sorted(order[6:8]) == sorted(kernels)
        assert order[2:6] == operations and order[8:11] == ["filter", "resize", "noise"]
        reduced = ["resize", "sinc", "filter"]
        assert order[11:] == ([*reduced, "jpeg"] if jpeg_last else ["jpeg", *reduced])

    def share(values: Any, expected: float, count: int = 2000) -> None:
        found = torch.as_tensor(values).float().mean().item()
        assert abs(found - expected) <= 4 * (expected * (1 - expected) / count) ** 0.5, (found, expected)

    def within(values: Tensor, low: float, high: float) -> None:
        assert low <= values.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < values.max() <= high

    share(last_jpeg, 0.5, 500)
    for start, probability, sigma, factors, directions, nominal in (
        (0, 1.0, (0.2, 3.0), (0.15, 1.5), (0.2, 0.7, 0.1), (400, 800)),
        (6, 0.8, (0.2, 1.5), (0.3, 1.2), (0.3, 0.4, 0.3), (100, 200)),
    ):
        kernels = torch.cat([draw[start + 2][1] for draw in draws])
        share(kernels != 0, probability)
        share(kernels[kernels != 0] == 3, 0.1, int((kernels != 0).sum()))
        shaped = [next(event for event in draw[start : start + 2] if event[0] == "shaped") for draw in draws]
        first, second, beta, plateau, size = (torch.cat([event[index] for event in shaped]) for index in range(1, 6))
        generalised = ~plateau & (beta != 1)
        share(plateau, 0.15)
        share(generalised, 0.15)
        for chosen, isotropic in ((plateau, 0.8), (generalised, 0.8), (~plateau & ~generalised, 0.64)):
            share((first == second)[chosen], isotropic, int(chosen.sum()))
        within(first, *sigma)
        within(beta[generalised], 0.5, 4.0)
        within(beta[plateau], 1.0, 2.0)
        assert {*size.tolist()} == {7, 9, 11, 13, 15, 17, 19, 21}
        factor = torch.tensor([draw[start + 3][1][1] for draw in draws]) / nominal[1]
        for found, expected in zip((factor > 1, factor < 1, factor == 1), directions, strict=True):
            share(found, expected, 500)
        within(factor, *factors)
    first, second = ([draw[index][1] for draw in draws] for index in (4, 10))
    assert {id(noise) for noise in first} == {id(degradation.first_noise)}
    assert {id(noise) for noise in second} == {id(degradation.second_noise)}
    for noise, sigma, poisson in ((first[0], [1.0, 30.0], [0.05, 3.0]), (second[0], [1.0, 25.0], [0.05, 2.5])):
        assert (noise.gaussian, [*noise.sigma], [*noise.poisson], noise.grey) == (0.5, sigma, poisson, 0.4)
    assert {event[1] for draw in draws for event in draw if event[0] == "jpeg"} == {(30, 95)}
    final = torch.cat([next(event for event in reversed(draw) if event[0] == "filter")[1] for draw in draws])
    share(final == 3, 0.8)
    cutoffs = torch.cat([next(event for event in reversed(draw) if event[0] == "sinc")[1] for draw in draws])
    within(cutoffs, math.pi / 3, math.pi)


def test_what_is_switched_off_changes_nothing(build: Build) -> None:
    """Without blur, resize and noise, at quality 100, what is left is one reduction: by area, bilinear or bicubic."""
    off = ["blur.probability=0", "resize.directions=[0,0,1]", "noise.sigma=[1e-9,1e-9]", "noise.gaussian=1"]
    off += ["jpeg=[100,100]"]
    overrides = [f"degradation.{part}_{key}" for part in ("first", "second") for key in off]
    degradation = build("degradation", "degradation.final_sinc=0", *overrides)
    hr = torch.from_numpy(ndimage.gaussian_filter(photographs.astronaut(), (3, 3, 0))[:256, :256].copy())
    hr = hr.permute(2, 0, 1)[None]
    lr = degradation(hr, 1).float()
    assert rms(lr - torch.nn.functional.avg_pool2d(hr.float(), 4)) < 2.5


def stream(data: ImageDataModule, count: int, workers: int = 0, step: int = 0) -> list[Tensor]:
    """LR of the batches that training would get from that step."""
    data.workers = workers
    strategy = SimpleNamespace(root_device=CPU)
    data.trainer = SimpleNamespace(global_step=step, global_rank=0, world_size=1, num_devices=1, strategy=strategy)
    return [data.on_after_batch_transfer(batch, 0).lr for batch in islice(data.train_dataloader(), count)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
def test_training_draws_the_same_after_a_resume_and_with_any_number_of_workers(build: Build) -> None:
    data = build("data", "data=photos", "data.crop=32", "batch_size=3", "data.augment=none")
    data.setup("fit")
    whole = stream(data, 5)
    for others, part in ((stream(data, 5, workers=2), whole), (stream(data, 2, step=3), whole[3:])):
        assert all(torch.equal(one, other) for one, other in zip(others, part, strict=True))
    other_seed = build("data", "data=photos", "data.crop=32", "batch_size=3", "data.augment=none", "seed=2")
    other_seed.setup("fit")
    assert not torch.equal(stream(other_seed, 1)[0], whole[0])


def test_validation_and_test_have_one_draw_for_each_image(build: Build, photo_folder: Any) -> None:
    options = ["data=folder", f"data.root={photo_folder}", "data.held_out=0.75", "data.crop=32"]
    data, limited = build("data", *options), build("data", *options, "data.validation_images=1", "seed=5")
    for each in (data, limited):
        each.setup("validate")
    scored = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    assert len(scored) == 3 and len({pair.lr.numpy().tobytes() for pair in scored}) == 3
    benchmark = split_benchmark(data, "validation", None)
    assert benchmark.lr_from == "by real-world degradation"
    for index, pair in enumerate(scored):
        image = benchmark[index]
        assert torch.equal(image.lr / 255, pair.lr)
        assert lr_psnr(image.hr, image.lr, lambda hr, seed=image.seed: data.degradation(hr, seed)) == torch.inf
    (only,) = [limited.on_after_batch_transfer(batch, 0) for batch in limited.val_dataloader()]
    assert torch.equal(only.lr, scored[0].lr)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("scale=1", "scale 1: expected a whole number from 2"),
        ("degradation.first_blur.sizes=[7,20]", r"first_blur\.sizes=\[7, 20\]: expected odd sides from 3"),
        ("degradation.second_noise.sigma=[9,3]", r"second_noise\.sigma=\[9, 3\]: expected \[least, greatest\]"),
        ("degradation.second_jpeg=[30]", r"second_jpeg=\[30\]: expected \[least, greatest\]"),
        ("degradation.first_jpeg=[30,101]", "quality is at most 100"),
        ("degradation.first_blur.shapes=[1,0]", r"first_blur\.shapes=\[1, 0\]: expected 3 weights"),
        ("degradation.second_resize.directions=[0,0,0]", r"second_resize\.directions=\[0, 0, 0\]: expected 3 weights"),
        ("degradation.first_blur.isotropic=[0.5]", r"isotropic=\[0\.5\]: expected 3 probabilities"),
        ("degradation.second_blur.probability=80", r"second_blur\.probability=\[80\]: expected probabilities"),
        ("degradation.first_noise.grey=-1", r"first_noise\.grey=\[-1\]: expected probabilities"),
        ("degradation.final_sinc=1.5", r"final_sinc=\[1\.5\]: expected probabilities from 0 to 1"),
        ("degradation.together=0", "together=0: expected at least 1 image"),
    ],
)
def test_values_that_cannot_work_are_refused(build: Build, override: str, words: str) -> None:
    with pytest.raises(InstantiationException, match=words):
        build("degradation", override)


@pytest.mark.gpu
def test_a_gpu_draws_the_same_each_time(build: Build, noise: Callable[..., Tensor]) -> None:
    degradation, hr = build("degradation"), noise(5, 3, 96, 96).cuda()
    assert torch.equal(degradation(hr, 1), degradation(hr, 1))
    assert degradation(hr, 1).is_cuda and not torch.equal(degradation(hr, 1), degradation(hr, 2))
