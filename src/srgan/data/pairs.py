"""Pairs of HR and LR files: matches them by name and checks their sizes."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from srgan.data.layout import SUFFIX
from srgan.data.sources import FolderSource, PairSource, Splits, hold_out, left_to_train, list_hr, list_images
from srgan.errors import UserError
from srgan.files import several
from srgan.images import image_size


def pair_splits(
    hr: Path, lr: Path, validation_hr: Path | None, validation_lr: Path | None, held_out: float, scale: int
) -> Splits:
    """Splits of two folders of pairs: the validation folders serve validation and test, else a share is held out.

    Raises UserError if a folder is missing or empty, if an image has no partner, or if a pair doesn't fit the scale.
    """
    pairs = match_pairs(hr, lr, scale, "data.hr", "data.lr")
    if validation_hr is not None and validation_lr is not None:
        held = match_pairs(validation_hr, validation_lr, scale, "data.validation_hr", "data.validation_lr")
        return Splits(left_to_train(pairs, held, "data.validation_hr"), held, held)
    if validation_hr is not None or validation_lr is not None:
        raise UserError("data.validation_hr and data.validation_lr belong together; give both or none")
    return hold_out(pairs, held_out, f"{hr} holds", "name folders by data.validation_hr=PATH data.validation_lr=PATH")


def match_pairs(hr: Path, lr: Path, scale: int, hr_key: str, lr_key: str) -> PairSource:
    """Match the HR and LR files of two folders by their relative paths, with or without suffixes such as x4 or _LR.

    `hr_key` and `lr_key` are the settings that name the folders. An LR must have the size of its HR over the scale,
    rounded down. Raises UserError, naming the file, for one without a partner or of another size.
    """
    hr_files, lr_files = list_hr(hr, hr_key), list_images(lr, lr_key)
    hr_index, lr_index = _indices(hr_files, lr_files, scale), _indices(lr_files, hr_files, scale)
    for files, name, missing in (
        (hr_files, "LR", (lr, hr_index.keys() - lr_index.keys(), hr_index)),
        (lr_files, "HR", (hr, lr_index.keys() - hr_index.keys(), lr_index)),
    ):
        folder, alone, index = missing
        if alone:
            raise UserError(
                f"{files.name(index[min(alone)])} has no {name} in {folder.absolute()} ({len(alone)} of {len(files)}"
                " have none); add it or remove the file"
            )
    order = np.array([lr_index[key] for key in sorted(hr_index, key=lambda key: hr_index[key])])
    pairs = PairSource(hr_files.root, hr_files.names, lr_files.select(order))
    _check_sizes(pairs, scale)
    return pairs


def _indices(files: FolderSource, others: FolderSource, scale: int) -> dict[str, int]:
    """The index of each file by its key, the relative path without suffixes, which it shares with its partner.

    A path that also exists in the other folder, with or without x4 or _x4 (for ×4), is its own key. Raises UserError if
    two files have the same key.
    """
    exact, scaled = set(_stems(others)), (f"x{scale}", f"_x{scale}")
    found: dict[str, int] = {}
    for index, stem in enumerate(_stems(files)):
        bare = next((stem.removesuffix(end) for end in reversed(scaled) if stem.endswith(end)), stem)
        if stem in exact or any(stem + end in exact for end in scaled):
            key = stem
        else:
            key = bare if bare in exact else SUFFIX.sub("", stem)
        if key in found:
            raise UserError(f"{files.name(found[key])} and {files.name(index)} have the same partner; rename one")
        found[key] = index
    return found


def _stems(files: FolderSource) -> Iterable[str]:
    return (os.path.splitext(os.fsdecode(name))[0] for name in files.names.tolist())  # noqa: PTH122 -- many names


def _check_sizes(pairs: PairSource, scale: int) -> None:
    """Read the size of every file from its header. Raises UserError, naming the pairs that don't fit."""

    def check(index: int) -> str | None:
        return pair_fault(pairs.name(index), pairs.lr.name(index), scale)

    with ThreadPoolExecutor() as pool:
        wrong = [text for text in pool.map(check, range(len(pairs))) if text is not None]
    if wrong:
        raise UserError(several(wrong) + (f"\n({len(wrong)} of {len(pairs)} pairs don't fit)" if wrong[1:] else ""))


def pair_fault(hr_path: str, lr_path: str, scale: int) -> str | None:
    """The reason why two files can't be a pair of HR and LR, by the sizes in their headers; None if they can."""
    try:
        lr, hr = image_size(lr_path), image_size(hr_path)
    except UserError as error:
        return str(error)
    if lr == (hr[0] // scale, hr[1] // scale):
        return None
    found = f"{hr_path}: LR {lr[0]}×{lr[1]}, HR {hr[0]}×{hr[1]}"
    if lr == hr:
        return (
            f"{found}: the same size, as in RealSR, so nothing is left to enlarge; scale={scale} needs an LR of"
            f" {hr[0] // scale}×{hr[1] // scale}, or a folder of the HR alone, of which LR is made"
        )
    if lr[0] and hr[0] % lr[0] == hr[1] % lr[1] == 0 and hr[0] // lr[0] == hr[1] // lr[1]:
        return f"{found}: that is ×{hr[0] // lr[0]}, scale={scale} was given"
    return f"{found}: no pair; for scale={scale} the LR must be {hr[0] // scale}×{hr[1] // scale}"
