"""Picture files keep what they hold: pixels of every kind, profile, orientation, EXIF; the rest is refused."""

import io
import os
import re
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from srgan.errors import UserError
from srgan.images import decode
from srgan.inference import pictures
from srgan.inference.exif import EXIF_IFD, GPS_IFD, INTEROPERABILITY, WIDTH
from srgan.inference.pictures import Picture

ORIENTATION, CAMERA, EXPOSURE = 0x0112, 0x0110, 0x829A
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY = SRGB[:16] + b"GRAY" + SRGB[20:]


def noise(*shape: int, dtype: type = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=f"{path.name}: {message}"):
        pictures.read(path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_written_is_read_again_pixels_and_profile(tmp_path: Path, channels: int, dtype: type) -> None:
    ramp = np.linspace(0, 0.5, 64 * 48).reshape(64, 48, 1) + np.linspace(0, 0.5, channels)
    picture = Picture((np.iinfo(dtype).max * ramp).astype(dtype), GREY if channels < 3 else SRGB)
    names = ["a.png", "a.TIFF", *(["a.jpeg"] if dtype is np.uint8 and channels in (1, 3) else [])]
    for name in names:
        pictures.write(picture, tmp_path / name, quality=30)
        again = pictures.read(tmp_path / name)
        assert (again.pixels.shape, again.pixels.dtype, again.profile) == ((64, 48, channels), dtype, picture.profile)
        assert np.abs(again.pixels.astype(int) - picture.pixels).max() <= (12 if name == "a.jpeg" else 0)
        if dtype is np.uint8:  # compressed, and a TIFF's layout is no EXIF
            assert (tmp_path / name).stat().st_size < picture.pixels.nbytes and again.exif is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_exif_orientation_is_applied_and_left_out(tmp_path: Path) -> None:
    upright = noise(8, 16, 3)
    for orientation, stored in {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }.items():  # fmt: skip
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        picture = pictures.read(save(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "a.png", exif=exif))
        np.testing.assert_array_equal(picture.pixels, upright)
        assert picture.exif is None
        np.testing.assert_array_equal(pictures._turned(stored, orientation), upright)
    deep = noise(4, 6, dtype=np.uint16)
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}")  # ImageMagick's
    assert exif[ORIENTATION] == 8
    save(Image.fromarray(np.ascontiguousarray(np.rot90(deep, -1))), tmp_path / "deep.png", pnginfo=text)
    np.testing.assert_array_equal(pictures.read(tmp_path / "deep.png").pixels[..., 0], deep)
    deep = noise(4, 6, 3, dtype=np.uint16)
    image = pyvips.Image.new_from_array(np.ascontiguousarray(np.rot90(deep)), interpretation="rgb16").copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    image.tiffsave(str(tmp_path / "a.tif"))
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.tif").pixels, deep)


def test_palettes_bilevel_and_transparent_colours_become_what_they_look_like(tmp_path: Path) -> None:
    def read(image: Image.Image, **options: Any) -> Picture:
        return pictures.read(save(image, tmp_path / "a.png", **options))

    rgb, grey = Image.fromarray(noise(5, 7, 3)), Image.fromarray(noise(5, 7))
    palette, grey_palette, seven = rgb.quantize(16), grey.quantize(256), Image.new("L", (2, 2), 7)
    assert np.array_equal(read(palette).pixels, np.asarray(palette.convert("RGB")))
    clear = read(palette, transparency=0).pixels
    assert clear.shape == (5, 7, 4) and np.array_equal(clear[..., 3], 255 * (np.asarray(palette) != 0))
    assert set(np.unique(read(rgb.convert("1")).pixels)) <= {0, 255}
    assert np.array_equal(read(seven, transparency=7).pixels, np.full((2, 2, 2), [7, 0]))
    for bits in (2, 4):
        path, largest = tmp_path / f"{bits}.png", 2**bits - 1
        path.write_bytes(grey_png([[0, 1, largest]], bits, transparent=1))
        step = 255 // largest
        assert pictures.read(path).pixels.tolist() == [[[0, 255], [step, 0], [255, 255]]]
        assert decode(path.read_bytes(), path.name)[0].tolist() == [[0, 255, 255]]  # on white
    red = Image.new("CMYK", (7, 5), (0, 255, 255, 0))
    for image, profile, channels, kept in (
        (grey_palette, None, 1, None),
        (grey_palette, SRGB, 3, SRGB),
        (grey, SRGB, 1, None),
        (red, b"no profile", 3, None),
        (red, None, 3, None),
    ):
        picture = pictures.read(save(image, tmp_path / "a.tif", icc_profile=profile))
        assert picture.pixels.shape == (5, 7, channels) and picture.profile == kept
        assert image is not red or (picture.pixels == [255, 0, 0]).all()


def test_of_several_pictures_in_a_file_a_cameras_first_is_read_and_others_are_refused(tmp_path: Path) -> None:
    first, *others = (Image.new("RGB", (8, 8), (level, level, level)) for level in (40, 120, 200))
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        save(first, tmp_path / name, save_all=True, append_images=others)
        refused(tmp_path / name, "3 frames or pages; upscale them one by one")
    save(first, tmp_path / "a.jpg", format="MPO", save_all=True, append_images=others)
    assert abs(int(pictures.read(tmp_path / "a.jpg").pixels.mean()) - 40) < 3


def test_files_that_are_no_pictures_are_refused_with_their_name(tmp_path: Path) -> None:
    for name, dtype in (("cut.png", np.uint8), ("cut16.png", np.uint16)):
        pictures.write(Picture(noise(40, 40, 3, dtype=dtype)), tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    save(Image.new("F", (3, 3)), tmp_path / "float.tif")
    save(Image.new("1", (20000, 20000)), tmp_path / "bomb.png")
    for name in ("cut.png", "cut16.png", "text.jpg", "empty.png", ""):
        refused(tmp_path / name, r"not a readable image \(.+\)$")
    refused(tmp_path / "float.tif", r"an image of mode F \(32 bits\)")
    refused(tmp_path / "none.png", "no such file")
    refused(
        tmp_path / "bomb.png", r"20000×20000 are 400 megapixels, more than the limit of 179; --max-megapixels raise"
    )


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file")
    for name, shape, dtype, message in (
        ("a.jpg", (3, 3, 4), np.uint8, "jpg can't hold transparency; take png, webp or tif"),
        ("a.jpg", (3, 3, 2), np.uint8, "jpg can't hold transparency"),
        ("a.jpg", (3, 3, 3), np.uint16, "jpg can't hold 16 bits; take png or tif"),
        ("a.webp", (3, 3, 3), np.uint16, "webp can't hold 16 bits"),
        ("a.gif", (3, 3, 3), np.uint8, r"can't write .gif; take png, jpg, webp, tif"),
        ("a", (3, 3, 3), np.uint8, "can't write a file without suffix"),
        ("a.webp", (1, 16384, 3), np.uint8, "16384×1 pixels are more than webp can hold"),
        ("notes/a.png", (3, 3, 3), np.uint8, "can't be written"),
        (f"{'x' * 300}.png", (3, 3, 3), np.uint8, "too long"),
    ):
        with pytest.raises(UserError, match=message):
            pictures.write(Picture(np.zeros(shape, dtype)), tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["notes"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def fail(temporary: Path, content: bytes) -> None:
        with temporary.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    for dtype, name in ((np.uint8, "a.png"), (np.uint16, "a.png"), (np.uint8, "a.tif"), (np.uint16, "a.tif")):
        with pytest.raises(UserError, match=rf"{name}: can't be written \(No space left on device\)"):
            pictures.write(Picture(noise(3, 3, 3, dtype=dtype)), tmp_path / name)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def grey_png(rows: list[list[int]], bits: int, transparent: int) -> bytes:
    """A PNG of `bits` bits, by the specification: Pillow can't write one whose transparent colour it doesn't scale."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = -(-len(rows[0]) * bits // 8)  # bytes of a row
    digits = ["".join(f"{value:0{bits}b}" for value in row).ljust(8 * width, "0") for row in rows]
    lines = [int(row, 2).to_bytes(width, "big") for row in digits]
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", transparent)) + chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("target", ["b.png", "b.jpg", "b.webp", "b.tif"])
def test_exif_text_keeps_its_bytes(order: str, target: str, tmp_path: Path) -> None:
    author, lens = "© José Müller".encode(), "50 mm ƒ/1,4".encode()
    exif = Image.Exif()
    exif.endian = order
    exif[33432] = "A" * len(author)
    exif[EXIF_IFD] = {42036: "L" * len(lens), 37510: b"UNICODE\0" + "ü".encode("utf-16")}
    block = exif.tobytes().replace(b"A" * len(author), author).replace(b"L" * len(lens), lens)
    pictures.write(
        pictures.read(save(Image.fromarray(noise(8, 8, 3)), tmp_path / "a.jpg", exif=block)), tmp_path / target
    )
    with Image.open(tmp_path / target) as image:
        kept = image.getexif()
        assert kept[33432].encode("latin-1") == author
        assert kept.get_ifd(EXIF_IFD)[42036].encode("latin-1") == lens
        assert kept.endian == order or target == "b.tif"
    assert (pictures.read(tmp_path / target).exif or b"").count(author) == 1


@pytest.mark.parametrize("target", ["b.png", "b.jpg", "b.webp", "b.tif"])
def test_the_mark_of_adobe_rgb_stays(target: str, tmp_path: Path) -> None:
    """Cameras write no profile, but "R03" in the part of EXIF on interoperability."""
    exif = Image.Exif()
    exif[EXIF_IFD] = {0xA001: 0xFFFF, INTEROPERABILITY: {1: "R03", 2: b"0100"}}
    path = save(Image.fromarray(noise(8, 8, 3)), tmp_path / "a.jpg", exif=exif)
    for _ in range(2):  # its own result, too
        pictures.write(pictures.read(path), tmp_path / target)
        path = tmp_path / target
    with Image.open(path) as image:
        assert image.getexif().get_ifd(EXIF_IFD)[0xA001] == 0xFFFF
        assert image.getexif().get_ifd(INTEROPERABILITY) == {1: "R03", 2: b"0100"}


def test_a_gamma_that_is_lost_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, value in (("linear", 100_000), ("srgb", 45_455)):
        chunks = PngInfo()
        chunks.add(b"gAMA", struct.pack(">I", value))
        pictures.read(save(Image.fromarray(noise(8, 8, 3)), tmp_path / f"{name}.png", pnginfo=chunks))
    assert [text.partition(": ")[2][:21] for text in caplog.messages] == ["its gamma, 1, isn't k"]
    assert "linear.png" in caplog.text


def test_a_bmp_of_16_bits_has_8_per_channel(tmp_path: Path) -> None:
    words = noise(4, 4, dtype=np.uint16)
    header = struct.pack("<IiiHHIIiiII", 40, 4, -4, 1, 16, 3, words.nbytes, 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    start = 14 + len(header) + len(masks)
    (tmp_path / "a.bmp").write_bytes(
        struct.pack("<2sIHHI", b"BM", start + words.nbytes, 0, 0, start) + header + masks + words.tobytes()
    )
    pixels = pictures.read(tmp_path / "a.bmp").pixels
    expected = np.stack([(words >> 11) * 255 // 31, (words >> 5 & 63) * 255 // 63, (words & 31) * 255 // 31], -1)
    assert pixels.dtype == np.uint8 and np.abs(pixels.astype(int) - expected).max() <= 1


def test_a_files_length_does_not_count_as_its_depth(tmp_path: Path) -> None:
    """Pillow's decoder of JPEG 2000 is given the file's length, here of 65,535 bytes."""
    path = save(Image.fromarray(noise(8, 8, 3)), tmp_path / "a.jp2")
    path.write_bytes(path.read_bytes().ljust(65_535, b"\0"))
    assert pictures.read(path).pixels.shape == (8, 8, 3)


def test_16_bits_keep_their_resolution(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[282] = exif[283] = 300.0
    for block, dpi in ((exif.tobytes(), 300), (None, 72)):
        for name in ("a.png", "a.tif"):
            pictures.write(Picture(noise(8, 8, 1, dtype=np.uint16), exif=block), tmp_path / name)
            with Image.open(tmp_path / name) as image:
                assert image.info["dpi"] == pytest.approx((dpi, dpi), abs=0.1)


def test_sgi_of_16_bits_is_refused(tmp_path: Path) -> None:
    header = struct.pack(">hBBHHHH", 474, 0, 2, 3, 4, 3, 3).ljust(512, b"\0")
    (tmp_path / "a.sgi").write_bytes(header + noise(3, 3, 4, dtype=np.uint16).tobytes())
    with pytest.raises(UserError, match="SGI of 16 bits; convert it to PNG or TIFF"):
        pictures.read(tmp_path / "a.sgi")


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[CAMERA], exif[ORIENTATION], exif[256] = "a camera", 3, 77
    exif[EXIF_IFD] = {EXPOSURE: 0.25, WIDTH: 77}
    exif[GPS_IFD] = {1: "N"}
    return exif


@pytest.mark.parametrize(
    ("source", "target"),
    [("a.jpg", "b.png"), ("a.png", "b.webp"), ("a.webp", "b.tif"), ("a.tif", "b.jpg"), ("deep.png", "b.png")],
)
def test_camera_exposure_and_place_pass_through_every_format(
    source: str, target: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = camera_exif()
    if source == "deep.png":
        picture = Picture(noise(8, 8, 3, dtype=np.uint16), exif=exif.tobytes())
        pictures.write(picture, tmp_path / source)
    else:
        if source == "a.tif":
            del exif[256]  # there it is the width
        save(Image.fromarray(noise(8, 8, 3)), tmp_path / source, exif=exif.tobytes())
    for name in (source, target):
        picture = pictures.read(tmp_path / name)
        pictures.write(picture, tmp_path / target)
    with Image.open(tmp_path / target) as image:
        exif = image.getexif()
        tags = exif.get_ifd(EXIF_IFD)
        assert image.size == (8, 8) and exif[CAMERA] == "a camera" and exif.get(ORIENTATION, 1) == 1
        assert tags[EXPOSURE] == 0.25 and tags.get(WIDTH, 8) == 8
        assert exif.get_ifd(GPS_IFD)[1] == "N"
    assert "EXIF" not in caplog.text


def test_exif_that_cannot_be_kept_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exif = Image.Exif()
    exif[270] = "long " * 20000
    for name, dtype, message in (
        ("a.jpg", np.uint8, "a.jpg: 100... bytes of EXIF are more than jpg can hold; left out"),
        ("a.tif", np.uint16, "a.tif: without EXIF, which can't be written to tif of 16 bits or of 4 GB; png keeps it"),
    ):
        picture = Picture(noise(8, 8, 3, dtype=dtype), exif=exif.tobytes())
        pictures.write(picture, tmp_path / name)
        kept = pictures.read(tmp_path / name).exif or b""
        assert b"long" not in kept and re.search(message, caplog.text)
    pixels = noise(8, 8, 3)
    exif = camera_exif()
    exif[ORIENTATION] = 1
    block = exif.tobytes()
    for cut in range(30, len(block) - 6, 10):
        caplog.clear()
        again = pictures.read(save(Image.fromarray(pixels), tmp_path / "b.png", exif=block[:-cut]))
        assert np.array_equal(again.pixels, pixels) and again.exif is None
        assert "b.png: EXIF left out, since it can't be read (" in caplog.text


@pytest.mark.parametrize("target", ["b.png", "b.jpg", "b.webp", "b.tif"])
def test_exif_with_a_denominator_of_zero_does_not_stop_a_picture(tmp_path: Path, target: str) -> None:
    exif = camera_exif()
    exif[282] = exif[283] = 0.25  # resolution; a rational 1/4
    block = exif.tobytes().replace(struct.pack(">II", 1, 4), struct.pack(">II", 1, 0))
    block = block.replace(struct.pack("<II", 1, 4), struct.pack("<II", 1, 0))
    assert block != exif.tobytes()
    picture = pictures.read(save(Image.fromarray(noise(8, 8, 3)), tmp_path / "a.png", exif=block))
    pictures.write(picture, tmp_path / target)
    again = pictures.read(tmp_path / target)
    assert again.pixels.shape == (8, 8, 3) and again.exif is not None and b"a camera" in again.exif


def test_a_tiff_that_claims_two_sizes_is_refused(tmp_path: Path) -> None:
    path, sizes = tmp_path / "a.tif", ((256, 30), (257, 30), (256, 4), (257, 4))
    entries = (*sizes, (258, 16), (259, 1), (262, 1), (273, 146), (277, 1), (278, 30), (279, 1800))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + bytes(4 + 1800))
    with Image.open(path) as image:
        assert image.size == (4, 4), "what a limit would be checked by"
    refused(path, r"not a readable image \(it claims two sizes\)")


def test_what_pillow_cannot_identify_has_limits_too(tmp_path: Path) -> None:
    """16-bit grey with alpha goes to libvips at once."""
    pictures.write(Picture(noise(9, 9, 2, dtype=np.uint16)), tmp_path / "a.tif")
    pages = pyvips.Image.new_from_array(noise(18, 9, 2, dtype=np.uint16), interpretation="grey16").copy()
    pages.set_type(pyvips.GValue.gint_type, "page-height", 9)
    pages.tiffsave(str(tmp_path / "pages.tif"))
    refused(tmp_path / "pages.tif", "2 frames or pages; upscale them one by one")
    with pytest.raises(UserError, match=r"a.tif: 9×9 are 8.1e-05 megapixels, more than the limit of 8e-05"):
        pictures.read(tmp_path / "a.tif", max_megapixels=8e-5)


def test_12_bits_are_refused_and_not_read_as_a_dark_16(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    entries = ((256, 4), (257, 4), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 4), (279, 24))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + bytes(4) + b"\xff" * 24)
    with Image.open(path) as image:
        assert image.mode == "I;16" and image.getpixel((0, 0)) == 4095
    refused(path, r"not a readable image \(12 bits per channel; convert it to 16\)")
    with pytest.raises(UserError, match="12 bits per channel"):
        decode(path.read_bytes(), "a.tif")


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_jpeg_2000_of_more_than_8_bits_is_refused_and_not_read_as_8(tmp_path: Path, suffix: str) -> None:
    path = save(Image.new("RGB", (4, 4), (9, 99, 199)), tmp_path / f"a.{suffix}")
    assert pictures.read(path).pixels[0, 0].tolist() == [9, 99, 199]
    data = bytearray(path.read_bytes())
    depth = data.index(b"\xff\x4f\xff\x51") + 42
    assert data[depth] == 7  # 8 bits
    data[depth : depth + 9 : 3] = bytes([15] * 3)
    path.write_bytes(data)
    refused(path, r"not a readable image \(JPEG 2000 of 16 bits per channel; convert it to PNG or TIFF\)")
    with pytest.raises(UserError, match="JPEG 2000 of 16 bits"):
        decode(path.read_bytes(), path.name)


def test_webp_holds_grey_with_a_profile_as_the_srgb_that_it_looks_like(tmp_path: Path) -> None:
    """A grey profile (here with a gamma of 1.0) would describe RGB pixels, so that programs ignore it."""
    linear = linear_grey_profile()
    pixels = np.full((16, 16, 2), 128, np.uint8)
    pictures.write(Picture(pixels, linear), tmp_path / "a.webp", quality=100)
    with Image.open(tmp_path / "a.webp") as image:
        assert image.mode == "RGBA" and "icc_profile" not in image.info
        red, green, blue, alpha = cast(tuple[int, ...], image.getpixel((8, 8)))
    assert red == pytest.approx(188, abs=2) and (green, blue) == pytest.approx((red, red), abs=2) and alpha == 128


def linear_grey_profile() -> bytes:
    """An ICC profile of grey with a linear tone curve: header, two tags (white point, curve)."""
    white = b"XYZ " + bytes(4) + struct.pack(">3i", round(0.9642 * 65536), 65536, round(0.8249 * 65536))
    curve = b"curv" + bytes(4) + struct.pack(">I", 0)  # no points: the identity
    table = struct.pack(">I", 2) + struct.pack(">4sII4sII", b"wtpt", 156, 20, b"kTRC", 176, 12)
    header = struct.pack(">I4sI4s4s4s12s4s", 188, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ", bytes(12), b"acsp")
    header += bytes(28) + struct.pack(">3i", round(0.9642 * 65536), 65536, round(0.8249 * 65536)) + bytes(48)
    return header + table + white + curve


def test_a_layered_psd_is_one_picture(tmp_path: Path) -> None:
    """A PSD of 2×1 pixels with two layers: Pillow reads what they look like together."""
    layer = struct.pack(">4iH", 0, 0, 1, 2, 3) + b"".join(struct.pack(">hI", channel, 4) for channel in range(3))
    layer += b"8BIMnorm" + bytes([255, 0, 0, 0]) + struct.pack(">I", 12) + bytes(12)
    info = struct.pack(">h", 2) + layer * 2 + (bytes(2) + b"\x01\x02") * 6
    layers = struct.pack(">I", len(info)) + info
    psd = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 1, 2, 8, 3) + bytes(8) + struct.pack(">I", len(layers)) + layers
    (tmp_path / "a.psd").write_bytes(psd + bytes(2) + bytes([10, 40, 20, 50, 30, 60]))
    with Image.open(tmp_path / "a.psd") as image:
        assert cast(Any, image).n_frames == 2
    assert pictures.read(tmp_path / "a.psd").pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_16_bits_are_found_in_every_layout(tmp_path: Path) -> None:
    pixels = noise(6, 5, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="contig")
    tifffile.imwrite(tmp_path / "b.tif", pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    (tmp_path / "a.ppm").write_bytes(b"P6 5 6 65535\n" + pixels.astype(">u2").tobytes())
    for name in ("a.tif", "b.tif"):
        np.testing.assert_array_equal(pictures.read(tmp_path / name).pixels, pixels)
    refused(tmp_path / "a.ppm", "PPM of 16 bits; convert it to PNG or TIFF")
    for kind, channels in ((b"P6", 3), (b"P5", 1)):
        (tmp_path / "b.ppm").write_bytes(kind + b" 5 6 1023\n" + bytes(2 * 5 * 6 * channels))
        refused(tmp_path / "b.ppm", r"not a readable image .values up to 1023; convert it to PNG or TIFF")
    (tmp_path / "c.ppm").write_bytes(b"P6 5 6 100\n" + bytes(5 * 6 * 3))
    assert pictures.read(tmp_path / "c.ppm").pixels.shape == (6, 5, 3)


def test_avif_of_more_than_8_bits_is_refused_and_not_read_as_8(tmp_path: Path) -> None:
    save(Image.fromarray(noise(32, 32, 3)), tmp_path / "a.avif")
    assert pictures.read(tmp_path / "a.avif").pixels.shape == (32, 32, 3)
    data = bytearray((tmp_path / "a.avif").read_bytes())
    data[data.index(b"av1C") + 6] |= 0x40  # high_bitdepth; the coded picture itself still has 8, so it can't be opened
    deep: Any = SimpleNamespace(format="AVIF", fp=io.BytesIO(data))
    with pytest.raises(ValueError, match="AVIF of more than 8 bits per channel; convert it to PNG or TIFF"):
        pictures._refuse_deep(deep)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_large_tiff_is_a_bigtiff(tmp_path: Path, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = camera_exif()
    del exif[256], exif[ORIENTATION]  # the first is the width in a TIFF
    for channels in (1, 2, 3, 4):
        profile = GREY if channels < 3 else SRGB
        picture = Picture(noise(8, 8, channels, dtype=dtype), profile, exif.tobytes())
        for limit, version in ((10**9, 42), (0, 43)):
            monkeypatch.setattr(pictures, "LARGE_TIFF", limit)
            pictures.write(picture, tmp_path / "a.tif")
            head = (tmp_path / "a.tif").read_bytes()[:4]
            assert version in (int.from_bytes(head[2:], "little"), int.from_bytes(head[2:], "big"))
            again = pictures.read(tmp_path / "a.tif")
            np.testing.assert_array_equal(again.pixels, picture.pixels)
            assert again.profile == profile and again.pixels.dtype == dtype


def test_damaged_exif_of_16_bits_does_not_stop_a_picture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n8\nno hex")
    save(Image.fromarray(noise(4, 6, dtype=np.uint16)), tmp_path / "a.png", pnginfo=text)
    assert pictures.read(tmp_path / "a.png").pixels.shape == (4, 6, 1)
    assert "EXIF left out, since it can't be read" in caplog.text


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_name_that_a_file_can_have(tmp_path: Path, dtype: type) -> None:
    folder = tmp_path / "a[page=1] é"
    folder.mkdir()
    for height, name in enumerate(("x" * 251, "a[page=1]", "a b ü*?", os.fsdecode(b"caf\xe9")), start=1):
        for suffix in (".png", ".tif"):
            path = folder / f"{name}{suffix}"
            for width in (14, 9):  # the second time it is another picture
                picture = Picture(noise(height, width, 3, dtype=dtype))
                pictures.write(picture, path)
                np.testing.assert_array_equal(pictures.read(path).pixels, picture.pixels)
