"""The grid in an SR: an error pattern that repeats with the LR pixels, which a feature loss or a GAN may leave."""

from torch import Tensor
from torch.nn import functional as F

from srgan.images import to_uint8


def grid(sr: Tensor, hr: Tensor, scale: int) -> Tensor:
    """Strength of the pattern of period `scale` in sr − hr, in grey levels, per image: (B,) float64; 0 if sr is hr.

    sr, hr: (B, 3, H, W) in [0, 1] or uint8, sides divisible by the scale. The error is averaged over the image at each
    of the scale² places within an LR pixel; the result is the standard deviation of these averages, root mean square
    over the channels. What doesn't repeat with the LR pixels cancels in the averages.
    """
    error = F.pixel_unshuffle(to_uint8(sr).double() - to_uint8(hr).double(), scale)  # (B, 3 · scale², h, w)
    places = error.mean((2, 3)).unflatten(1, (3, -1))  # (B, 3, scale²)
    return places.var(2, correction=0).mean(1).sqrt()
