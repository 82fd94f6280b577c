"""Decoding against Pillow, 8-bit conversion, luma, cuts and grids."""

import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
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
from srgan.images import comparison_grid, crop_to_multiple, decode, luma, middle, save_png, shave, to_float, to_uint8

ORIENTATION = 0x0112  # the EXIF tag
Encoded = Callable[..., bytes]
Noise = Callable[..., Tensor]


def photo(height: int = 24, width: int = 40) -> NDArray[np.uint8]:
    """A smooth colour picture (H, W, 3), which JPEG keeps well, and unlike all its rotations and reflections."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.rint(255 * np.stack([x, y, (1 - x) * (1 - y) ** 2], axis=-1)).astype(np.uint8)


def decoded(data: bytes) -> NDArray[np.int64]:
    """What decode makes of it, (H, W, 3)."""
    image = decode(data, "name")
    assert image.dtype == torch.uint8
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(np.int64)


def png(samples: NDArray[np.uint16], colour_type: int) -> bytes:
    """A 16-bit PNG of (H, W, channels), which Pillow can't write in colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# --- decode ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_decode_to_the_pixels_that_went_in(
    encoded: Encoded, file_format: str, options: dict[str, object]
) -> None:
    assert np.array_equal(decoded(encoded(photo(), file_format, **options)), photo())


@pytest.mark.parametrize(
    ("file_format", "options"), [("JPEG", {"quality": 95, "subsampling": 0}), ("WEBP", {"quality": 100})]
)
def test_lossy_files_decode_as_in_pillow_and_near_the_pixels_that_went_in(
    encoded: Encoded, file_format: str, options: dict[str, object]
) -> None:
    data = encoded(photo(), file_format, **options)
    assert np.abs(decoded(data) - np.asarray(Image.open(BytesIO(data)).convert("RGB"))).max() <= 2
    assert np.abs(decoded(data) - photo()).mean() < 3


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(("height", "width"), [(64, 48), (33, 47), (101, 17)])
@pytest.mark.parametrize("quality", [50, 90, 100])
def test_colour_jpegs_have_pillows_pixels_exactly(
    encoded: Encoded, quality: int, height: int, width: int, subsampling: int, progressive: bool
) -> None:
    generator = np.random.default_rng(quality + height)
    smooth = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((width, height))
    data = encoded(smooth, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
    with Image.open(BytesIO(data)) as pillow:
        expected = np.asarray(pillow)
    assert np.array_equal(decode(data, "a.jpg").permute(1, 2, 0).numpy(), expected)


def test_the_photographs_of_celeba_have_pillows_pixels_exactly(shared: Path) -> None:
    for path in sorted((shared / "data" / "celeba" / "img_align_celeba").iterdir())[:64]:
        with Image.open(path) as pillow:
            assert np.array_equal(decode(path.read_bytes(), path.name).permute(1, 2, 0).numpy(), np.asarray(pillow))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
def test_grey_files_have_three_equal_channels(encoded: Encoded, file_format: str) -> None:
    grey = photo()[..., 0]
    pixels = decoded(encoded(grey, file_format))
    assert np.abs(pixels - grey[..., None]).max() <= (3 if file_format == "JPEG" else 0)
    assert (pixels == pixels[..., :1]).all()


def test_one_bit_files_are_black_and_white(encoded: Encoded) -> None:
    bits = photo()[..., 0] > 99
    assert np.array_equal(decoded(encoded(bits, "PNG")), np.repeat(bits[..., None] * 255, 3, axis=-1))


def test_palettes_become_their_colours(encoded: Encoded) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, "P")
    image.putpalette([255, 0, 0, 0, 200, 0, 10, 20, 30])
    colours = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30]])
    assert np.array_equal(decoded(encoded(image, "PNG")), colours[np.asarray(image)])


@pytest.mark.parametrize("transparency", [1, b"\xff\x00\xff"], ids=["one index", "an alpha for each"])
def test_the_transparent_colour_of_a_palette_is_laid_on_white(encoded: Encoded, transparency: int | bytes) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, "P")
    image.putpalette([255, 0, 0, 0, 200, 0, 10, 20, 30])
    colours = np.array([[255, 0, 0], [255, 255, 255], [10, 20, 30]])
    assert np.array_equal(decoded(encoded(image, "PNG", transparency=transparency)), colours[np.asarray(image)])


def test_the_transparent_colour_of_an_rgb_file_is_laid_on_white(encoded: Encoded) -> None:
    pixels = np.array([[[9, 8, 7], [1, 2, 3]]], dtype=np.uint8)
    data = encoded(pixels, "PNG", transparency=(1, 2, 3))
    assert decoded(data).tolist() == [[[9, 8, 7], [255, 255, 255]]]


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3], ids=["LA", "RGBA"])
def test_transparency_is_laid_on_white(encoded: Encoded, file_format: str, channels: int) -> None:
    colour, alpha = photo()[..., :channels], photo()[..., 1:2]
    image = Image.fromarray(np.concatenate([colour, alpha], axis=-1))
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    share = alpha / 255
    expected = np.broadcast_to(share * colour + (1 - share) * 255, (*alpha.shape[:2], 3))
    assert np.abs(decoded(encoded(image, file_format, **options)) - expected).max() <= 1


def test_all_16_bit_greys_are_rounded_to_8_bits(encoded: Encoded) -> None:
    wide = np.arange(65536).astype(np.uint16).reshape(256, 256)
    expected = np.rint(wide * 255.0 / 65535)
    assert np.array_equal(decoded(encoded(wide, "PNG")), np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "grey, alpha", "RGBA"])
def test_16_bit_colours_become_8_bits_within_a_level(colour_type: int, channels: int) -> None:
    wide = np.arange(0, 65536, 16).astype(np.uint16).reshape(64, 64, 1)
    samples = np.repeat(wide, channels, axis=-1)
    if channels in (2, 4):
        samples[..., -1] = 65535
    assert np.abs(decoded(png(samples, colour_type)) - wide * 255.0 / 65535).max() <= 1


def test_cmyk_jpegs_have_the_colours_that_pillow_sees(encoded: Encoded) -> None:
    cmyk = np.concatenate([photo(), photo()[..., :1] // 2], axis=-1)
    data = encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=95)
    expected = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(np.int64)
    assert np.ptp(expected) > 150
    assert np.abs(decoded(data) - expected).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "options"), [("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})]
)
def test_exif_orientation_is_applied(
    encoded: Encoded, file_format: str, options: dict[str, object], orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(photo(), file_format, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")).astype(np.int64)
    assert expected.shape == ((40, 24, 3) if orientation > 4 else (24, 40, 3))
    assert decoded(data).shape == expected.shape
    assert np.abs(decoded(data) - expected).max() <= (2 if file_format == "JPEG" else 0)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_truncated_file_is_refused_by_name(encoded: Encoded, file_format: str, share: float) -> None:
    data = encoded(photo(), file_format)
    with pytest.raises(UserError, match=r"faces/000007\.jpg: not a readable image"):
        decode(data[: int(share * len(data))], "faces/000007.jpg")


@pytest.mark.parametrize("data", [b"", b"no image at all", b"\xff\xd8", b"\xff\xd8 and no more", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(UserError, match=r"faces/000007\.jpg: not a readable image") as raised:
        decode(data, "faces/000007.jpg")
    assert "\n" not in str(raised.value)


# --- numbers --------------------------------------------------------------------------------------------------------


def test_a_damaged_exif_block_is_refused_by_name_or_read() -> None:
    """Pillow raises many kinds of errors on them; none may leave without the file's name."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    buffer = BytesIO()
    Image.new("RGB", (16, 8), "red").save(buffer, "JPEG", exif=exif)
    data = buffer.getvalue()
    start = data.index(b"Exif")
    refusals: list[str] = []
    for place in range(start + 6, start + 6 + len(exif.tobytes()) - 6):
        for value in (0, 7, 255):
            damaged = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    decode(damaged, "a.jpg")
            except UserError as error:
                refusals.append(str(error))
    assert refusals and all(text.startswith("a.jpg: not a readable image (") for text in refusals)


def test_to_uint8_rounds_and_clamps() -> None:
    levels = torch.tensor([-9.0, -0.6, 0.0, 0.49, 0.51, 99.49, 99.51, 254.49, 254.51, 255.0, 300.0])
    assert to_uint8(levels / 255).tolist() == [0, 0, 0, 0, 1, 99, 100, 254, 255, 255, 255]


def test_to_uint8_and_to_float_are_inverse_on_all_levels() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_float(levels).dtype == torch.float32
    assert (to_float(levels).min(), to_float(levels).max()) == (0, 1)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert torch.equal(to_uint8(levels), levels)


@pytest.mark.parametrize("as_float", [False, True])
def test_a_saved_png_holds_the_pixels(tmp_path: Path, noise: Noise, as_float: bool) -> None:
    image = noise(3, 7, 5)
    save_png(to_float(image) if as_float else image, tmp_path / "image.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")), image.permute(1, 2, 0))


@pytest.mark.parametrize(
    ("rgb", "y"),
    [
        ((0, 0, 0), 16),
        ((255, 255, 255), 235),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
        ((255, 255, 0), 210.034),
    ],
)
def test_luma_of_known_colours(rgb: tuple[int, int, int], y: float) -> None:
    measured = luma(torch.tensor(rgb, dtype=torch.uint8).view(3, 1, 1))
    assert measured.shape == (1, 1, 1)
    assert measured.item() == pytest.approx(y, abs=1e-9)


def test_luma_agrees_with_skimage_and_is_not_rounded(noise: Noise) -> None:
    images = noise(2, 3, 16, 9)
    expected = np.stack([rgb2ycbcr(image.permute(1, 2, 0).numpy())[..., 0] for image in images])
    measured = luma(images)
    assert measured.dtype == torch.float64
    np.testing.assert_allclose(measured[:, 0].numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("border", [0, 1, 4])
def test_shave_removes_the_border_and_nothing_else(border: int) -> None:
    images = F.pad(torch.zeros(2, 3, 5, 7), [border] * 4, value=1)
    assert torch.equal(shave(images, border), torch.zeros(2, 3, 5, 7))


@pytest.mark.parametrize("multiple", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (29, 23), (8, 17)])
def test_crop_to_multiple_cuts_as_little_as_it_can_at_the_bottom_and_right(
    noise: Noise, height: int, width: int, multiple: int
) -> None:
    images = noise(3, height, width)
    cut = crop_to_multiple(images, multiple)
    assert [side % multiple for side in cut.shape[-2:]] == [0, 0]
    assert height - multiple < cut.shape[-2] <= height
    assert width - multiple < cut.shape[-1] <= width
    assert torch.equal(cut, images[:, : cut.shape[-2], : cut.shape[-1]])


# --- pictures of pictures -------------------------------------------------------------------------------------------


def enlarged(image: Tensor, factor: int) -> Tensor:
    return image.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(9, 14), (20, 20), (3, 31), (2, 2)])
def test_the_middle_of_lr_and_hr_shows_the_same(noise: Noise, height: int, width: int, scale: int) -> None:
    lr, side = noise(3, height, width), 8 * scale + 1
    small, large, other = middle([lr, enlarged(lr, scale), enlarged(255 - lr, scale)], side, scale)
    assert small.shape == (3, min(height, 8), min(width, 8))
    assert torch.equal(large, enlarged(small, scale))
    assert torch.equal(other, 255 - large)


def test_the_middle_is_the_middle() -> None:
    lr = torch.zeros(1, 11, 21)
    lr[:, 4:7, 9:12] = 1
    small, large = middle([lr, enlarged(lr, 2)], 6, 2)
    assert torch.equal(small, torch.ones(1, 3, 3))
    assert torch.equal(large, torch.ones(1, 6, 6))


@pytest.mark.parametrize("gap", [0, 4, 9])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_cells_of_a_grid_hold_the_pictures(noise: Noise, scale: int, gap: int) -> None:
    rows = [
        (noise(3, 6, 9), to_float(noise(3, 6 * scale, 9 * scale)), noise(3, 6 * scale, 9 * scale)) for _ in range(2)
    ]
    grid = comparison_grid(rows, ("LR", "SR", "HR"), gap)
    height, width = 6 * scale + gap, 9 * scale + gap
    heading = grid.shape[-2] - 2 * height
    assert grid.dtype == torch.uint8
    assert grid.shape[-1] == 3 * width
    assert 10 <= heading <= 40
    for row, (lr, sr, hr) in enumerate(rows):
        for column, picture in enumerate((enlarged(lr, scale), to_uint8(sr), hr)):
            cell = grid[:, heading + row * height :, column * width :][:, :height, :width]
            assert torch.equal(cell, F.pad(picture, (0, gap, 0, gap), value=255))


def test_a_grid_has_titles_over_its_columns(noise: Noise) -> None:
    rows = [[noise(3, 64, 64)] * 3]
    titled, untitled = (comparison_grid(rows, titles) for titles in (("LR", "SR", "HR"), ("LR", "", "HR")))
    heading = titled.shape[-2] - 68
    assert [int(titled[:, :heading, left : left + 68].min()) < 128 for left in (0, 68, 136)] == [True] * 3
    changed = (titled != untitled).any(0).nonzero()
    assert changed[:, 0].max() < heading
    assert changed[:, 1].min() >= 68
    assert changed[:, 1].max() < 136


def test_rows_of_a_grid_may_differ_in_size(noise: Noise) -> None:
    small, large = noise(3, 8, 12), noise(3, 20, 30)
    grid = comparison_grid([[small] * 2, [large] * 2], ("SR", "HR"), gap=0)
    assert grid.shape[-1] == 60
    assert torch.equal(grid[:, -20:, 30:], large)
    assert torch.equal(grid[:, -28:-20, 12:24], small)
    assert (grid[:, -28:-20, 24:] == 255).all()
