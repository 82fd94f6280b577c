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


def load(
    lpips: str | Sequence[str] | None, with_niqe: bool, dists: bool, scale: int, download: bool = False
) -> Measures:
    """Load the requested metrics. For those that are unavailable the log says why.

    Args:
        lpips: LPIPS' network or several of them, whose weights are in torch hub's folder. None for no LPIPS.
        with_niqe: load NIQE if a model of pristine photographs is installed; it cuts `scale` pixels off each side.
        dists: load DISTS if VGG16's weights are in torch hub's folder.
        download: fetch missing weights of LPIPS and DISTS first. Otherwise nothing is read from the network.

    Raises UserError for a network that LPIPS doesn't have, and if a download fails.
    """
    networks = [lpips] if isinstance(lpips, str) else list(lpips or ())
    measures: Measures = {}
    for net in networks:
        check_name(net)
        if _is_here(net, f"LPIPS ({net})", download):
            measures[names.lpips(net)] = LPIPS(net)
    if dists and _is_here("vgg", "DISTS", download):
        measures[names.DISTS] = DISTS()
    if with_niqe and (measure := niqe.load(scale)) is not None:
        measures[names.NIQE] = measure
    if measures:
        log.info("Measured beside PSNR and SSIM: %s", ", ".join(names.TITLES[name] for name in measures))
    return measures


def _is_here(net: str, metric: str, download: bool) -> bool:
    """True if a network's weights are in torch hub's folder, after a `download` if wanted. The log says if not."""
    try:
        if download:
            fetch(net)
    except UserError as error:
        raise UserError(f"{metric}: {error}, or leave out download=true") from error
    if weights_file(net).is_file():
        return True
    name, size = FILES[net]
    log.warning(
        "%s is not measured: its weights are not at %s; download=true fetches them (%d MB), or get %s%s",
        *(metric, weights_file(net), size, URL, name),
    )
    return False
