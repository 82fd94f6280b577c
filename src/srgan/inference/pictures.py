"""Reads and writes picture files with orientation, ICC profile, transparency, grey, 16 bits and EXIF.

Training and scoring only need 8-bit RGB, which `images.decode` reads.
"""

import io
import logging
import math
import os
import secrets
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from srgan.errors import UserError
from srgan.images import formats, head_of, mend_transparent_grey, refuse_odd_depths
from srgan.inference.exif import ORIENTATION, as_tags, has_nested, pixels_per_mm, read_exif

log = logging.getLogger(__name__)

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF"}  # suffix of a file to write → Pillow's name
SRGB_GAMMA = 1 / 2.2  # as PNG files say it
UNREADABLE = (  # suffixes of pictures that are not read here
    *(".heic", ".heif", ".hif", ".jxl", ".svg"),
    *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".iiq", ".nef", ".nrw"),  # camera raw files, as the next
    *(".orf", ".pef", ".raf", ".rw2", ".rwl", ".srw", ".x3f"),
)
MAX_MEGAPIXELS = 179.0  # default limit for a file; the largest that Pillow accepts
LONGEST_SIDE = {"jpg": 65500, "webp": 16383}  # libjpeg's and libwebp's
MODES = ("L", "LA", "RGB", "RGBA")  # by number of channels
COLOUR_SPACES = (b"GRAY", b"GRAY", b"RGB ", b"RGB ")  # their names in ICC profiles, by number of channels
LOADERS_16_BIT = {"PNG": "pngload_buffer", "TIFF": "tiffload_buffer"}  # Pillow's name of a format → pyvips' function
MAX_JPEG_EXIF = 65533  # bytes
LARGE_TIFF = 4_000_000_000  # bytes of pixels; from here on as BigTIFF, since a plain one holds 4 GiB


_PILLOW_LIMIT = threading.Lock()  # held while Pillow's global limit is lifted


class Picture(NamedTuple):
    """The content of a picture file.

    Attributes:
        pixels: (H, W, C) uint8 or uint16; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        profile: ICC profile of the colours.
        exif: EXIF that describes the photograph (camera, date, exposure, place), without orientation and size.
    """

    pixels: NDArray[Any]
    profile: bytes | None = None
    exif: bytes | None = None


@cache
def suffixes() -> tuple[str, ...]:
    """The suffixes of files that can be read, such as .png."""
    names = {*formats(), "MPO"}
    return tuple(sorted(suffix for suffix, name in Image.registered_extensions().items() if name in names))


def refusal(path: Path) -> str | None:
    """Why a file isn't read, if its suffix says so, as that of a camera's raw format; else None."""
    suffix = path.suffix.lower()
    if suffix not in UNREADABLE or suffix in suffixes():
        return None
    return f"{path}: {suffix[1:].upper()} is not read here; convert it to JPEG, PNG or TIFF"


def read(path: Path, max_megapixels: float = MAX_MEGAPIXELS, allowed: Sequence[str] | None = None) -> Picture:
    """Read a file and apply its EXIF orientation. allowed: Pillow's names of formats; None for all that are read.

    Raises UserError if the file can't be read, holds several pictures or has more than `max_megapixels` million pixels.
    """
    if text := refusal(path):
        raise UserError(text)
    try:
        with _opened(path, allowed) as image:
            _check_size(path, *image.size, max_megapixels)
            pages = getattr(image, "n_frames", 1)
            if pages > 1 and image.format not in ("MPO", "PSD"):  # a JPEG with a preview, and layers: one picture
                raise UserError(f"{path}: {pages} frames or pages; upscale them one by one")
            refuse_odd_depths(image)
            _refuse_deep(image)
            _warn_of_gamma(image, path)
            if _is_16_bit(image):
                picture = _read_16_bit(path, str(image.format), image.size, max_megapixels)
                exif = read_exif(image, path)  # after a warning about damaged EXIF the next finds none
                return picture._replace(pixels=_turned(picture.pixels, image.getexif().get(ORIENTATION, 1)), exif=exif)
            large = image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf)
            mend_transparent_grey(image)
            tiff = image.format == "TIFF"  # whose file is closed when it is loaded
            exif = read_exif(image, path) if tiff else None
            with _without_pillows_limit() if large else nullcontext():  # TIFF is checked again when it is loaded
                image.load()
            if not tiff:  # EXIF may follow the pixels in a PNG
                exif = read_exif(image, path)
            return Picture(*from_pil(ImageOps.exif_transpose(image)), exif)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except PermissionError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    except UnidentifiedImageError as error:
        if path.suffix.lower() in (".tif", ".tiff") and path.stat().st_size:  # such as 16-bit grey with alpha
            return _read_16_bit(path, "TIFF", None, max_megapixels)
        raise UserError(f"{path}: not a readable image (of no known format)") from error
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise UserError(f"{path}: not a readable image ({error})") from error


def _opened(path: Path, allowed: Sequence[str] | None) -> Image.Image:
    with _without_pillows_limit():
        return Image.open(path, formats=formats() if allowed is None else tuple(allowed))


@contextmanager
def _without_pillows_limit() -> Generator[None]:
    """Lift Pillow's own size limit, whose errors speak of an attack. It is global, so one thread does so at a time."""
    with _PILLOW_LIMIT:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(path: Path, width: int, height: int, max_megapixels: float) -> None:
    """Raise UserError if there are more pixels than the limit."""
    if width * height > max_megapixels * 1e6:
        raise UserError(
            f"{path}: {width}×{height} are {width * height / 1e6:g} megapixels, more than the limit of"
            f" {max_megapixels:g}; --max-megapixels raises it"
        )


def from_pil(image: Image.Image) -> tuple[NDArray[Any], bytes | None]:
    """The pixels of a Pillow image, (H, W, C) as in `Picture`, and its ICC profile.

    Palettes become RGB or RGBA, bilevel images and grey palettes become grey, CMYK and other colour spaces become RGB.
    A profile that doesn't fit the pixels' colour space is dropped.
    Raises UserError for floating point and 32-bit images.
    """
    profile: bytes | None = image.info.get("icc_profile") or None
    if image.mode.startswith("I;16"):
        return np.asarray(image)[..., None].astype(np.uint16), _matching_profile(profile, 1)
    if image.mode in ("I", "F"):
        raise UserError(f"an image of mode {image.mode} (32 bits); convert it to 8 or 16 bits")
    if image.mode == "CMYK" and profile is not None:
        image, profile = _to_srgb(image, profile), None
    elif image.mode not in MODES:
        if image.mode not in ("1", "P", "PA"):
            profile = None  # it describes the colour space before the conversion
        grey_palette = image.mode == "P" and _has_grey_palette(image) and not _matching_profile(profile, 3)
        grey = image.mode == "1" or grey_palette
        image = image.convert(("L" if grey else "RGB") + ("A" if image.has_transparency_data else ""))
    elif image.has_transparency_data and image.mode in ("L", "RGB"):
        image = image.convert(f"{image.mode}A")  # one colour means transparent
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels, _matching_profile(profile, pixels.shape[-1])


def to_pil(pixels: NDArray[Any]) -> Image.Image:
    """Make a Pillow image of (H, W, C) uint8, or uint16 with one channel."""
    channels = pixels.shape[-1]
    if pixels.dtype == np.uint16:
        if channels != 1:
            raise UserError("Pillow holds 16 bits for grey images only; take arrays")
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def write(picture: Picture, path: Path, quality: int = 95) -> None:
    """Write a picture in the format of the path's suffix. A temporary file is written first, so it is never half there.

    `quality`, 1 to 100, is for JPEG and WebP. EXIF that the format can't hold is dropped with a warning.
    Raises UserError if the format can't hold the picture or the file can't be written.
    """
    name = check_target(path, picture.pixels.shape, picture.pixels.dtype)
    resolution = pixels_per_mm(picture.exif)
    picture = picture._replace(exif=_exif_for(picture, name, path))
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        if _needs_vips(picture, name):
            encoded = _encode_by_vips(picture, name, resolution)
        else:
            encoded = _encode_by_pillow(picture, name, quality)
        temporary.write_bytes(encoded)
        os.replace(temporary, path)  # noqa: PTH105 -- named so in every manual on writing files safely
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error})") from error
    except (RuntimeError, ValueError) as error:  # from Pillow, if libtiff, libwebp or EXIF can't hold it
        raise UserError(f"{path}: can't be written ({error})") from error
    finally:
        with suppress(OSError):  # there may be no such folder
            temporary.unlink()


def check_target(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    """The format that the path's suffix names, a key of FORMATS; makes the path's folder.

    Raises UserError if the format can't hold pixels of this shape, (H, W, C), and type, or the folder can't be used.
    """
    name = path.suffix.lower().lstrip(".").replace("jpeg", "jpg").replace("tiff", "tif")
    if name not in FORMATS:
        raise UserError(f"{path}: can't write {path.suffix or 'a file without suffix'}; take {', '.join(FORMATS)}")
    height, width, channels = shape
    if max(height, width) > LONGEST_SIDE.get(name, 2**31):
        raise UserError(f"{path}: {width}×{height} pixels are more than {name} can hold; take png or tif")
    if name == "jpg" and channels in (2, 4):
        raise UserError(f"{path}: jpg can't hold transparency; take png, webp or tif")
    if name in ("jpg", "webp") and dtype == np.uint16:
        raise UserError(f"{path}: {name} can't hold 16 bits; take png or tif")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error})") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: can't be written (no right to write to its folder)")
    return name


def _exif_for(picture: Picture, name: str, path: Path) -> bytes | None:
    """The picture's EXIF, or None with a warning if the format can't hold it."""
    exif = picture.exif
    if exif and name == "jpg" and len(exif) > MAX_JPEG_EXIF:
        log.warning("%s: %d bytes of EXIF are more than jpg can hold; left out", path, len(exif))
        exif = None
    if exif and name == "tif" and _needs_vips(picture, name):
        log.warning("%s: without EXIF, which can't be written to tif of 16 bits or of 4 GB; png keeps it", path)
        exif = None
    return exif


def _needs_vips(picture: Picture, name: str) -> bool:
    """True for what Pillow can't write: 16 bits in colours, and a BigTIFF."""
    return picture.pixels.dtype == np.uint16 or (name == "tif" and picture.pixels.nbytes > LARGE_TIFF)


def _encode_by_pillow(picture: Picture, name: str, quality: int) -> bytes:
    options: dict[str, Any] = {}
    image = to_pil(picture.pixels)
    if picture.profile and name == "webp" and picture.pixels.shape[-1] < 3:  # WebP has no grey
        image = _with_alpha_of(image, _to_srgb(image.getchannel(0), picture.profile))
    elif picture.profile:
        options["icc_profile"] = picture.profile
    if picture.exif:
        options["exif"] = as_tags(picture.exif) if name == "tif" else picture.exif
    if name == "jpg":
        options |= {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"}
    elif name == "webp":
        options["quality"] = quality
    elif name == "tif" and not has_nested(picture.exif):  # Pillow writes it only to uncompressed files
        options["compression"] = "tiff_adobe_deflate"
    file = io.BytesIO()  # in memory first, so that a full disk gives the same error for every format
    image.save(file, FORMATS[name], **options)
    return file.getvalue()


def _matching_profile(profile: bytes | None, channels: int) -> bytes | None:
    """The profile, or None if its colour space doesn't fit this number of channels."""
    return profile if profile and profile[16:20] == COLOUR_SPACES[channels - 1] else None


def _is_16_bit(image: Image.Image) -> bool:
    """True if the file has 16 bits per channel. Pillow keeps them only for grey without alpha."""
    if image.format == "TIFF":
        return 16 in cast(Any, image).tag_v2.get(258, ())
    tiles = cast(Any, image).tile
    decoders = [str(tile[3]) for tile in tiles]
    if any(tile[0] == "SGI16" for tile in tiles):
        return True
    if image.format == "PPM" and any("65535" in decoder for decoder in decoders):
        return True
    deep = (decoder.replace("BGR;16", "") for decoder in decoders)  # a BMP's 16 bits are of all channels together
    return image.mode.startswith("I;16") or any(";16" in decoder for decoder in deep)


def _refuse_deep(image: Image.Image) -> None:
    """Raise ValueError for an AVIF and a PPM of more than 8 bits, which Pillow opens as 8 (16 of a PPM: see above)."""
    if image.format == "AVIF" and _is_deep_avif(image):
        raise ValueError("AVIF of more than 8 bits per channel; convert it to PNG or TIFF")
    if image.format == "PPM" and cast(Any, image).tile:
        largest = cast(Any, image).tile[0][3][-1]
        if isinstance(largest, int) and 255 < largest < 65535:
            raise ValueError(f"values up to {largest}; convert it to PNG or TIFF")


def _warn_of_gamma(image: Image.Image, path: Path) -> None:
    """Warn of a PNG whose gamma isn't that of sRGB, and which has no profile that would say so in the result."""
    info = image.info
    gamma = info.get("gamma", SRGB_GAMMA)
    if image.format == "PNG" and not {"icc_profile", "srgb"} & info.keys() and abs(gamma - SRGB_GAMMA) > 0.005:
        log.warning("%s: its gamma, %.3g, isn't kept, so the result may look lighter or darker", path, gamma)


def _is_deep_avif(image: Image.Image) -> bool:
    """True if an open AVIF file has 10 or 12 bits per channel: high_bitdepth in its av1C box (AV1-ISOBMFF, 2.3.3)."""
    head = head_of(image)
    start = head.find(b"av1C")
    return 0 <= start < len(head) - 6 and bool(head[start + 6] & 0x40)


def _read_16_bit(path: Path, file_format: str, size: tuple[int, int] | None, max_megapixels: float) -> Picture:
    """Read a file with libvips. Format and, if known, size are those that Pillow reported.

    The picture is turned upright only if Pillow can't read it: Pillow knows more places where an orientation may be.
    """
    import pyvips

    if file_format not in LOADERS_16_BIT:
        raise UserError(f"{path}: {file_format} of 16 bits; convert it to PNG or TIFF")
    try:
        load = getattr(cast(Any, pyvips.Image), LOADERS_16_BIT[file_format])
        image = load(path.read_bytes(), fail_on="truncated")
        pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
        if pages > 1:
            raise UserError(f"{path}: {pages} frames or pages; upscale them one by one")
        if size and sorted(size) != sorted((image.width, image.height)):  # Pillow's size was checked; it may be rotated
            raise UserError(f"{path}: not a readable image (it claims two sizes)")
        _check_size(path, image.width, image.height, max_megapixels)
        if image.format != "ushort":
            raise UserError(f"{path}: not a readable image (pixels of type {image.format})")
        image = image.autorot() if size is None else image
        profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else None
        pixels = np.asarray(image.numpy())
    except pyvips.Error as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path}: not a readable image ({reason})") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[-1] not in range(1, 5) or image.interpretation == "cmyk":
        raise UserError(f"{path}: {pixels.shape[-1]} channels of 16 bits; convert it to grey or RGB")
    return Picture(pixels, _matching_profile(bytes(profile) if profile else None, pixels.shape[-1]))


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (H, W, C) upright. orientation: of EXIF, 1 to 8; others count as upright."""
    if orientation in (5, 6, 7, 8):  # rows are columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # from the bottom up
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels  # from the right


def _encode_by_vips(picture: Picture, name: str, resolution: tuple[float, float]) -> bytes:
    import pyvips

    grey, deep = picture.pixels.shape[-1] < 3, picture.pixels.dtype == np.uint16
    colours = ("grey16" if grey else "rgb16") if deep else ("b-w" if grey else "srgb")
    image = cast(Any, pyvips.Image.new_from_array(np.ascontiguousarray(picture.pixels), interpretation=colours))
    image = image.copy(xres=resolution[0], yres=resolution[1])
    if picture.profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", picture.profile)
    if picture.exif:
        image.set_type(pyvips.GValue.blob_type, "exif-data", picture.exif)
    try:
        if name == "png":
            return image.pngsave_buffer(bitdepth=16)
        return image.tiffsave_buffer(compression="deflate", bigtiff=picture.pixels.nbytes > LARGE_TIFF)
    except pyvips.Error as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error


def _has_grey_palette(image: Image.Image) -> bool:
    colours = np.asarray(image.getpalette() or [], dtype=np.uint8).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _with_alpha_of(image: Image.Image, colours: Image.Image) -> Image.Image:
    if "A" in image.getbands():
        colours.putalpha(image.getchannel("A"))
    return colours


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        converted = None  # damaged profile
    return converted or image.convert("RGB")
