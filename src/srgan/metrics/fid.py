"""FID (Heusel et al. 2017) through torchmetrics and torch-fidelity; needs Inception's weights."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from srgan.errors import UserError
from srgan.images import to_uint8
from srgan.machine import torch_hub_file

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
FEATURES = 2048  # a covariance of full rank needs at least as many images


def weights_file() -> Path:
    """Path of Inception's weights in torch hub's folder, which the environment variable TORCH_HOME changes."""
    return torch_hub_file(URL.rsplit("/", 1)[-1])


def fetch_weights() -> None:
    """Download Inception's weights to `weights_file()` if they aren't there yet.

    Raises UserError if the download fails.
    """
    if weights_file().is_file():
        return
    try:
        weights_file().parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(weights_file()), progress=False)
    except OSError as error:
        raise UserError(
            f"fid=true: Inception's weights can't be downloaded ({error}); put {URL} at {weights_file()}"
        ) from error


class FID:
    """FID between the HR images and the SR of each of several methods. The HR images pass the network only once.

    Compares 8-bit values of whole images of any size. Raises FileNotFoundError if `weights_file()` is
    absent, and UserError if torch-fidelity is not installed.
    """

    def __init__(self, methods: list[str], device: torch.device) -> None:
        if not weights_file().is_file():
            raise FileNotFoundError(f"FID needs {weights_file()}")
        if find_spec("torch_fidelity") is None:
            raise UserError("FID needs torch-fidelity: pip install 'srgan[fid]', or set fid=false")
        from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch-fidelity uses deprecated functions
            # Resized as TensorFlow 1 did in Heusel et al. 2017; torchmetrics' default is another resize.
            try:
                inception: nn.Module = NoTrainInceptionV3(
                    "inception-v3-compat", [str(FEATURES)], str(weights_file()), antialias=False
                )
            except Exception as error:  # such as a page of a portal in its place; torch raises many kinds
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(f"{weights_file()}: not Inception's weights ({reason}); remove it") from error
            cast(Any, inception).num_features = FEATURES  # or each metric runs the shared network once, on the CPU
            self._hr = FrechetInceptionDistance(inception).to(device)
            self._sr = {method: FrechetInceptionDistance(inception).to(device) for method in methods}

    def add_hr(self, hr: Tensor) -> None:
        """Add HR images, each only once. hr: (B, 3, H, W) in [0, 1] or uint8."""
        self._hr.update(to_uint8(hr), real=True)

    def add_sr(self, method: str, sr: Tensor) -> None:
        """Add SR images of one method. sr: (B, 3, H, W) in [0, 1] or uint8."""
        self._sr[method].update(to_uint8(sr), real=False)

    def compute(self) -> dict[str, float]:
        """The FID of each method."""
        for metric in self._sr.values():
            for state in ("real_features_sum", "real_features_cov_sum", "real_features_num_samples"):
                setattr(metric, state, getattr(self._hr, state))
            metric._computed = None  # pyright: ignore[reportPrivateUsage] -- a value cached before HR was added
        return {method: float(metric.compute()) for method, metric in self._sr.items()}
