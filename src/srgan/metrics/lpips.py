"""LPIPS (Zhang et al. 2018): the learned perceptual distance between two images."""

from torch import Tensor, nn

from srgan.metrics.networks import by_image, lpips_network


class LPIPS(nn.Module):
    """The learned perceptual distance between sr and hr, (B, 3, H, W) in [0, 1] or uint8, per image: (B,) float32.

    Whole images are compared, by their 8-bit values; no border is cut off. Nothing is downloaded.

    Args:
        net: the network that sees both images: `alex`, `squeeze` or `vgg`.

    Raises UserError for another network, and if its weights are absent.
    """

    def __init__(self, net: str) -> None:
        super().__init__()
        self.network = lpips_network(net)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return by_image(self.network, sr, hr)
