"""DISTS (Ding et al. 2020): structure and texture of two images compared by VGG16's features."""

from torch import Tensor, nn

from srgan.metrics.networks import by_image, dists_network


class DISTS(nn.Module):
    """The distance of structure and texture between sr and hr, (B, 3, H, W) in [0, 1] or uint8: (B,) float32.

    Whole images are compared, by their 8-bit values. Nothing is downloaded. Raises UserError if VGG16's weights are
    absent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = dists_network()

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return by_image(self.network, sr, hr)
