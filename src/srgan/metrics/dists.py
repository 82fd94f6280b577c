"""DISTS (Ding et al. 2020): compares the structure and texture of two images by VGG16's features."""

from torch import Tensor, nn

from srgan.metrics.networks import by_image, dists_network


class DISTS(nn.Module):
    """DISTS distance between sr and hr, (B, 3, H, W) in [0, 1] or uint8, per image: (B,) float32.

    Compares 8-bit values of whole images. Downloads nothing; raises UserError if VGG16's weights are absent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = dists_network()

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return by_image(self.network, sr, hr)
