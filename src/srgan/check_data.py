"""`python -m srgan.check_data`: reads a whole data set as training would and lists its faults."""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, cast

from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from srgan import config, config_checks
from srgan.data.crops import SSIM_WINDOW
from srgan.data.datamodule import ImageDataModule
from srgan.data.sources import PairSource, Source
from srgan.errors import UserError
from srgan.files import several
from srgan.images import decode

log = logging.getLogger(__name__)

CHUNK = 1024  # images submitted to the threads at a time
REPORT = "wrong.txt"  # in the run's folder: one line per fault


class Image(NamedTuple):
    """One image: its split and path, its fault if it has one, hashes of its file and of its pixels."""

    split: str
    name: str
    fault: str | None = None
    file: bytes = b""
    pixels: bytes = b""
    small: bool = False


def check_data(cfg: DictConfig) -> int:
    """Read all images of a data set and return their number. Raises UserError, with a list, if there are faults."""
    config_checks.check(cfg)
    data = cast(ImageDataModule, instantiate(cfg.data, _convert_="all"))
    images = _read_all(data)
    small = [image.name for image in images if image.small]
    if small:
        log.info(
            "Smaller than data.crop=%d, and mirrored at their edges in training: %s", data.crop, several(small).strip()
        )
    wrong = [image.fault for image in images if image.fault is not None] + _shared(images)
    log.info("%s: %d images read, %d faults", type(data).__name__, len(images), len(wrong))
    report = Path(cfg.run_dir) / REPORT
    report.unlink(missing_ok=True)  # of an earlier check
    if wrong:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text("\n".join(wrong) + "\n", encoding="utf-8", errors="backslashreplace")
        raise UserError(f"{len(wrong)} faults, all of them in {report}: {several(wrong)}")
    return len(images)


def _read_all(data: ImageDataModule) -> list[Image]:
    """Read every image of every split once, and the LR of pairs, in threads, with a progress bar."""
    splits = {"train": data.splits.train, "validation": data.splits.validation, "test": data.splits.test}
    jobs: dict[str, tuple[str, Source, int]] = {}  # keyed by path, since validation and test may be the same files
    for split, source in splits.items():
        for part in (source, source.lr) if isinstance(source, PairSource) else (source,):
            kind = f"{split} LR" if part is not source else split
            jobs |= {name: (kind, part, i) for i in range(len(part)) if (name := part.name(i)) not in jobs}
    queue = list(jobs.values())
    images: list[Image] = []
    with ThreadPoolExecutor() as pool, tqdm(total=len(queue), unit="image", disable=None, dynamic_ncols=True) as bar:
        for start in range(0, len(queue), CHUNK):  # in chunks, so that Ctrl-C works
            for image in pool.map(lambda job: _read(data, *job), queue[start : start + CHUNK]):
                images.append(image)
                bar.update()
    return images


def _read(data: ImageDataModule, split: str, source: Source, index: int) -> Image:
    name, scale = source.name(index), data.degradation.scale
    try:
        encoded = source.read(index)
        pixels = decode(encoded, name)
    except UserError as error:
        return Image(split, name, str(error))
    height, width = pixels.shape[-2:]
    scored = split in ("validation", "test") and data.resize is None
    fault = None
    if scored and min(height, width) < SSIM_WINDOW + 3 * scale:
        fault = f"{name} is {width}×{height}, too small to be scored at ×{scale}; remove it"
    digest = hashlib.blake2b(f"{width}×{height}".encode(), digest_size=16)
    digest.update(pixels.permute(1, 2, 0).contiguous().numpy().tobytes())
    small = split == "train" and data.resize is None and min(height, width) < data.crop
    return Image(split, name, fault, hashlib.blake2b(encoded, digest_size=16).digest(), digest.digest(), small)


def _shared(images: Sequence[Image]) -> list[str]:
    """One line for each picture that training shares with another split, which makes its scores meaningless."""
    same: dict[bytes, list[Image]] = defaultdict(list)
    for image in images:
        if image.pixels and not image.split.endswith(" LR"):
            same[image.pixels].append(image)
    lines: list[str] = []
    for group in same.values():
        one_of_each = {image.split: image for image in group}
        if len(one_of_each) > 1 and "train" in one_of_each:
            what = "bytes" if len({image.file for image in group}) == 1 else "pixels"
            names = ", ".join(f"{image.name} ({split})" for split, image in one_of_each.items())
            lines.append(f"the same {what} in several splits: {names}")
    return lines


def main() -> None:
    config.run(check_data, "check_data")


if __name__ == "__main__":
    main()
