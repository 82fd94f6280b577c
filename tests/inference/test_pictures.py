"""Picture files keep what they hold: pixels of every kind, profile, orientation, EXIF; the rest is refused."""

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from srgan.errors import UserError
from srgan.inference import pictures
from srgan.inference.pictures import Picture

ORIENTATION = 0x0112
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def grey_profile() -> bytes:
    """The least that is an ICC profile of grey: a white point and a gamma of 2.2."""
    point = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    gamma = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, 563)
    text = b"text\0\0\0\0none\0\0\0\0"
    tags, table, body = {b"cprt": text, b"desc": text, b"wtpt": point, b"kTRC": gamma}, b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">2I", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    body = struct.pack(">I", len(tags)) + table + body
    header = struct.pack(">I4sI4s4s4s", 128 + len(body), b"none", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + body


def noise(*shape: int, dtype: type = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_written_is_read_again_pixels_and_profile(tmp_path: Path, channels: int, dtype: type) -> None:
    profile = grey_profile() if channels < 3 else SRGB
    picture = Picture(noise(9, 14, channels, dtype=dtype), profile)
    for name in ("a.png", "a.TIFF"):
        pictures.write(picture, tmp_path / name)
        again = pictures.read(tmp_path / name)
        assert again.pixels.dtype == dtype
        np.testing.assert_array_equal(again.pixels, picture.pixels)
        assert again.profile == profile
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.TIFF"}


def test_jpeg_keeps_grey_and_quality(tmp_path: Path) -> None:
    for channels, profile in ((1, grey_profile()), (3, SRGB)):
        pixels = np.broadcast_to(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (64, 48, channels))
        sizes: list[int] = []
        for quality in (30, 95):
            pictures.write(Picture(np.ascontiguousarray(pixels), profile), tmp_path / "a.jpeg", quality)
            again = pictures.read(tmp_path / "a.jpeg")
            assert again.pixels.shape == pixels.shape and again.profile == profile
            assert np.abs(again.pixels.astype(int) - pixels).max() < 12
            sizes.append((tmp_path / "a.jpeg").stat().st_size)
        assert sizes[0] < sizes[1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_the_rest_of_exif_kept(tmp_path: Path, orientation: int) -> None:
    upright = noise(8, 16, 3)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x0110] = orientation, "a camera"
    exif.get_ifd(pictures.EXIF_IFD)[pictures.WIDTH] = 16
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    picture = pictures.read(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, upright)
    pictures.write(picture, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        kept = image.getexif()
        assert kept[0x0110] == "a camera"
        assert ORIENTATION not in kept and pictures.WIDTH not in kept.get_ifd(pictures.EXIF_IFD)


def test_orientation_of_16_bit_files_is_applied(tmp_path: Path) -> None:
    upright = noise(4, 6, 3, dtype=np.uint16)
    turned = np.ascontiguousarray(np.rot90(upright))
    image = pyvips.Image.new_from_array(turned, interpretation="rgb16").copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", 6)
    image.tiffsave(str(tmp_path / "a.tif"))
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.tif").pixels, upright)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_palettes_bilevel_and_transparent_colours_become_what_they_look_like(tmp_path: Path) -> None:
    rgb = Image.fromarray(noise(5, 7, 3))
    palette = rgb.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(pictures.read(save(palette, tmp_path / "p.png")).pixels, expected)
    clear = pictures.read(save(palette, tmp_path / "t.png", transparency=0)).pixels
    assert clear.shape == (5, 7, 4)
    np.testing.assert_array_equal(clear[..., 3], np.where(np.asarray(palette) == 0, 0, 255))
    grey = Image.fromarray(noise(5, 7)).quantize(256)
    assert pictures.read(save(grey, tmp_path / "g.png")).pixels.shape == (5, 7, 1)
    assert set(np.unique(pictures.read(save(rgb.convert("1"), tmp_path / "1.png")).pixels)) <= {0, 255}
    keyed = pictures.read(save(Image.fromarray(np.full((2, 2), 7, np.uint8)), tmp_path / "k.png", transparency=7))
    np.testing.assert_array_equal(keyed.pixels, np.full((2, 2, 2), [7, 0]))


@pytest.mark.parametrize("profile", [None, b"no profile"])
def test_cmyk_becomes_rgb_without_its_profile(tmp_path: Path, profile: bytes | None) -> None:
    image = Image.new("CMYK", (6, 5), (0, 255, 255, 0))
    picture = pictures.read(save(image, tmp_path / "a.tif", icc_profile=profile))
    assert picture.pixels.shape == (5, 6, 3) and picture.profile is None
    np.testing.assert_array_equal(picture.pixels[0, 0], [255, 0, 0])


def test_a_cameras_jpeg_with_a_second_picture_is_its_first(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (40, 200))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert abs(int(pictures.read(tmp_path / "a.jpg").pixels.mean()) - 40) < 3


def animated(path: Path, **options: Any) -> Path:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def test_animated_and_multi_page_files_are_refused(tmp_path: Path) -> None:
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        with pytest.raises(UserError, match=rf"{name}: 3 frames or pages; upscale them one by one"):
            pictures.read(animated(tmp_path / name))


def test_files_that_are_no_pictures_are_refused_with_their_name(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(noise(40, 40, 3)).save(whole, "PNG")
    pictures.write(Picture(noise(40, 40, 3, dtype=np.uint16)), tmp_path / "deep.png")
    (tmp_path / "cut16.png").write_bytes((tmp_path / "deep.png").read_bytes()[:5000])
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((3, 3), np.float32)).save(tmp_path / "float.tif")
    for name in ("cut.png", "cut16.png", "text.jpg", "empty.png"):
        with pytest.raises(UserError, match=rf"{name}: not a readable image \(.+\)$"):
            pictures.read(tmp_path / name)
    with pytest.raises(UserError, match=r"float.tif: an image of mode F \(32 bits\)"):
        pictures.read(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"none.png: no such file"):
        pictures.read(tmp_path / "none.png")
    with pytest.raises(UserError, match="not a readable image"):
        pictures.read(tmp_path)
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"bomb.png: not a readable image \(Image size \(400000000 pixels\)"):
        pictures.read(tmp_path / "bomb.png")


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    for name, shape, dtype, message in (
        ("a.jpg", (3, 3, 4), np.uint8, "jpg can't hold transparency; take png, webp or tif"),
        ("a.jpg", (3, 3, 2), np.uint8, "jpg can't hold transparency"),
        ("a.jpg", (3, 3, 3), np.uint16, "jpg can't hold 16 bits; take png or tif"),
        ("a.webp", (3, 3, 3), np.uint16, "webp can't hold 16 bits"),
        ("a.gif", (3, 3, 3), np.uint8, r"can't write .gif; take png, jpg, webp, tif"),
        ("a", (3, 3, 3), np.uint8, "can't write a file without suffix"),
        ("a.webp", (1, 16384, 3), np.uint8, "16384×1 pixels are more than webp can hold"),
    ):
        with pytest.raises(UserError, match=message):
            pictures.write(Picture(np.zeros(shape, dtype)), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def fail(_: Picture, temporary: Path, *__: object) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures, "_write_8_bit", fail)
    monkeypatch.setattr(pictures, "_write_16_bit", fail)
    with pytest.raises(UserError, match=r"a.png: can't be written \(No space left on device\)"):
        pictures.write(Picture(noise(3, 3, 3, dtype=dtype)), path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def camera_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0110], exif[ORIENTATION], exif[256] = "a camera", 1, 77
    exif[pictures.EXIF_IFD] = {0x829A: 0.25, pictures.WIDTH: 77}
    exif[pictures.GPS_IFD] = {1: "N"}
    return exif


@pytest.mark.parametrize(
    ("source", "target"), [("a.jpg", "b.png"), ("a.png", "b.webp"), ("a.webp", "b.tif"), ("a.tif", "b.jpg")]
)
def test_camera_exposure_and_place_pass_through_every_format(tmp_path: Path, source: str, target: str) -> None:
    image = Image.fromarray(noise(8, 8, 3))
    exif = camera_exif()
    if source == "a.tif":
        del exif[256]  # there it is the width
    image.save(tmp_path / source, exif=exif.tobytes())
    picture = pictures.read(tmp_path / source)
    for _ in range(2):
        pictures.write(picture, tmp_path / target)
        picture = pictures.read(tmp_path / target)
    with Image.open(tmp_path / target) as image:
        assert image.size == (8, 8)
        exif = image.getexif()
        assert exif[0x0110] == "a camera"
        assert exif.get_ifd(pictures.EXIF_IFD) == {0x829A: 0.25} and exif.get_ifd(pictures.GPS_IFD) == {1: "N"}


def test_a_tiff_keeps_no_layout_in_its_exif(tmp_path: Path) -> None:
    pictures.write(Picture(noise(8, 8, 3)), tmp_path / "a.tif")
    assert pictures.read(tmp_path / "a.tif").exif is None
    with Image.open(tmp_path / "a.tif") as image:
        assert image.info["compression"] == "tiff_adobe_deflate"


def test_exif_of_16_bit_files_is_kept_in_png(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = Picture(noise(8, 9, 3, dtype=np.uint16), exif=camera_exif().tobytes())
    pictures.write(deep, tmp_path / "a.png")
    again = pictures.read(tmp_path / "a.png")
    np.testing.assert_array_equal(again.pixels, deep.pixels)
    kept = Image.Exif()
    kept.load(again.exif or b"")
    assert kept[0x0110] == "a camera" and kept.get_ifd(pictures.EXIF_IFD)[0x829A] == 0.25
    assert "EXIF" not in caplog.text
    pictures.write(again, tmp_path / "a.tif")
    assert "a.tif: without EXIF, which can't be written to tif of 16 bits; png keeps it" in caplog.text
    np.testing.assert_array_equal(pictures.read(tmp_path / "a.tif").pixels, deep.pixels)


def test_exif_that_is_too_long_or_damaged_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[270] = "long " * 20000
    picture = Picture(noise(8, 8, 3), exif=exif.tobytes())
    pictures.write(picture, tmp_path / "a.jpg")
    assert pictures.read(tmp_path / "a.jpg").exif is None
    assert "a.jpg: 100" in caplog.text and "more than jpg can hold; left out" in caplog.text
    block = camera_exif().tobytes()
    for cut in range(30, len(block) - 6, 10):
        caplog.clear()
        Image.fromarray(picture.pixels).save(tmp_path / "b.png", exif=block[:-cut])
        again = pictures.read(tmp_path / "b.png")
        np.testing.assert_array_equal(again.pixels, picture.pixels)
        assert again.exif is None and "b.png: EXIF left out, since it can't be read (" in caplog.text


def tiff(*entries: tuple[int, int], pixels: bytes) -> bytes:
    """A little-endian TIFF of one strip, with these tags as 32-bit numbers; 273 (where the strip is) is put in."""
    entries = tuple((tag, 14 + 12 * len(entries) if tag == 273 else value) for tag, value in entries)
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + bytes(4) + pixels


def test_a_tiff_that_claims_two_sizes_is_refused(tmp_path: Path) -> None:
    layout = ((258, 16), (259, 1), (262, 1), (273, 0), (277, 1), (278, 30))
    pixels = noise(30, 30, dtype=np.uint16)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff((256, 30), (257, 30), *layout, (279, 1800), pixels=pixels.tobytes()))
    np.testing.assert_array_equal(pictures.read(path).pixels[..., 0], pixels)
    path.write_bytes(tiff((256, 30), (257, 30), (256, 4), (257, 4), *layout, (279, 1800), pixels=pixels.tobytes()))
    with Image.open(path) as image:
        assert image.size == (4, 4), "what a limit would be checked by"
    with pytest.raises(UserError, match=r"a.tif: not a readable image \(it claims two sizes\)"):
        pictures.read(path)


def test_what_pillow_cannot_identify_has_limits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16-bit grey with alpha goes to libvips at once."""
    pictures.write(Picture(noise(9, 9, 2, dtype=np.uint16)), tmp_path / "a.tif")
    assert pictures.read(tmp_path / "a.tif").pixels.shape == (9, 9, 2)
    pages = pyvips.Image.new_from_array(noise(18, 9, 2, dtype=np.uint16), interpretation="grey16").copy()
    pages.set_type(pyvips.GValue.gint_type, "page-height", 9)
    pages.tiffsave(str(tmp_path / "pages.tif"))
    with pytest.raises(UserError, match=r"pages.tif: 2 frames or pages; upscale them one by one"):
        pictures.read(tmp_path / "pages.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UserError, match=r"a.tif: not a readable image \(9×9 pixels are too many\)"):
        pictures.read(tmp_path / "a.tif")


def test_16_bits_are_found_in_every_layout(tmp_path: Path) -> None:
    pixels = noise(6, 5, 3, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="contig")
    tifffile.imwrite(tmp_path / "b.tif", pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    (tmp_path / "a.ppm").write_bytes(b"P6 5 6 65535\n" + pixels.astype(">u2").tobytes())
    for name in ("a.tif", "b.tif"):
        np.testing.assert_array_equal(pictures.read(tmp_path / name).pixels, pixels)
    with pytest.raises(UserError, match=r"a.ppm: PPM of 16 bits; convert it to PNG or TIFF"):
        pictures.read(tmp_path / "a.ppm")


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


def test_a_grey_palette_with_a_profile_of_rgb_stays_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(noise(5, 7)).quantize(256)
    picture = pictures.read(save(grey, tmp_path / "g.png", icc_profile=SRGB))
    assert picture.pixels.shape == (5, 7, 3) and picture.profile == SRGB
    flat = pictures.read(save(Image.fromarray(noise(5, 7)), tmp_path / "l.png", icc_profile=SRGB))
    assert flat.pixels.shape == (5, 7, 1) and flat.profile is None


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file")
    for name, message in (("notes/a.png", "can't be written"), (f"{'x' * 300}.png", "too long")):
        with pytest.raises(UserError, match=message):
            pictures.write(Picture(noise(3, 3, 3)), tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["notes"]
