"""NIQE (Mittal, Soundararajan & Bovik 2013): how far a picture's statistics lie from those of pristine photographs.

It needs no HR. The model of pristine photographs isn't part of this package; it is read from a data file of another.
"""

import logging
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.images import luma, shave, to_uint8
from srgan.imresize import imresize

log = logging.getLogger(__name__)

BLOCK = 96  # side of a block in pixels; half of it at the second scale
WINDOW, SIGMA = 7, 7 / 6  # window of the local mean and deviation
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, down and the two diagonals (§2.2)
ROUNDING = 1e-9  # far above float64's errors, far below any coefficient of 8-bit luma
FEATURES = 2 * (2 + 4 * len(NEIGHBOURS))

# Packages that contain the authors' model of pristine photographs, and the path of the file in them.
MODELS = {"mmagic": "evaluation/metrics/niqe_pris_params.npz", "basicsr": "metrics/niqe_pris_params.npz"}
INSTALL = "pip install --no-deps mmagic"  # 1.4 MB; only its data file is read


def model_file() -> Path | None:
    """Find the model of pristine photographs in an installed package, without importing it. None if there is none."""
    for package, name in MODELS.items():
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    return None


def load(border: int) -> "NIQE | None":
    """Load NIQE. None, with a line in the log, if no model of pristine photographs is installed."""
    path = model_file()
    if path is None:
        log.info("NIQE is not measured: no model of pristine photographs is installed; %s brings one", INSTALL)
        return None
    return NIQE(path, border)


class NIQE(nn.Module):
    """NIQE of sr, (B, 3, H, W) in [0, 1] or uint8, per image: (B,) float64, lower is better; `hr` is ignored.

    It is computed on luma rounded to 8 bits. It is NaN for an image with fewer than two blocks of 96×96 pixels that
    aren't flat, after the border is cut off.

    Args:
        model: file with the mean (`mu_pris_param`) and covariance (`cov_pris_param`) of pristine photographs' features.
        border: pixels cut off on each side.

    Raises UserError if the file doesn't hold such a model.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, model: Path, border: int) -> None:
        super().__init__()
        import numpy as np

        try:
            with np.load(model) as arrays:
                mean, covariance = (torch.from_numpy(arrays[f"{name}_pris_param"]).double() for name in ("mu", "cov"))
            mean, covariance = mean.view(FEATURES), covariance.view(FEATURES, FEATURES)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(f"{model}: not a model for NIQE ({error}); install it anew: {INSTALL}") from error
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("covariance", covariance, persistent=False)
        self.border = border

    def forward(self, sr: Tensor, hr: Tensor | None = None) -> Tensor:
        planes = (luma(to_uint8(shave(sr, self.border))) + 0.5).floor()
        return torch.stack([self._distance(block_features(plane)) for plane in planes])

    def _distance(self, features: Tensor) -> Tensor:
        """The distance between the Gaussians fitted to the picture's blocks and to pristine ones (Eq. 10)."""
        whole = features[~features.isnan().any(1)]
        if len(whole) < 2:
            return features.new_tensor(torch.nan)
        difference = self.mean - features.nanmean(0)
        inverse = torch.linalg.pinv((self.covariance + whole.T.cov()) / 2, hermitian=True)
        return (difference @ inverse @ difference).sqrt()


def block_features(plane: Tensor) -> Tensor:
    """The 36 features of each whole block of (1, H, W) luma in 0…255: (blocks, 36), 18 at each of two scales.

    A flat block's features are NaN.
    """
    rows, columns = (side // BLOCK for side in plane.shape[-2:])
    plane = plane[..., : rows * BLOCK, : columns * BLOCK]
    if not rows * columns:
        return plane.new_empty(0, FEATURES)
    half = imresize(plane, 0.5, "symmetric")
    return torch.cat([_scale_features(plane, BLOCK), _scale_features(half, BLOCK // 2)], 1)


def _scale_features(plane: Tensor, block: int) -> Tensor:
    blocks = _normalized(plane).unfold(1, block, block).unfold(2, block, block).reshape(-1, block, block)
    shape, left, right = _asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = _asymmetric_gaussian(blocks * blocks.roll(shift, (1, 2)))
        mean = (right - left) * ((2 / shape).lgamma() - (1 / shape).lgamma()).exp()  # Eq. 8
        features += [shape, mean, left, right]
    return torch.stack(features, 1)


def _normalized(plane: Tensor) -> Tensor:
    """Luma minus its local mean, divided by its local deviation (the MSCN coefficients, Eq. 1)."""
    offset = torch.arange(WINDOW, dtype=plane.dtype, device=plane.device) - WINDOW // 2
    taps = torch.exp(-(offset**2) / (2 * SIGMA**2))
    taps = taps / taps.sum()

    def local_mean(x: Tensor) -> Tensor:
        x = F.pad(x[None], [WINDOW // 2] * 4, mode="replicate")
        return F.conv2d(F.conv2d(x, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))[0]

    mean = local_mean(plane)
    deviation = (local_mean(plane * plane) - mean * mean).abs().sqrt()
    return (plane - mean) / (deviation + 1)


def _asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalised Gaussian to each block by its moments: shape, left and right scale, (blocks,).

    The shape is looked up in steps of 0.001 from 0.2 to 10 (Eq. 3 to 6). Zeros, which come from flat regions, count as
    positive. In implementations where rounding errors of the local mean decide their sign, NIQE of pictures with black
    or white regions differs by some hundredths between precisions.
    """
    x = blocks.flatten(1)
    square, negative = x * x, x < -ROUNDING
    positive = ~negative
    left = ((square * negative).sum(1) / negative.sum(1)).sqrt()
    right = ((square * positive).sum(1) / positive.sum(1)).sqrt()
    ratio = left / right
    wanted = x.abs().mean(1) ** 2 / square.mean(1)
    wanted = wanted * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes = torch.arange(200, 10_001, dtype=x.dtype, device=x.device) / 1000
    given = (2 * (2 / shapes).lgamma() - (1 / shapes).lgamma() - (3 / shapes).lgamma()).exp()  # grows with shapes
    shape = shapes[(given - wanted[:, None]).square().argmin(1)]
    shape = torch.where(wanted.isnan(), wanted, shape)
    scale = (((1 / shape).lgamma() - (3 / shape).lgamma()) / 2).exp()
    return shape, left * scale, right * scale
