"""Grid artefacts: error patterns that repeat with the LR pixels, as feature losses and GANs may cause."""

from torch import Tensor
from torch.nn import functional as F

from srgan.images import to_uint8


def grid(sr: Tensor, hr: Tensor, scale: int) -> Tensor:
    """Strength of the pattern with period `scale` in sr − hr, in grey levels, per image: (B,) float64; 0 if sr is hr.

    sr, hr: (B, 3, H, W) in [0, 1] or uint8, sides divisible by the scale. For each of the scale²
    positions within an LR pixel the error is averaged over the image, so that errors that don't repeat cancel out. The
    result is the standard deviation of these averages, root mean square over the channels.
    """
    error = F.pixel_unshuffle(to_uint8(sr).double() - to_uint8(hr).double(), scale)  # (B, 3 · scale², h, w)
    places = error.mean((2, 3)).unflatten(1, (3, -1))  # (B, 3, scale²)
    return places.var(2, correction=0).mean(1).sqrt()
