"""LPIPS and DISTS as losses: perceptual distances whose weights were learned from human judgements.

Judge a generator trained with one of them by other metrics. Unlike the metrics of the same name these losses don't
round images to 8 bits.
"""

from torch import Tensor, nn

from srgan.metrics.networks import dists_network, fetch, lpips_network


class LPIPSLoss(nn.Module):
    """Mean LPIPS (Zhang et al. 2018, version 0.1) of sr and hr, (B, 3, H, W) in [0, 1]; a scalar.

    The network is frozen and in no state dict; its weights are downloaded once.

    Args:
        net: `alex`, `squeeze` or `vgg`.
    """

    def __init__(self, net: str) -> None:
        super().__init__()
        fetch(net)
        self.network = lpips_network(net)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return self.network(sr, hr).mean()


class DISTSLoss(nn.Module):
    """Mean DISTS (Ding et al. 2020) of sr and hr, (B, 3, H, W) in [0, 1]; a scalar.

    VGG16 is frozen and in no state dict; its weights are downloaded once.
    """

    def __init__(self) -> None:
        super().__init__()
        fetch("vgg")
        self.network = dists_network()

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return self.network(sr, hr).mean()
