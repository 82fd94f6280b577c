"""The measures of perception that need a network or a model of their own, loaded by the settings of a command."""

import logging
from collections.abc import Sequence

from torch import nn

from srgan.errors import UserError
from srgan.metrics import names, niqe
from srgan.metrics.dists import DISTS
from srgan.metrics.lpips import LPIPS
from srgan.metrics.networks import FILES, URL, check_name, fetch, weights_file

log = logging.getLogger(__name__)

Measures = dict[str, nn.Module]  # by the name of the figure; each maps (sr, hr) to (B,), NaN where it is undefined


def load(lpips: str | Sequence[str] | None, with_niqe: bool, dists: bool, scale: int) -> Measures:
    """Load what is asked for and can be had; a line of the log says what can't, and why.

    Args:
        lpips: the network of LPIPS, or several; its weights are fetched once.
        with_niqe: NIQE, if a model of pristine photographs is installed; `scale` pixels are cut off on each side.
        dists: DISTS, if torch hub has VGG16's weights.

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
