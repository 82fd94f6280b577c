"""Images: decoding and encoding, 8-bit conversion, luma, shaving, comparison grids.

Throughout this project image tensors are RGB, (B, 3, H, W) or (3, H, W), float in [0, 1]; they are uint8 in 0…255 only
after reading, before writing, and for scoring.
"""

import io
import math
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from srgan.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # Pillow knows these, but other programs would read them
JPEG, START_OF_SCAN = b"\xff\xd8", b"\xff\xda"
ORIENTATION_MARKERS = (b"Exif", b"http://ns.adobe.com/xap/")  # blocks of a JPEG that may hold an orientation
LUMA = (65.481, 128.553, 24.966)  # ITU-R BT.601 studio range, as MATLAB's rgb2ycbcr


@cache
def formats() -> tuple[str, ...]:
    """The formats that are read, by Pillow's names."""
    Image.init()
    return tuple(name for name in Image.ID if name not in NO_PICTURES)


# Pillow warns from half of its limit on, and calls it an attack; above its limit, `decode` says what to do.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(data: bytes, name: str) -> Tensor:
    """Decode an image file to upright RGB: (3, H, W) uint8, a view of interleaved pixels.

    EXIF orientation is applied, grey and palette files become RGB, transparency is laid on white, 16 bits become 8.
    Raises UserError, naming `name`, if the bytes aren't a readable image.
    """
    pixels = _decode_plain_jpeg(data)
    return torch.from_numpy(_decode_by_pillow(data, name) if pixels is None else pixels).permute(2, 0, 1)


def _decode_plain_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Decode a colour JPEG without rotation to exactly Pillow's pixels, twice as fast. None for other files."""
    header = data[: max(0, data.find(START_OF_SCAN))] if data.startswith(JPEG) else b""
    if not header or any(marker in header for marker in ORIENTATION_MARKERS):
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours in ("YCbCr", "RGB") and int(height) * int(width) <= (Image.MAX_IMAGE_PIXELS or math.inf):
            return simplejpeg.decode_jpeg(data)
    except ValueError:
        pass  # a damaged file; Pillow says how
    return None


def _decode_by_pillow(data: bytes, name: str) -> NDArray[np.uint8]:
    with _named(name), Image.open(io.BytesIO(data), formats=formats()) as image:
        refuse_odd_depths(image)
        if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # these two have 16 bits
            raise ValueError(f"an image of mode {image.mode} (32 bits); convert it to 8 or 16 bits")
        mend_transparent_grey(image)
        return np.array(_upright_rgb(image))


def refuse_odd_depths(image: Image.Image) -> None:
    """Raise ValueError for files that Pillow opens with another depth than they have.

    A TIFF of 12 bits per channel becomes 16 bits that are nearly black, a colour JPEG 2000 of more than 8 becomes 8.
    """
    if image.format == "TIFF" and 12 in cast(Any, image).tag_v2.get(258, ()):
        raise ValueError("12 bits per channel; convert it to 16")
    if image.format == "JPEG2000" and len(image.getbands()) > 1 and (bits := _bits_of_jpeg_2000(image)) > 8:
        raise ValueError(f"JPEG 2000 of {bits} bits per channel; convert it to PNG or TIFF")


def mend_transparent_grey(image: Image.Image) -> None:
    """Scale the grey value that means transparent in a PNG of 2 or 4 bits; Pillow scales the pixels to 8 bits only.

    To be called before the pixels are loaded.
    """
    largest = {"L;2": 3, "L;4": 15}.get(str(cast(Any, image).tile[0][3])) if cast(Any, image).tile else None
    transparent = image.info.get("transparency")
    if image.format == "PNG" and largest and isinstance(transparent, int) and transparent <= largest:
        image.info["transparency"] = transparent * 255 // largest


def _bits_of_jpeg_2000(image: Image.Image) -> int:
    """Bits per channel of an open JPEG 2000 file, from the SIZ segment of its code stream (ISO 15444-1, A.5.1)."""
    head = head_of(image)
    start = head.find(b"\xff\x4f\xff\x51")  # start of the code stream, then SIZ
    return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 0


def head_of(image: Image.Image) -> bytes:
    """The first MiB of an open file."""
    file = cast(Any, image).fp
    position = file.tell()
    file.seek(0)
    head = file.read(1 << 20)
    file.seek(position)
    return head


@contextmanager
def _named(name: str) -> Generator[None]:
    """Turn what Pillow raises into a UserError that names the file."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not a readable image (of no known format); repair or remove it") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UserError(f"{name}: more than {limit:.0f} megapixels; cut it in pieces, or remove it") from error
    except MemoryError as error:
        raise UserError(f"{name}: doesn't fit into memory; cut it in pieces, or remove it") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"{name}: not a readable image ({error}); repair or remove it") from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it
        wide = np.asarray(upright).astype(np.int64)
        upright = Image.fromarray(((wide * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8))
    if upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return upright.convert("RGB")


def save_png(image: Tensor, path: Path) -> None:
    """Write one image, (3, H, W) uint8 or float in [0, 1], as PNG."""
    Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy()).save(path)


def to_uint8(images: Tensor) -> Tensor:
    """Convert to 8 bits as for a file: clamp to [0, 1] and round. uint8 images are returned unchanged."""
    if images.dtype == torch.uint8:
        return images
    return images.detach().clamp(0, 1).mul(255).round().to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """8-bit images as float32 in [0, 1]."""
    return images.float().div(255)


def luma(images: Tensor) -> Tensor:
    """Luma Y of (…, 3, H, W) RGB in 0…255: (…, 1, H, W) float64 in 16…235, not rounded."""
    red, green, blue = images.double().unbind(-3)
    weighted = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return (16 + weighted / 255).unsqueeze(-3)


def shave(images: Tensor, border: int) -> Tensor:
    """Remove `border` pixels on each side of (…, H, W)."""
    height, width = images.shape[-2:]
    return images[..., border : height - border, border : width - border]


def crop_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Cut (…, H, W) at the bottom and right so that both sides divide by `multiple`."""
    height, width = images.shape[-2:]
    return images[..., : height - height % multiple, : width - width % multiple]


def middle(pictures: Sequence[Tensor], side: int, scale: int) -> list[Tensor]:
    """Cut the same centre, at most side × side HR pixels, from an LR (3, h, w) and pictures `scale` times as large."""
    height, width = pictures[0].shape[-2:]
    lr_side = max(1, side // scale)
    top, left = max(0, height - lr_side) // 2, max(0, width - lr_side) // 2
    factors = [1] + [scale] * (len(pictures) - 1)
    return [
        picture[:, factor * top : factor * (top + lr_side), factor * left : factor * (left + lr_side)]
        for picture, factor in zip(pictures, factors, strict=True)
    ]


def comparison_grid(rows: Sequence[Sequence[Tensor]], titles: Sequence[str], gap: int = 4) -> Tensor:
    """Lay rows of pictures side by side under column titles, as one (3, H, W) uint8 picture on white.

    rows: in each row one (3, h, w) image per column, float in [0, 1] or uint8. The last column (the HR) sets the size
    of the row's cells; a smaller picture (the LR) is enlarged by repeating its pixels. gap: white pixels after a cell.
    """
    font = ImageFont.load_default(size=14)
    strips: list[Tensor] = []
    for row in rows:
        height, width = row[-1].shape[-2:]
        cells = [F.pad(_enlarge(to_uint8(image).cpu(), height, width), (0, gap, 0, gap), value=255) for image in row]
        strips.append(torch.cat(cells, dim=-1))
    canvas_width = max(strip.shape[-1] for strip in strips)
    header = Image.new("RGB", (canvas_width, 22), "white")
    draw = ImageDraw.Draw(header)
    column = strips[0].shape[-1] // len(titles)
    for index, title in enumerate(titles):
        draw.text((index * column + 2, 2), title, fill="black", font=font)
    heading = torch.from_numpy(np.asarray(header).copy()).permute(2, 0, 1)
    padded = [F.pad(strip, (0, canvas_width - strip.shape[-1]), value=255) for strip in strips]
    return torch.cat([heading, *padded], dim=-2)


def _enlarge(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image[None], size=(height, width), mode="nearest")[0]


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an upright image, from its header. Raises UserError as `decode` does."""
    with _named(path), Image.open(path, formats=formats()) as image:
        # Not image.getexif(), which decodes a PNG to look for EXIF behind the pixels. Pillow turns TIFF's size itself.
        orientation = 1 if image.format == "TIFF" else Image.Image.getexif(image).get(0x0112, 1)
        turned = orientation >= 5  # EXIF orientation swaps width and height
        return (image.height, image.width) if turned else (image.width, image.height)
