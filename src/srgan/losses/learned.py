"""Perceptual distances whose weights were learned from people's judgements, as losses: LPIPS and DISTS.

A generator trained by one of them has seen it: judge the result by other measures. Unlike the metrics of the same name
they don't round to 8 bits.
"""

from torch import Tensor, nn

from srgan.metrics.networks import dists_network, fetch, lpips_network


class LPIPSLoss(nn.Module):
    """Mean LPIPS (Zhang et al. 2018, version 0.1) of sr and hr, (B, 3, H, W) in [0, 1]; a scalar.

    The network is frozen and in no state dict; its weights are fetched once.

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

    VGG16 is frozen and in no state dict; its weights are fetched once.
    """

    def __init__(self) -> None:
        super().__init__()
        fetch("vgg")
        self.network = dists_network()

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return self.network(sr, hr).mean()
