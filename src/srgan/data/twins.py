"""Finds pictures that are there twice: in another size, or as a copy beside their originals.

Names choose what is compared (`layout.same_pictures`), and the pictures themselves decide, by thumbnails. So it doesn't
matter what a data set calls its folders: FFHQ's `thumbnails128x128`, SR3's `sr_16_128`, results in `results/`.
"""

import logging
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from srgan.data import layout
from srgan.errors import UserError
from srgan.images import image_size

log = logging.getLogger(__name__)

Pair = tuple[str, str]
SIDE = 16  # of a thumbnail
ALIKE = 0.97  # correlation of two thumbnails of one picture, also a noisy or blurred one; photographs have less
MOST_PAIRS = 32  # that are compared of each two folders, taken at even intervals
MOST_PAIRS_INSIDE = 1000  # and within a folder, where a single one counts
MOST_PIXELS = 2**26  # of an image of which a thumbnail is made
MOST_IMAGES = 400  # that are compared each with each


def refuse_twins(root: Path, paths: Sequence[str], scored: bool) -> None:
    """Raise UserError if images below `root` are one picture twice.

    Of two folders, half of the pictures with the same names must be the same. In one folder a single picture in two
    sizes is enough; copies of one size there are refused if they would be `scored`, and named in the log if they are to
    be trained on. Images of different sizes are compared whatever their names, unless there are too many; those that
    are called smaller sizes (`layout.MULTISCALE`) may be trained on. What can't be read is left to others.
    """
    images = _Images(root)
    by_folders: dict[Pair, list[tuple[Pair, bool]]] = {}
    for named, pairs in ((True, layout.same_pictures(paths)), (False, layout.similar_names(paths))):
        for pair in pairs:
            folders = sorted(path.rpartition("/")[0] for path in pair)
            by_folders.setdefault((folders[0], folders[1]), []).append((pair, named))
    for (folder, other), candidates in by_folders.items():
        most = MOST_PAIRS_INSIDE if folder == other else MOST_PAIRS
        tried = candidates[:: max(1, len(candidates) // most)]
        smaller = [
            pair
            for pair, named in tried
            if images.made_smaller(*pair) and (images.alike(*pair) or (named and images.without_thumbnail(*pair)))
        ]
        twins = smaller or [pair for pair, _ in tried if images.alike(*pair)]
        if not twins or (folder != other and 2 * len(twins) < len(tried)):
            continue
        if smaller or scored or folder != other:
            raise images.error(twins[0], scored)
        log.warning(
            "%s: %s and %s are the same picture (%d such pairs); a share that is held out may hold one of them",
            root,
            *twins[0],
            len(twins),
        )
    if len(paths) <= MOST_IMAGES:
        for path in paths:
            for other in paths:
                smaller = images.size(path) < images.size(other) and images.made_smaller(path, other)
                if smaller and (scored or not _meant(path, other)) and images.alike(path, other):
                    raise images.error((other, path), scored)


def _meant(path: str, other: str) -> bool:
    """True if the file names say that one is a smaller size of the other."""
    names = {name.rpartition("/")[2] for name in (path, other)}
    smaller = any(re.search(layout.MULTISCALE, name) for name in names)
    return (
        smaller
        and len(names) == 2
        and len({re.sub(layout.MULTISCALE, "", name).rpartition(".")[0] for name in names}) == 1
    )


class _Images:
    """Sizes and thumbnails of the images below a folder, each read once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.size = cache(self._size)
        self._thumbnail = cache(self._make_thumbnail)

    def made_smaller(self, path: str, other: str) -> bool:
        """True if one size is the other divided by a whole number from 2, rounded down."""
        (width, height), (whole_width, whole_height) = sorted((self.size(path), self.size(other)))
        scale = round(whole_width / width) if width else 0
        return scale > 1 and (whole_width // scale, whole_height // scale) == (width, height)

    def alike(self, path: str, other: str) -> bool:
        """True if two thumbnails are nearly the same; False if they show an even surface, or a file can't be read."""
        first, second = self._thumbnail(path), self._thumbnail(other)
        return first is not None and second is not None and float(first @ second) >= ALIKE

    def without_thumbnail(self, *paths: str) -> bool:
        """True if one is too large for a thumbnail or none has one, so that only their names can tell."""
        too_large = any(math.prod(self.size(path)) > MOST_PIXELS for path in paths)
        return too_large or all(self._thumbnail(path) is None for path in paths)

    def error(self, pair: Pair, scored: bool) -> UserError:
        """What to raise for a picture that is there twice."""
        first, second = (f"{path} ({'×'.join(map(str, self.size(path)))})" for path in pair)
        found = "are the same picture"
        if self.made_smaller(*pair):
            found = "are one picture in two sizes" + (", and LR would be scored as HR" if scored else "")
        return UserError(
            f"{self._root}: {first} and {second} {found}; name the folder of the HR images alone, or call the folders"
            " HR and LR"
        )

    def _size(self, path: str) -> tuple[int, int]:
        """Width and height; zeros for a file that can't be read."""
        try:
            return image_size(str(self._root / path))
        except Exception:  # whatever Pillow says to a damaged file
            return (0, 0)

    def _make_thumbnail(self, path: str) -> NDArray[np.float32] | None:
        """The grey thumbnail as a vector of mean 0 and length 1; None for an even surface, a damaged or a huge file."""
        if not 0 < math.prod(self.size(path)) <= MOST_PIXELS:
            return None
        try:
            with Image.open(self._root / path) as image:
                image.draft("L", (4 * SIDE, 4 * SIDE))  # a JPEG is decoded at a fraction of its size
                grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        except Exception:  # as above
            return None
        values = np.asarray(grey, np.float32).ravel()
        values = values - values.mean()
        length = float(np.linalg.norm(values))
        return values / length if length > 2 * SIDE else None  # less than 2 grey levels of deviation
