"""The part of a picture's EXIF that stays true when it is upscaled: read by Pillow, and written byte for byte."""

import logging
from pathlib import Path
from typing import Any

from PIL import Image

log = logging.getLogger(__name__)

ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
# EXIF's main part also holds a TIFF's layout. Of it only tags are kept that stay true of the upscaled picture:
# description, camera, resolution, software, date, artist, rating, Windows' tags, copyright. The other parts are kept
# except for the tags in the next line.
KEPT_TAGS = (270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 18246, 18249, *range(40091, 40096), 33432)
WIDTH, HEIGHT, INTEROPERABILITY = 0xA002, 0xA003, 0xA005


class _Text(str):
    """EXIF text as Pillow reads it, byte for byte. It is written as these bytes, where Pillow would write "?"."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """The bytes as they were in the file, in whatever encoding."""
        return super().encode("latin-1")


def read_exif(image: Image.Image, path: Path) -> bytes | None:
    """The part of a file's EXIF that describes the photograph; None with a warning if it can't be read."""
    try:
        kept = _kept_exif(image.getexif())
        return kept.tobytes() if len(kept) else None
    except Exception as error:  # Pillow raises many kinds for damaged EXIF
        log.warning("%s: EXIF left out, since it can't be read (%s)", path, error)
        return None


def _kept_exif(exif: Image.Exif) -> Image.Exif:
    """The tags to keep, in the byte order of the original, which texts in UTF-16 follow."""
    kept = Image.Exif()
    kept.endian = exif.endian
    for tag in KEPT_TAGS:
        if tag in exif and getattr(exif[tag], "denominator", 1):  # x/0 isn't a number; TIFF can't hold it
            kept[tag] = _as_written(exif[tag])
    for nested in (EXIF_IFD, GPS_IFD):
        found = exif.get_ifd(nested) if nested in exif else {}
        tags = {tag: _as_written(found[tag]) for tag in found if tag not in (WIDTH, HEIGHT, INTEROPERABILITY)}
        if INTEROPERABILITY in found:  # tells Adobe RGB from sRGB
            tags[INTEROPERABILITY] = {tag: _as_written(value) for tag, value in exif.get_ifd(INTEROPERABILITY).items()}
        if tags:
            kept[nested] = tags
    return kept


def _as_written(value: Any) -> Any:
    return _Text(value) if isinstance(value, str) else value


def as_tags(block: bytes) -> dict[int, Any]:
    """Kept EXIF for Pillow's TIFF writer, which would read the block itself and lose what isn't ASCII."""
    exif = Image.Exif()
    exif.load(block)
    return dict(_kept_exif(exif))


def has_nested(exif: bytes | None) -> bool:
    """True if there are tags of the exposure or the place, which are in parts of their own."""
    tags = Image.Exif()
    tags.load(exif or b"")
    return EXIF_IFD in tags or GPS_IFD in tags


def pixels_per_mm(exif: bytes | None) -> tuple[float, float]:
    """The resolution that EXIF says, or 72 dpi: libvips writes one into every file."""
    tags = Image.Exif()
    tags.load(exif or b"")
    x, y = (float(tags.get(tag, 0)) / (10 if tags.get(296) == 3 else 25.4) for tag in (282, 283))  # per cm or inch
    return (x, y) if x > 0 and y > 0 else (72 / 25.4, 72 / 25.4)
