"""Loads the perceptual metrics that need a network or a model of their own: LPIPS, DISTS, NIQE."""

import logging
from collections.abc import Sequence

from torch import nn

from srgan.errors import UserError
from srgan.metrics import names, niqe
from srgan.metrics.dists import DISTS
from srgan.metrics.lpips import LPIPS
from srgan.metrics.networks import FILES, URL, check_name, fetch, weights_file

log = logging.getLogger(__name__)

Measures = dict[str, nn.Module]  # metric's name → module that maps (sr, hr) to (B,), NaN where undefined


def load(lpips: str | Sequence[str] | None, with_niqe: bool, dists: bool, scale: int) -> Measures:
    """Load the requested metrics. For those that are unavailable the log says why.

    Args:
        lpips: LPIPS' network or several of them; missing weights are downloaded. None for no LPIPS.
        with_niqe: load NIQE if a model of pristine photographs is installed; it cuts `scale` pixels off each side.
        dists: load DISTS if VGG16's weights are in torch hub's folder.

    Raises UserError for a network that LPIPS doesn't have.
    """
    networks = [lpips] if isinstance(lpips, str) else list(lpips or ())
    measures: Measures = {}
    for net in networks:
        check_name(net)
        try:
            fetch(net)
        except UserError as error:
            log.warning("LPIPS (%s) is not measured: %s", net, error)
            continue
        measures[names.lpips(net)] = LPIPS(net)
    if dists and weights_file("vgg").is_file():
        measures[names.DISTS] = DISTS()
    elif dists:
        log.info("DISTS is not measured: put %s%s at %s", URL, FILES["vgg"][0], weights_file("vgg"))
    if with_niqe and (measure := niqe.load(scale)) is not None:
        measures[names.NIQE] = measure
    if measures:
        log.info("Measured beside PSNR and SSIM: %s", ", ".join(names.TITLES[name] for name in measures))
    return measures
