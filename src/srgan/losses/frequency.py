"""A loss in the frequency domain."""

import torch
from torch import Tensor, nn


class FocalFrequencyLoss(nn.Module):
    """Squared distance between the spectra of sr and hr, weighted towards the frequencies that differ most; a scalar.

    sr, hr: (B, 3, H, W) in [0, 1]. Jiang et al. 2021, Eq. 8–10, with orthonormal transforms. Each frequency's weight is
    its own distance to the power α, divided by the largest in its image and channel; the weights get no gradient.

    Args:
        alpha: 0 weights all frequencies equally, which gives the mean squared error of the pixels.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        difference = torch.fft.fft2(sr.float() - hr.float(), norm="ortho")
        distance = torch.view_as_real(difference).square().sum(-1)
        weight = distance.detach().sqrt() ** self.alpha
        weight = weight / weight.amax((-2, -1), keepdim=True).clamp(min=1e-12)  # 1e-12 for equal images
        return (weight * distance).mean()
