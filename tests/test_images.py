"""Decoding against Pillow, 8-bit conversion, luma, cuts and grids."""

from collections.abc import Callable
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from skimage.color import rgb2ycbcr
from torch import Tensor
from torch.nn import functional as F

from srgan.errors import UserError
from srgan.images import (
    comparison_grid,
    crop_to_multiple,
    decode,
    image_size,
    luma,
    middle,
    save_png,
    shave,
    to_float,
    to_uint8,
)

ORIENTATION, MAKE = 0x0112, 0x010F  # EXIF tags
LOSSLESS = {"PNG": {}, "BMP": {}, "WEBP": {"lossless": True, "exact": True}}
COLOURS = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30]])
Encoded = Callable[..., bytes]
Noise = Callable[..., Tensor]


def photo() -> NDArray[np.uint8]:
    """A smooth colour picture (24, 40, 3), which JPEG keeps well, and unlike all its rotations and reflections."""
    y, x = np.mgrid[0:1:24j, 0:1:40j]
    return np.rint(255 * np.stack([x, y, (1 - x) * (1 - y) ** 2], axis=-1)).astype(np.uint8)


def decoded(data: bytes) -> NDArray[np.int64]:
    image = decode(data, "name")
    assert image.dtype == torch.uint8
    return image.permute(1, 2, 0).numpy().astype(np.int64)


def by_pillow(data: bytes) -> NDArray[np.int64]:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(np.int64)


def test_files_without_transparency_have_their_exact_pixels(encoded: Encoded) -> None:
    small = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    jpegs = product(((47, 33), (17, 101)), (50, 100), (0, 1, 2), (False, True))
    files = [
        encoded(small.resize(size), "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
        for size, quality, subsampling, progressive in jpegs
    ]
    cmyk = Image.fromarray(np.concatenate([photo(), photo()[..., :1] // 2], axis=-1), "CMYK")
    files += [encoded(photo()[..., 0], "JPEG"), encoded(cmyk, "JPEG"), encoded(photo(), "WEBP")]
    files += [encoded(grey, "PNG") for grey in (photo()[..., 0], photo()[..., 0] > 99)]
    assert all(np.array_equal(decoded(data), by_pillow(data)) for data in files)
    for file_format, options in LOSSLESS.items():
        assert np.array_equal(decoded(encoded(photo(), file_format, **options)), photo())
    wide = np.arange(65536).astype(np.uint16).reshape(256, 256)  # which Pillow would clip
    assert np.array_equal(decoded(encoded(wide, "PNG"))[..., 1], np.rint(wide * 255.0 / 65535))


def test_the_photographs_of_celeba_have_pillows_pixels_exactly(shared: Path) -> None:
    for path in sorted((shared / "data/celeba/img_align_celeba").iterdir())[:32]:
        assert np.array_equal(decoded(path.read_bytes()), by_pillow(path.read_bytes()))


def test_palettes_become_their_colours_and_what_is_transparent_white(encoded: Encoded) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, "P")
    image.putpalette(COLOURS.flatten().tolist())
    indices, on_white = np.asarray(image), np.where([[False], [True], [False]], 255, COLOURS)
    assert np.array_equal(decoded(encoded(image, "PNG")), COLOURS[indices])
    for transparency in (1, b"\xff\x00\xff"):  # one index; an alpha for each
        assert np.array_equal(decoded(encoded(image, "PNG", transparency=transparency)), on_white[indices])
    pixels = np.array([[[9, 8, 7], [1, 2, 3]]], dtype=np.uint8)
    assert decoded(encoded(pixels, "PNG", transparency=(1, 2, 3))).tolist() == [[[9, 8, 7], [255, 255, 255]]]


def test_alpha_is_laid_on_white(encoded: Encoded) -> None:
    for channels, file_format in product((1, 3), ("PNG", "WEBP")):
        colour, alpha = photo()[..., :channels], photo()[..., 1:2]
        image = Image.fromarray(np.concatenate([colour, alpha], axis=-1))
        share = alpha / 255
        expected = np.broadcast_to(share * colour + (1 - share) * 255, (*alpha.shape[:2], 3))
        assert np.abs(decoded(encoded(image, file_format, **LOSSLESS[file_format])) - expected).max() <= 1


def test_exif_orientation_is_applied(encoded: Encoded) -> None:
    exif = Image.Exif()
    for orientation, (file_format, options) in product(range(1, 9), (("JPEG", {"quality": 95}), ("PNG", {}))):
        exif[ORIENTATION] = orientation
        data = encoded(photo(), file_format, exif=exif, **options)
        assert decoded(data).shape == ((40, 24, 3) if orientation > 4 else (24, 40, 3))
        assert np.array_equal(decoded(data), by_pillow(data))


def test_damaged_files_are_refused_by_name_in_one_line(encoded: Encoded) -> None:
    whole = [encoded(photo(), file_format) for file_format in ("JPEG", "PNG", "WEBP", "BMP")]
    truncated = [data[: int(share * len(data))] for data in whole for share in (0.2, 0.5, 0.9)]
    for data in (*truncated, b"", b"no image", b"\xff\xd8", b"\xff\xd8 and no more", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(UserError, match=r"faces/000007\.jpg: not a readable image") as raised:
            decode(data, "faces/000007.jpg")
        assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_exif_block_is_read_or_refused_by_name(encoded: Encoded) -> None:
    """Pillow raises many kinds of errors on them; none may leave without the file's name."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[MAKE] = 6, "a camera"
    data = encoded(Image.new("RGB", (16, 8), "red"), "JPEG", exif=exif)
    start = data.index(b"Exif") + 6
    refusals: set[str] = set()
    for position, value in product(range(start, start + len(exif.tobytes()) - 6), (0, 7, 255)):
        try:
            decode(data[:position] + bytes([value]) + data[position + 1 :], "a.jpg")
        except UserError as error:
            refusals.add(str(error).partition(" (")[0])
    assert refusals == {"a.jpg: not a readable image"}


def test_to_uint8_rounds_and_clamps_and_keeps_all_levels(tmp_path: Path, noise: Noise) -> None:
    between = torch.tensor([-9.0, -0.6, 0.0, 0.49, 0.51, 99.49, 99.51, 254.49, 254.51, 255.0, 300.0])
    assert to_uint8(between / 255).tolist() == [0, 0, 0, 0, 1, 99, 100, 254, 255, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_float(levels).dtype == torch.float32
    assert torch.equal(to_uint8(to_float(levels)), levels)
    image = noise(3, 7, 5)
    for saved in (image, to_float(image)):
        save_png(saved, tmp_path / "image.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")), image.permute(1, 2, 0))


def test_luma_is_skimages(noise: Noise) -> None:
    images = noise(2, 3, 16, 9)
    assert luma(images).dtype == torch.float64
    expected = np.stack([rgb2ycbcr(image.permute(1, 2, 0).numpy())[..., 0] for image in images])
    np.testing.assert_allclose(luma(images)[:, 0], expected, rtol=0, atol=1e-9)


def enlarged(image: Tensor, factor: int) -> Tensor:
    return image.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


def test_pictures_are_cut_where_it_says(noise: Noise) -> None:
    for border in (0, 1, 4):
        images = F.pad(torch.zeros(2, 3, 5, 7), [border] * 4, value=1)
        assert torch.equal(shave(images, border), torch.zeros(2, 3, 5, 7))
    images = noise(3, 29, 23)
    for multiple, height, width in ((1, 29, 23), (2, 28, 22), (3, 27, 21), (8, 24, 16), (23, 23, 23)):
        assert torch.equal(crop_to_multiple(images, multiple), images[:, :height, :width])
    for scale, height, width, top, left in ((2, 9, 14, 0, 3), (3, 20, 21, 6, 6), (8, 2, 2, 0, 0)):
        lr = noise(3, height, width)
        small, large = middle([lr, enlarged(lr, scale)], 8 * scale + 1, scale)
        assert torch.equal(small, lr[:, top : top + 8, left : left + 8])
        assert torch.equal(large, enlarged(small, scale))


@pytest.mark.parametrize(("scale", "gap"), [(2, 0), (3, 4), (8, 9)])
def test_the_cells_of_a_grid_hold_the_pictures_below_titles(noise: Noise, scale: int, gap: int) -> None:
    lrs = noise(3, 6, 9), noise(3, 8, 5)
    rows = [(lr, to_float(255 - enlarged(lr, scale)), enlarged(lr, scale) // 2) for lr in lrs]
    grid = comparison_grid(rows, ("LR", "SR", "HR"), gap)
    heading = top = grid.shape[-2] - 14 * scale - 2 * gap
    assert grid.dtype == torch.uint8
    width = 9 * scale + gap
    assert grid.shape[-1] == 3 * width
    assert 10 <= heading <= 40
    for column in range(3):  # its title is black, at its left end
        assert grid[:, :heading, column * width : column * width + 16].min() < 64
    for lr, sr, hr in rows:
        pictures = enlarged(lr, scale), to_uint8(sr), hr
        cells = torch.cat([F.pad(picture, (0, gap, 0, gap), value=255) for picture in pictures], dim=-1)
        below = top + cells.shape[-2]
        assert torch.equal(grid[:, top:below, : cells.shape[-1]], cells)
        assert (grid[:, top:below, cells.shape[-1] :] == 255).all()
        top = below


def test_a_picture_above_the_limit_is_refused_in_plain_words(
    encoded: Encoded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = encoded(np.zeros((1500, 1600, 3), np.uint8), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    (tmp_path / "a.png").write_bytes(data)
    for read in (lambda: decode(data, "a.png"), lambda: image_size(str(tmp_path / "a.png"))):
        with pytest.raises(UserError, match=r"a.png: more than 2 megapixels; cut it in pieces, or remove it$"):
            read()


def test_the_size_is_that_of_the_upright_picture_from_the_header_alone(encoded: Encoded, tmp_path: Path) -> None:
    exif = Image.Exif()
    path = tmp_path / "a"
    for orientation, file_format in product((1, 3, 6), ("JPEG", "PNG", "TIFF", "WEBP")):
        exif[ORIENTATION] = orientation
        path.write_bytes(encoded(photo(), file_format, exif=exif))
        assert image_size(str(path)) == ((24, 40) if orientation > 4 else (40, 24))
    whole = encoded(photo(), "PNG")
    path.write_bytes(whole[: len(whole) // 2])
    assert image_size(str(path)) == (40, 24)
    for damaged in (whole[:20], encoded(photo(), "PNG", exif=b"no EXIF at all")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"not a readable image \(.+\); repair or remove it"):
            image_size(str(path))
