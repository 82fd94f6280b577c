"""Picture files on the command line: which are written where, and what becomes of those that fail."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from srgan import cli, upscale
from srgan import weights as packaged
from srgan.errors import UserError
from srgan.inference import pictures
from srgan.inference.upscaler import Upscaler
from srgan.models import checkpoints

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch


@pytest.fixture(scope="module")
def weights(save_compact: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "srgan_x2.safetensors"
    save_compact(path)
    return path


@pytest.fixture
def folder(tmp_path: Path, weights: Path, monkeypatch: Patch) -> Path:
    """The current folder, with some pictures in it; of packaged weights there are small ones."""
    monkeypatch.setattr(packaged, "FOLDER", weights.parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday" / "beach").mkdir(parents=True)
    (tmp_path / "holiday" / "__MACOSX").mkdir()
    photograph = Image.fromarray(data.astronaut()[:20, :30])
    for name in (
        "photo.jpg",
        "holiday/one.png",
        "holiday/beach/three.webp",
        "holiday/.hidden.png",
        "holiday/__MACOSX/a.png",
    ):
        photograph.save(name)
    photograph.convert("L").save("holiday/two.JPG")
    (tmp_path / "shoot [1]").mkdir()
    photograph.save("shoot [1]/four.png")
    (tmp_path / "holiday" / "notes.txt").write_text("no picture")
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: str) -> int | str | None:
    """The command's exit code."""
    try:
        upscale.main(["--scale", "2", "--device", "cpu", *arguments])
    except SystemExit as end:
        return end.code
    return 0


def test_one_picture_is_written_beside_it(folder: Path, weights: Path, capsys: Capture) -> None:
    before = files(folder)
    upscale.main(["photo.jpg", "-w", str(weights), "--device", "cpu"])
    assert files(folder) - before == {"photo_x2.png"}
    expected = Upscaler(checkpoints.load(weights), "cpu")(Image.open("photo.jpg"))
    np.testing.assert_array_equal(pictures.read(Path("photo_x2.png")).pixels, np.asarray(expected))
    assert capsys.readouterr().out == "1 done, 0 skipped, 0 failed\n"


def test_folders_and_patterns_go_to_another_folder_with_their_folders(folder: Path) -> None:
    for number, (inputs, expected) in enumerate(
        (
            (["holiday/"], {"one_x2.png", "two_x2.png"}),
            (["holiday/", "-r", "-f", "webp"], {"one_x2.webp", "two_x2.webp", "beach/three_x2.webp"}),
            (["holiday/*.png", "holiday/**/*.webp"], {"one_x2.png", "three_x2.png"}),
            (["holi*"], {"one_x2.png", "two_x2.png"}),
            (["shoot [1]/*.png"], {"four_x2.png"}),
        )
    ):
        output = folder / str(number)
        assert run(*inputs, "-o", f"{output}/") == 0
        assert files(output) == expected
        assert all(pictures.read(output / name).pixels.shape[:2] == (40, 60) for name in expected)


def test_what_exists_is_skipped_and_earlier_results_are_left_out(folder: Path, capsys: Capture) -> None:
    def says(*arguments: str) -> str:
        assert run(*arguments) == 0
        return capsys.readouterr().out

    mine = folder / "holiday" / "one_x2.png"
    mine.write_bytes(b"mine")
    left_out = "left out: holiday/one_x2.png"
    skipped = "1 done, 1 skipped (they exist; --overwrite replaces them), 0 failed\n"
    assert says("holiday") == f"{left_out}, earlier results\n{skipped}"
    assert mine.read_bytes() == b"mine"
    done = "2 done, 0 skipped, 0 failed\n"
    left_out += ", holiday/two_x2.png"
    assert says("holiday", "--overwrite") == says("holiday", "-f", "jpg") == f"{left_out}, earlier results\n{done}"
    assert pictures.read(mine).pixels.shape == (40, 60, 3)
    left_out = "left out: holiday/one_x2.jpg, holiday/one_x2.png, holiday/two_x2.jpg …, earlier"
    assert left_out in says("holiday", "-o", str(folder / "holiday"))
    assert not list(folder.rglob("*_x2_x2.*"))
    says("holiday/one_x2.png")
    assert (folder / "holiday/one_x2_x2.png").is_file(), "named alone it is a picture like any other"


def test_a_file_that_fails_does_not_stop_the_others(folder: Path, capsys: Capture, monkeypatch: Patch) -> None:
    (folder / "holiday" / "bad.png").write_bytes(b"\x89PNG\r\n")
    for name in ("buggy.png", "clear.png", "huge.png", "one.webp"):
        Image.new("RGBA", (5, 5)).save(folder / "holiday" / name)
    read, faults = pictures.read, {"buggy.png": KeyError("a bug"), "huge.png": MemoryError()}

    def failing_read(path: Path, max_megapixels: float) -> pictures.Picture:
        if path.name in faults:
            raise faults[path.name]
        return read(path, max_megapixels)

    monkeypatch.setattr(pictures, "read", failing_read)
    assert run("holiday", "gone.jpg", "holiday/one.png", "-o", "out", "-f", "jpg") == 1
    printed = capsys.readouterr()
    assert files(folder / "out") == {"one.png_x2.jpg", "two_x2.jpg"}
    assert printed.out.endswith("\n2 done, 0 skipped, 6 failed\n")
    expected = [
        "gone.jpg: no such file or folder",
        "holiday/bad.png: not a readable image",
        "holiday/buggy.png: KeyError: 'a bug'",
        "out/clear_x2.jpg: jpg can't hold transparency",
        "holiday/huge.png: the enlarged picture doesn't fit into memory",
        "out/one.webp_x2.jpg: jpg can't hold transparency",
    ]
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert all(line.startswith(f"error: {start}") for line, start in zip(lines, expected, strict=True))


@pytest.mark.parametrize("output", [[], ["-o", "out"], ["-o", "holiday/out"], ["-o", "."]])
def test_what_an_earlier_run_wrote_is_never_upscaled(folder: Path, capsys: Capture, output: list[str]) -> None:
    for arguments in ([], ["-f", "jpg"], ["-o", "elsewhere"], []):
        assert run(".", "-r", *output, *arguments) == 0
    assert capsys.readouterr().out.endswith("0 done, 5 skipped (they exist; --overwrite replaces them), 0 failed\n")
    assert not [name for name in files(folder) if "_x2_x2" in name or "out/out" in name]


def test_an_original_that_is_named_like_a_result_of_another_folder_is_upscaled(folder: Path, capsys: Capture) -> None:
    for name in ("shop/a/lamp.png", "shop/b/lamp_x2.png", "shop/lamp_x2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 5)).save(name)
    assert run("shop", "-r", "-o", "out") == 0
    assert files(folder / "out") == {"a/lamp_x2.png", "b/lamp_x2_x2.png", "lamp_x2_x2.png"}
    for path in (folder / "shop/lamp_x2.png", folder / "out/lamp_x2_x2.png"):
        path.unlink()
    for arguments in (["shop/*/*.png", "out/*/*.png"], ["shop", "out", "-r"]):  # results of before, however named
        assert run(*arguments, "-o", "again") == 0
    assert files(folder / "again") == {"lamp_x2.png", "a/lamp_x2.png", "b/lamp_x2_x2.png"}


def test_what_cannot_be_written_is_said_before_the_work(folder: Path, capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Upscaler, "enlarge", lambda *_: pytest.fail("upscaled"))
    Image.new("RGBA", (5, 5)).save("clear.png")
    assert run("clear.png", "-f", "jpg") == run("photo.jpg", "-o", "holiday/notes.txt/new/") == 1
    Image.new("RGB", (8200, 1)).save("wide.png")
    assert run("wide.png", "-f", "webp") == 1
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert run("photo.jpg", "-o", "closed") == 1
    errors = capsys.readouterr().err
    for words in (
        "clear_x2.jpg: jpg can't hold transparency",
        "notes.txt/new/photo_x2.png: can't be written (Not a directory)",
        "16400×2 pixels are more than webp can hold",
        "closed/photo_x2.png: can't be written (no right to write to its folder)",
    ):
        assert words in errors


def test_pictures_of_one_name_get_results_of_their_own(folder: Path, capsys: Capture) -> None:
    assert run("photo.jpg") == 0
    Image.new("RGB", (5, 5)).save("photo.png")
    Image.new("RGB", (6, 6)).save("photo.jpg.gif")
    for arguments in ([], [], ["-o", "out"]):
        assert run(".", *arguments) == 0
    names = {"photo.jpg_x2.png", "photo.png_x2.png", "photo.jpg.gif_x2.png"}
    assert names | {"photo_x2.png"} <= files(folder) and files(folder / "out") == names
    assert pictures.read(Path("photo.jpg.gif_x2.png")).pixels.shape[:2] == (12, 12)
    assert "same name but for the suffix: photo.jpg → photo.jpg_x2.png" in capsys.readouterr().out


@pytest.mark.parametrize("platform", ["darwin", "linux"])
def test_where_case_does_not_count_names_that_differ_in_it_are_one(
    folder: Path, platform: str, monkeypatch: Patch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    for name in ("Lamp.jpg", "lamp.png"):
        Image.new("RGB", (5, 5)).save(name)
    plan = upscale.make_plan(["Lamp.jpg", "lamp.png"], None, 2, None, recursive=False)
    expected = ["Lamp.jpg_x2.png", "lamp.png_x2.png"] if platform == "darwin" else ["Lamp_x2.png", "lamp_x2.png"]
    assert [str(job.target) for job in plan.jobs] == expected


def test_on_a_disk_that_ignores_case_no_result_replaces_another(
    folder: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    """As on a USB stick under Linux: simulated by a result that a link makes the same file."""
    for name in ("Lamp.jpg", "lamp.png"):
        Image.new("RGB", (5, 5)).save(name)
    (folder / "out").mkdir()
    (folder / "out" / "Lamp_x2.png").touch()
    os.link("out/Lamp_x2.png", "out/lamp_x2.png")
    monkeypatch.setattr(pictures, "write", lambda picture, target, quality: target.write_bytes(b"whole"))
    assert run("Lamp.jpg", "lamp.png", "-o", "out", "--overwrite") == 1
    assert "error: lamp.png: would be written to out/lamp_x2.png, as Lamp.jpg is" in capsys.readouterr().err


def test_linked_folders_are_searched_but_not_in_circles(folder: Path) -> None:
    (folder / "disk").mkdir()
    Image.new("RGB", (5, 5)).save("disk/five.png")
    (folder / "holiday" / "linked").symlink_to(folder / "disk")
    (folder / "disk" / "back").symlink_to(folder / "holiday")
    for _ in range(2):
        assert run("holiday", "-r") == 0
    assert {name for name in files(folder) if "_x2" in name} == {
        *("holiday/one_x2.png", "holiday/two_x2.png", "holiday/beach/three_x2.png", "disk/five_x2.png")
    }


def test_a_pattern_takes_files_and_folders(folder: Path, capsys: Capture) -> None:
    (folder / "home").mkdir()
    (folder / "hollow.png").write_bytes((folder / "holiday" / "one.png").read_bytes())
    assert run("ho*", "-o", "out") == 0
    assert files(folder / "out") == {"hollow_x2.png", "one_x2.png", "two_x2.png"}
    assert run("hom*") == 1 and "error: home: no pictures" in capsys.readouterr().err


def test_what_is_not_read_takes_no_part_in_the_names(folder: Path) -> None:
    (folder / "photo.CR2").write_bytes(b"raw")
    (folder / "photo.heic").write_bytes(b"anything")
    assert run(".") == 1
    assert "photo_x2.png" in files(folder) and "photo.jpg_x2.png" not in files(folder)


def test_a_result_with_any_name_is_known_again(folder: Path, capsys: Capture) -> None:
    (folder / "photo.jpg").rename("a\nb.jpg")
    for _ in range(3):
        assert run(".") == 0
    assert files(folder) >= {"a\nb.jpg", "a\nb_x2.png"} and "a\nb_x2_x2.png" not in files(folder)


def test_home_is_found_without_a_shell(folder: Path, weights: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("HOME", str(folder / "holiday"))
    shutil.copy(weights, folder / "holiday" / "w.safetensors")
    assert run("~/one.png", "--output=~/sharp", "--weights=~/w.safetensors") == 0
    assert (folder / "holiday" / "sharp" / "one_x2.png").is_file() and not (folder / "~").exists()


def test_a_folder_takes_all_that_a_file_may_be_and_names_what_cannot_be_read(folder: Path, capsys: Capture) -> None:
    (folder / "mixed").mkdir()
    for suffix, kind in (("jfif", "JPEG"), ("avif", None), ("GIF", None), ("jp2", None), ("tga", None), ("ppm", None)):
        Image.new("RGB", (8, 8)).save(folder / "mixed" / f"{suffix}.{suffix}", kind)
    for name in ("a.heic", "b.CR2", "film.mpg", "notes.txt"):
        (folder / "mixed" / name).write_bytes(b"anything")
    (folder / "mixed" / "lost.png").symlink_to("nothing")
    assert run("mixed", "-o", "out") == 1
    printed = capsys.readouterr()
    assert printed.out == "6 done, 0 skipped, 3 failed\n"
    assert "error: mixed/a.heic: HEIC is not read here; convert it to JPEG, PNG or TIFF\n" in printed.err
    assert "error: mixed/b.CR2: CR2 is not read" in printed.err and "mixed/lost.png: no such file" in printed.err


def test_names_and_folders_of_any_kind(folder: Path, capsys: Capture, monkeypatch: Patch) -> None:
    (folder / "shoot [1]" / "a*").mkdir(parents=True)
    odd = os.fsdecode(b"caf\xe9")
    for name in (f"{'x' * 250}.png", "b.png", f"{odd}.png", f"{odd}.jpg", "a*/c.png"):
        Image.new("RGB", (5, 5)).save(folder / "shoot [1]" / name)
    scandir = os.scandir

    def guarded(path: str) -> object:
        if "closed" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    (folder / "shoot [1]" / "closed").mkdir()
    monkeypatch.setattr(os, "scandir", guarded)
    assert run("shoot [1]", "-r", "-o", "1") == run("shoot [1]/*.png", "-o", "2") == 1
    assert run("shoot [1]/a*/*.png", "-o", "3") == run("shoot*/b.png", "-o", "4") == 0
    printed = capsys.readouterr()
    assert {*map(len, map(files, map(folder.joinpath, "1234")))} == {5, 3, 1}
    assert "error: shoot [1]/closed: can't be read (Permission denied)\n" in printed.err
    assert printed.err.count("x_x2.png: can't be written (File name too long)\n") == 2
    assert "caf\\udce9.jpg" in printed.out or odd in printed.out


def test_the_limit_of_pixels_can_be_raised(folder: Path, capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own would refuse it, and call it an attack
    assert run("photo.jpg", "--max-megapixels", "0.0005") == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "error: photo.jpg: 30×20 are 0.0006 megapixels, more than the limit of 0.0005; --max-megapixels raises it"
    )
    assert run("photo.jpg") == 0
    Image.new("RGB", (30, 20)).save("scan.tif")  # Pillow looks at its size again when it loads the pixels
    assert run("scan.tif") == 0 and Image.MAX_IMAGE_PIXELS == 100


def test_a_single_picture_may_be_given_its_name_and_quality(folder: Path) -> None:
    for name in ("new/big.png", "big.TIF"):
        assert run("photo.jpg", "-o", name) == 0
        assert pictures.read(folder / name).pixels.shape == (40, 60, 3)
    for suffix in ("jpg", "webp"):
        for quality in ("10", "95"):
            assert run("photo.jpg", "-o", f"{quality}.{suffix}", "-q", quality) == 0
        assert 1.3 * (folder / f"10.{suffix}").stat().st_size < (folder / f"95.{suffix}").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.jpg", "-w", "none.ckpt"], "no weights 'none.ckpt': expected a file, or one of"),
        (["photo.jpg", "-w", ""], "--weights is empty"),
        (["photo.jpg", "-o", ""], "--output is empty"),
        (["photo.jpg", "-s", "7"], "no weights for scale 7 come with the package"),
        (["photo.jpg", "-s", "4", "-w", "srgan_x2"], "--scale 4, but the weights .* enlarge ×2"),
        (["holiday", "-o", "a.png"], "a.png is the name of one file; give a folder"),
        (["photo.jpg", "-o", "a.png", "-f", "png"], "says the format already; leave out --format"),
        (["photo.jpg", "--tile", "3"], "tiles of 3 pixels are too small"),
        (["photo.jpg", "-o", "photo.jpg"], "photo.jpg: would be overwritten by the result; give -o"),
        (["photo.jpg", "-o", "a.bmp"], "a.bmp: can't write .bmp; take png, jpg, webp, tif"),
        (["photo.jpg", "-o", "a.heic"], "a.heic: can't write .heic; take png, jpg, webp, tif"),
        (["photo.jpg", "-o", "holiday/notes.txt"], "notes.txt: neither a folder nor named as a pict"),
        ([""], "an empty path was given"),
        (["holy*"], r"holy\*: no such file"),
        (["dangling.png"], "dangling.png: no such file"),
        (["empty"], r"empty: no pictures \(.jpg, .png, .*\) in this folder; --recursive looks"),
        (["photo.jpg", "--max-megapixels", "0"], "--max-megapixels 0: expected more than 0"),
    ],
)
def test_mistakes_are_one_line(folder: Path, capsys: Capture, arguments: list[str], message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "dangling.png").symlink_to("nothing")
    before = files(folder)
    assert run(*arguments) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert re.match(f"error: .*{message}", error)
    assert files(folder) == before


def test_ctrl_c_says_how_far_it_got(folder: Path, capsys: Capture, monkeypatch: Patch) -> None:
    def interrupted(_: Upscaler, job: upscale.Job, *__: object) -> None:
        if job.source.name == "two.JPG":
            raise KeyboardInterrupt
        job.target.touch()

    monkeypatch.setattr(upscale, "upscale_file", interrupted)
    assert run("holiday", "gone.jpg") == cli.INTERRUPTED
    assert capsys.readouterr().err == (
        "error: gone.jpg: no such file or folder\ninterrupted: 1 done, 0 skipped, 1 failed; the same command goes on\n"
    )
    assert run("holiday", "--overwrite") == cli.INTERRUPTED
    assert capsys.readouterr().err == "interrupted: 1 done, 0 skipped, 0 failed\n"


def test_sharp_weights_come_first(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    for name, expected in (("srresnet_x4", "srresnet_x4"), ("srgan_x4", "srgan_x4")):
        (tmp_path / f"{name}.safetensors").touch()
        assert upscale.default_weights(4) == expected
    with pytest.raises(UserError, match=r"no weights for scale 3 come with the package \(srgan_x4, srresnet_x4\)"):
        upscale.default_weights(3)
