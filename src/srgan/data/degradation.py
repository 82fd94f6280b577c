"""From HR to LR: the degradation, run on the device on whole batches."""

from torch import Tensor

from srgan.errors import UserError
from srgan.imresize import Border, imresize


class BicubicDegradation:
    """MATLAB's bicubic reduction by `scale`, bit-exact for 8-bit images, with the paper's optional Gaussian before it.

    Args:
        scale: the factor of reduction, an integer ≥ 2.
        blur_sigma: standard deviation in HR pixels of the Gaussian filter (§2.1); 0 for none, as in the paper's tables.
        border: what lies beyond the edge; `replicate` made the published benchmark files.
    """

    def __init__(self, scale: int, blur_sigma: float = 0.0, border: Border = "replicate") -> None:
        if not isinstance(scale, int) or scale < 2:  # pyright: ignore[reportUnnecessaryIsInstance] -- from a config
            raise UserError(f"scale {scale}: expected a whole number from 2; try scale=4")
        if blur_sigma < 0:
            raise UserError(f"blur_sigma {blur_sigma}: expected 0 (no blur) or a width in pixels")
        self.scale = scale
        self.blur_sigma = blur_sigma
        self.border: Border = border

    def __call__(self, hr: Tensor) -> Tensor:
        """hr: (…, 3, H, W) uint8, sides divisible by the scale. Returns (…, 3, H / scale, W / scale) uint8."""
        if self.blur_sigma:
            from torchvision.transforms.v2 import functional as transforms  # takes seconds

            size = 2 * round(3 * self.blur_sigma + 0.5) + 1
            hr = transforms.gaussian_blur(hr, [size, size], [self.blur_sigma])
        return imresize(hr, 1 / self.scale, self.border)
