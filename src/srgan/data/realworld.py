"""The second-order degradation of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833, §3), on batches on the device.

Twice in a row: blur, resize, noise, JPEG; then a sinc filter and JPEG once more. Images are (B, 3, H, W) float in
[0, 1] throughout. Sizes, kernels and qualities are drawn on the CPU, noise on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from srgan.data.degradation import check_reduction
from srgan.data.jpeg import jpeg
from srgan.errors import UserError

Range = Sequence[float]  # minimum and maximum
WHITE_PHOTONS = 255  # Poisson noise: one photon per 8-bit level
GREY = (0.299, 0.587, 0.114)  # luma of RGB, BT.601


class Rng:
    """Random numbers for one batch, a function of the seed alone: parameters on the CPU, pixels on the device."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.cpu = torch.Generator().manual_seed(seed)
        self.pixels = torch.Generator(device).manual_seed(seed)

    def uniform(self, bounds: Range, count: int) -> Tensor:
        """(count,) numbers between both bounds."""
        low, high = bounds
        return low + (high - low) * torch.rand(count, generator=self.cpu)

    def chance(self, probability: float, count: int) -> Tensor:
        """(count,) bools, true with this probability."""
        return torch.rand(count, generator=self.cpu) < probability

    def choice(self, weights: Sequence[float], count: int) -> Tensor:
        """(count,) indices, drawn with probabilities proportional to the weights."""
        likelihoods = torch.tensor(weights, dtype=torch.float32)
        return torch.multinomial(likelihoods, count, replacement=True, generator=self.cpu)


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A blur by a random kernel for each image: Gaussian, generalised Gaussian, plateau-shaped, or sinc (§3.1, §3.2).

    Args:
        probability: probability of any blur.
        sizes: smallest and largest side of a kernel in pixels, odd.
        sinc: probability of a sinc kernel; otherwise one of the three shapes:
        shapes: weights of Gaussian, generalised Gaussian and plateau.
        isotropic: probability of an isotropic kernel, for each of the three shapes.
        sigma: standard deviations in pixels.
        generalised_beta, plateau_beta: exponents; 1 is a Gaussian, less is more peaked.
    """

    probability: float
    sizes: Sequence[int]
    sinc: float
    shapes: Sequence[float]
    isotropic: Sequence[float]
    sigma: Range
    generalised_beta: Range
    plateau_beta: Range

    def __call__(self, images: Tensor, rng: Rng) -> Tensor:
        count = len(images)
        shaped, sinc = self._shaped(rng, count), sinc_kernels(*_cutoffs(self.sizes, rng, count), max(self.sizes))
        kernels = torch.where(rng.chance(self.sinc, count).view(-1, 1, 1), sinc, shaped)
        return filtered(images, _or_identity(kernels, rng.chance(self.probability, count)))

    def _shaped(self, rng: Rng, count: int) -> Tensor:
        shape = rng.choice(self.shapes, count)
        first, second = rng.uniform(self.sigma, count), rng.uniform(self.sigma, count)
        angle = rng.uniform((-math.pi, math.pi), count)
        isotropic = torch.rand(count, generator=rng.cpu) < torch.tensor(self.isotropic)[shape]
        betas = [torch.ones(count), rng.uniform(self.generalised_beta, count), rng.uniform(self.plateau_beta, count)]
        beta = torch.stack(betas).gather(0, shape[None])[0]
        size = _sizes(self.sizes, rng, count)
        return gaussian_kernels(
            first, torch.where(isotropic, first, second), angle, beta, shape == 2, size, max(self.sizes)
        )


@dataclass(frozen=True, kw_only=True)
class Resize:
    """A resize to a random factor of a nominal size, without antialiasing, by area, bilinear or bicubic (§3.1).

    Args:
        directions: weights of enlarging, shrinking and keeping the size.
        factors: smallest and largest factor, at most and at least 1.
    """

    directions: Sequence[float]
    factors: Range

    def __call__(self, images: Tensor, nominal: tuple[int, int], rng: Rng) -> Tensor:
        low, high = self.factors
        factors = [float(rng.uniform(bounds, 1)) for bounds in ((1.0, high), (low, 1.0))] + [1.0]
        factor = factors[int(rng.choice(self.directions, 1))]
        return resized(images, tuple(max(1, int(side * factor)) for side in nominal), rng)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian or Poisson noise, in colour or the same in all channels (§3.1).

    Args:
        gaussian: probability of Gaussian noise; Poisson otherwise.
        sigma: standard deviations of the Gaussian, in 8-bit levels.
        poisson: factors of Poisson noise; 1 corresponds to 255 photons for white.
        grey: probability of the same noise in all channels.
    """

    gaussian: float
    sigma: Range
    poisson: Range
    grey: float

    def __call__(self, images: Tensor, rng: Rng) -> Tensor:
        count, device = len(images), images.device
        is_gaussian, is_grey = rng.chance(self.gaussian, count), rng.chance(self.grey, count)
        strength = torch.where(is_gaussian, rng.uniform(self.sigma, count) / 255, rng.uniform(self.poisson, count))
        is_gaussian, is_grey, strength = (
            x.view(-1, 1, 1, 1).to(device, non_blocking=True) for x in (is_gaussian, is_grey, strength)
        )
        grey = (images * images.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True).expand_as(images)
        clean = torch.where(is_grey, grey, images).clamp(0, 1)  # a sinc filter overshoots
        poisson = torch.poisson(clean * WHITE_PHOTONS, generator=rng.pixels) / WHITE_PHOTONS - clean
        normal = torch.randn(images.shape, device=device, generator=rng.pixels)
        noise = torch.where(is_gaussian, normal, poisson)
        noise = torch.where(is_grey, noise[:, :1], noise)
        return (images + strength * noise).clamp(0, 1)


class RealWorldDegradation:
    """Real-ESRGAN's degradation: makes LR as cameras and the web do.

    Each image has its own random draws, except that `together` images share the sizes and methods of resizing and the
    order of the last sinc filter and JPEG, so that they can be computed at once.

    Args:
        scale: the factor of reduction, an integer ≥ 2. LR has HR's sides divided by the scale, whatever the sizes in
        between.
        first_blur, first_resize, first_noise, first_jpeg: the first round; `jpeg` is the lowest and highest quality.
        second_blur, second_resize, second_noise, second_jpeg: the second round, whose JPEG comes after the sinc filter
            half of the time.
        final_sinc: probability of the final sinc filter (§3.3), with the kernel sizes of the second blur.
        together: number of images in a batch that share these.

    Raises UserError for a scale below 2 and for invalid ranges or weights.
    """

    name = "real-world"
    draws = True

    def __init__(
        self,
        scale: int,
        first_blur: Blur,
        first_resize: Resize,
        first_noise: Noise,
        first_jpeg: Range,
        second_blur: Blur,
        second_resize: Resize,
        second_noise: Noise,
        second_jpeg: Range,
        final_sinc: float,
        together: int,
    ) -> None:
        check_reduction(scale)
        if together < 1:
            raise UserError(f"degradation.together={together}: expected at least 1 image")
        _check_ranges(first_jpeg=first_jpeg, second_jpeg=second_jpeg)
        if max(*first_jpeg, *second_jpeg) > 100:
            raise UserError("degradation: a JPEG's quality is at most 100; see first_jpeg and second_jpeg")
        for name, part in (("first", first_blur), ("second", second_blur)):
            _check_ranges(**{f"{name}_blur.{key}": getattr(part, key) for key in ("sizes", "sigma")})
            if any(size % 2 == 0 or size < 3 for size in part.sizes):
                raise UserError(f"degradation.{name}_blur.sizes={list(part.sizes)}: expected odd sides from 3")
            _check_weights(**{f"{name}_blur.shapes": part.shapes})
            if len(part.isotropic) != 3:
                raise UserError(f"degradation.{name}_blur.isotropic={list(part.isotropic)}: expected 3 probabilities")
            chances = {"probability": [part.probability], "sinc": [part.sinc], "isotropic": part.isotropic}
            _check_chances(**{f"{name}_blur.{key}": values for key, values in chances.items()})
        for name, part in (("first", first_resize), ("second", second_resize)):
            _check_ranges(**{f"{name}_resize.factors": part.factors})
            if not part.factors[0] <= 1 <= part.factors[1]:
                raise UserError(
                    f"degradation.{name}_resize.factors={list(part.factors)}: expected a range around 1; `directions`"
                    " says how often it is above and below"
                )
            _check_weights(**{f"{name}_resize.directions": part.directions})
        for name, part in (("first", first_noise), ("second", second_noise)):
            _check_ranges(**{f"{name}_noise.sigma": part.sigma, f"{name}_noise.poisson": part.poisson})
            _check_chances(**{f"{name}_noise.gaussian": [part.gaussian], f"{name}_noise.grey": [part.grey]})
        _check_chances(final_sinc=[final_sinc])
        self.scale = scale
        self.first_blur, self.first_resize, self.first_noise, self.first_jpeg = (
            first_blur, first_resize, first_noise, first_jpeg,
        )  # fmt: skip
        self.second_blur, self.second_resize, self.second_noise, self.second_jpeg = (
            second_blur, second_resize, second_noise, second_jpeg,
        )  # fmt: skip
        self.final_sinc = final_sinc
        self.together = together

    @torch.no_grad()
    def __call__(self, hr: Tensor, seed: int = 0) -> Tensor:
        """LR of `hr` (B, 3, H, W) uint8, whose sides divide by the scale: (B, 3, H / scale, W / scale) uint8.

        It depends on hr and the seed alone, except that GPUs and CPUs draw different noise.
        """
        rng = Rng(seed, hr.device)
        with torch.autocast(hr.device.type, enabled=False):
            parts = [self._degrade(part.float() / 255, rng) for part in hr.split(self.together)]
        return torch.cat(parts).mul(255).round().to(torch.uint8)

    def _degrade(self, x: Tensor, rng: Rng) -> Tensor:
        height, width = x.shape[-2:]
        lr_size = (height // self.scale, width // self.scale)
        x = self.first_blur(x, rng)
        x = self.first_resize(x, (height, width), rng)
        x = self.first_noise(x, rng)
        x = _compressed(x, self.first_jpeg, rng)
        x = self.second_blur(x, rng)
        x = self.second_resize(x, lr_size, rng)
        x = self.second_noise(x, rng)
        if bool(rng.chance(0.5, 1)):  # §3.3: the last sinc filter and the JPEG in either order
            return self._reduced(_compressed(x, self.second_jpeg, rng), lr_size, rng)
        return _compressed(self._reduced(x, lr_size, rng), self.second_jpeg, rng)

    def _reduced(self, x: Tensor, size: tuple[int, int], rng: Rng) -> Tensor:
        """Resize to the size of LR, then apply the sinc filter."""
        x = resized(x, size, rng)
        sides = _sizes(self.second_blur.sizes, rng, len(x))
        cutoff = rng.uniform((math.pi / 3, math.pi), len(x))
        kernels = sinc_kernels(cutoff, sides, max(self.second_blur.sizes))
        return filtered(x, _or_identity(kernels, rng.chance(self.final_sinc, len(x)))).clamp(0, 1)


# --- kernels --------------------------------------------------------------------------------------------------------


def gaussian_kernels(
    sigma_x: Tensor, sigma_y: Tensor, angle: Tensor, beta: Tensor, plateau: Tensor, size: Tensor, side: int
) -> Tensor:
    """Kernels exp(−½ dᵝ), or 1 / (1 + dᵝ) where `plateau`, with d = cᵀ Σ⁻¹ c at the offset c (§3.1): (B, side, side).

    All arguments but the last are (B,): the deviations in pixels along the two axes of a kernel, the angle by which it
    is turned, the exponent, and the side beyond which it is zero. Each kernel sums to 1.
    """
    y, x = _offsets(side)
    sine, cosine = angle.sin().view(-1, 1, 1), angle.cos().view(-1, 1, 1)
    along = (cosine * x + sine * y) / sigma_x.view(-1, 1, 1)
    across = (cosine * y - sine * x) / sigma_y.view(-1, 1, 1)
    distance = (along.square() + across.square()) ** beta.view(-1, 1, 1)
    kernels = torch.where(plateau.view(-1, 1, 1), 1 / (1 + distance), torch.exp(-distance / 2))
    return _normalised(kernels, size)


def sinc_kernels(cutoff: Tensor, size: Tensor, side: int) -> Tensor:
    """Sinc low-pass kernels, ω J₁(ω r) / (2π r) at distance r (§3.2): (B, side, side), each of sum 1.

    cutoff: ω, (B,) in radians per pixel; size: the side beyond which a kernel is zero, (B,).
    """
    y, x = _offsets(side)
    radius, cutoff = (x.square() + y.square()).sqrt(), cutoff.view(-1, 1, 1)
    kernels = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius.clamp(min=1))
    centre = cutoff.square() / (4 * math.pi)
    return _normalised(torch.where(radius == 0, centre, kernels), size)


def _cutoffs(sizes: Sequence[int], rng: Rng, count: int) -> tuple[Tensor, Tensor]:
    """Cut-off frequencies and sides of blurring sinc kernels; cut-offs start at π/3 for small, π/5 for large ones."""
    size = _sizes(sizes, rng, count)
    low = torch.where(size < 13, math.pi / 3, math.pi / 5)
    return low + (math.pi - low) * torch.rand(count, generator=rng.cpu), size


def _sizes(bounds: Sequence[int], rng: Rng, count: int) -> Tensor:
    """(count,) odd sides between both bounds."""
    return 2 * torch.randint(bounds[0] // 2, bounds[1] // 2 + 1, (count,), generator=rng.cpu) + 1


def _offsets(side: int) -> tuple[Tensor, Tensor]:
    """Row and column of each tap, counted from the centre: both (side, side)."""
    steps = torch.arange(side, dtype=torch.float32) - side // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return y, x


def _normalised(kernels: Tensor, size: Tensor) -> Tensor:
    y, x = _offsets(kernels.shape[-1])
    inside = torch.maximum(x.abs(), y.abs()) <= size.view(-1, 1, 1) // 2
    kernels = kernels * inside
    return kernels / kernels.sum((-2, -1), keepdim=True)


def _or_identity(kernels: Tensor, kept: Tensor) -> Tensor:
    """The kernels where `kept` is true, the identity kernel elsewhere."""
    y, x = _offsets(kernels.shape[-1])
    return torch.where(kept.view(-1, 1, 1), kernels, ((x == 0) & (y == 0)).float())


# --- operations -----------------------------------------------------------------------------------------------------


def filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter each image by its own kernel, (B, side, side) with an odd side; edge pixels are repeated."""
    count, channels, height, width = images.shape
    side = kernels.shape[-1]
    padded = F.pad(images, [side // 2] * 4, mode="replicate").flatten(0, 1)[None]  # (1, B · 3, H + …, W + …)
    weights = kernels.to(images.device, non_blocking=True).repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, weights, groups=count * channels).view(count, channels, height, width)


def resized(images: Tensor, size: tuple[int, ...], rng: Rng) -> Tensor:
    """Resize to `size` by area, bilinear or bicubic, each as likely."""
    mode = ("area", "bilinear", "bicubic")[int(rng.choice((1, 1, 1), 1))]
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode=mode).clamp(0, 1)


def _compressed(images: Tensor, qualities: Range, rng: Rng) -> Tensor:
    quality = rng.uniform(qualities, len(images)).round().long()
    return jpeg(images, quality)


def _check_weights(**weights: Sequence[float]) -> None:
    """Raise UserError, naming the setting, for what are not three weights of a choice."""
    for key, values in weights.items():
        if len(values) != 3 or min(values) < 0 or sum(values) <= 0:
            raise UserError(f"degradation.{key}={list(values)}: expected 3 weights from 0, not all 0")


def _check_chances(**chances: Sequence[float]) -> None:
    """Raise UserError, naming the setting, for probabilities outside of [0, 1]."""
    for key, values in chances.items():
        if min(values) < 0 or max(values) > 1:
            raise UserError(f"degradation.{key}={list(values)}: expected probabilities from 0 to 1")


def _check_ranges(**ranges: Sequence[float]) -> None:
    """Raise UserError, naming the setting, for a range that is not two numbers in ascending order."""
    for key, bounds in ranges.items():
        if len(bounds) != 2 or bounds[0] > bounds[1] or bounds[0] <= 0:
            raise UserError(f"degradation.{key}={list(bounds)}: expected [least, greatest], both above 0")
