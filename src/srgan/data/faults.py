"""Unreadable training images: each is logged once and replaced by another; too many stop the training."""

import logging
from collections.abc import Mapping, Sequence

import torch

from srgan.data.sources import Source
from srgan.errors import UserError
from srgan.files import several

log = logging.getLogger(__name__)

MOST_UNREADABLE = 0.01  # share of the images; more than this stops the training


class Faults:
    """The unreadable images of a training set, shared by all processes that load it.

    A pair of HR and LR counts as one image.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._unreadable = torch.zeros(len(source), dtype=torch.bool).share_memory_()
        self._told_of_small = torch.zeros(1, dtype=torch.bool).share_memory_()

    def __contains__(self, index: int) -> bool:
        return bool(self._unreadable[index])

    def add(self, reasons: Mapping[int, str]) -> None:
        """Log those unreadable images that aren't known yet. reasons: by the images' indices.

        Raises UserError, which lists them all, if they are more than 1 % of the set.
        """
        new = [reason for index, reason in reasons.items() if index not in self]
        for index in reasons:
            self._unreadable[index] = True
        indices = self._unreadable.nonzero().flatten().tolist()
        count = f"{len(indices)} of {len(self._source):,} training images can't be used"
        if len(indices) > MOST_UNREADABLE * len(self._source):
            known = [reasons.get(index) or self._source.name(index) for index in indices]
            raise UserError(f"{count}, which is more than {MOST_UNREADABLE:.0%}: {several(known)}")
        if new:
            log.warning("%s\nOther images replace them; so far %s", several(new).strip(), count)

    def small(self, lines: Sequence[str], crop: int) -> None:
        """Log once which images are smaller than the crop."""
        if lines and not self._told_of_small:
            self._told_of_small.fill_(True)
            log.warning(
                "%s, smaller than the crop of %d: such images are mirrored at their edges to fill it",
                several(lines).strip(), crop,
            )  # fmt: skip
