"""Picture files on the command line: which are written where, and what becomes of those that fail."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from srgan import cli, upscale
from srgan import weights as packaged
from srgan.errors import UserError
from srgan.inference import pictures
from srgan.inference.upscaler import Upscaler
from srgan.models import checkpoints
from srgan.models.generators import Compact

NODE = {"_target_": "srgan.models.generators.Compact", "scale": 2, "channels": 4, "blocks": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    generator = Compact(2, channels=4, blocks=1)
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoints.save_weights(path, generator, NODE)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with some pictures in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday" / "beach").mkdir(parents=True)
    photograph = Image.fromarray(data.astronaut()[:20, :30])
    photograph.save("photo.jpg")
    photograph.save("holiday/one.png")
    photograph.convert("L").save("holiday/two.JPG")
    photograph.save("holiday/beach/three.webp")
    photograph.save("holiday/.hidden.png")
    (tmp_path / "holiday" / "notes.txt").write_text("no picture")
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def run(*arguments: str) -> int | str | None:
    """The command's exit code."""
    try:
        upscale.main([*arguments, "--device", "cpu"])
    except SystemExit as end:
        return end.code
    return 0


def test_one_picture_is_written_beside_it(folder: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(folder)
    assert run("photo.jpg", "-w", weights) == 0
    assert files(folder) - before == {"photo_x2.png"}
    expected = Upscaler(checkpoints.load(weights), "cpu")(Image.open("photo.jpg"))
    np.testing.assert_array_equal(pictures.read(Path("photo_x2.png")).pixels, np.asarray(expected))
    assert capsys.readouterr().out == "1 done, 0 skipped, 0 failed\n"


def test_a_folder_goes_to_another_with_its_folders(folder: Path, weights: str) -> None:
    for number, (options, expected) in enumerate(
        [
            ([], {"one_x2.png", "two_x2.png"}),
            (["-r", "--format", "webp"], {"one_x2.webp", "two_x2.webp", "beach/three_x2.webp"}),
        ]
    ):
        output = folder / f"sharp{number}"
        assert run("holiday/", "-o", f"{output}/", "-w", weights, *options) == 0
        assert files(output) == expected
        assert all(pictures.read(output / name).pixels.shape[:2] == (40, 60) for name in expected)


def test_what_exists_is_skipped_unless_it_shall_be_overwritten(
    folder: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "holiday" / "one_x2.png").write_bytes(b"mine")
    assert run("holiday", "-w", weights) == 0
    assert "1 done, 1 skipped (they exist; --overwrite writes them anew), 0 failed" in capsys.readouterr().out
    assert (folder / "holiday" / "one_x2.png").read_bytes() == b"mine"
    assert run("holiday", "-w", weights, "--overwrite") == 0
    assert "2 done, 0 skipped, 0 failed" in capsys.readouterr().out
    assert pictures.read(folder / "holiday" / "one_x2.png").pixels.shape == (40, 60, 3)
    assert files(folder / "holiday") == {
        *("one.png", "two.JPG", "one_x2.png", "two_x2.png", ".hidden.png", "notes.txt", "beach/three.webp")
    }, "an earlier run's results are no originals"


def test_a_file_that_fails_does_not_stop_the_others_and_the_exit_code_says_it(
    folder: Path, weights: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "holiday" / "bad.png").write_bytes(b"\x89PNG\r\n")
    Image.new("RGBA", (5, 5)).save("holiday/clear.png")
    for name in ("buggy.png", "huge.png"):
        Image.new("L", (5, 5)).save(folder / "holiday" / name)
    read = pictures.read

    def failing_read(path: Path) -> pictures.Picture:
        if path.name in ("buggy.png", "huge.png"):
            raise KeyError("a bug") if path.name == "buggy.png" else MemoryError
        return read(path)

    monkeypatch.setattr(pictures, "read", failing_read)
    assert run("holiday", "gone.jpg", "-o", "out", "-f", "jpg", "-w", weights) == 1
    printed = capsys.readouterr()
    assert files(folder / "out") == {"one_x2.jpg", "two_x2.jpg"}
    assert printed.out == "2 done, 0 skipped, 5 failed\n"
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    for line, start in zip(
        lines,
        (
            "gone.jpg: no such file or folder",
            "holiday/bad.png: not a readable image",
            "holiday/buggy.png: KeyError: 'a bug'",
            "out/clear_x2.jpg: jpg can't hold transparency",
            "holiday/huge.png: the enlarged picture doesn't fit into memory",
        ),
        strict=True,
    ):
        assert line.startswith(f"error: {start}")


def test_a_tiff_of_a_cameras_picture_is_written_and_enlarged_again(folder: Path, weights: str) -> None:
    exif = Image.Exif()
    exif[0x0110], exif[pictures.EXIF_IFD] = "a camera", {0x829A: 0.25}
    Image.open("photo.jpg").save("camera.jpg", exif=exif)
    assert run("camera.jpg", "photo.jpg", "-f", "tif", "-w", weights) == 0
    assert run("camera_x2.tif", "-f", "tif", "-w", weights) == 0
    with Image.open("camera_x2_x2.tif") as image:
        assert image.size == (120, 80) and image.getexif().get_ifd(pictures.EXIF_IFD) == {0x829A: 0.25}


def test_earlier_results_are_left_out_and_named(folder: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("holiday", "-w", weights) == 0
    capsys.readouterr()
    assert run("holiday", "-f", "jpg", "-w", weights) == 0
    printed = capsys.readouterr().out
    assert printed == "left out: holiday/one_x2.png, holiday/two_x2.png, earlier results\n2 done, 0 skipped, 0 failed\n"
    assert run("holiday", "-o", str(folder / "holiday"), "-w", weights) == 0
    assert "left out: holiday/one_x2.jpg, holiday/one_x2.png, holiday/two_x2.jpg …, earlier" in capsys.readouterr().out
    assert not list(folder.rglob("*_x2_x2.*"))
    assert run("holiday/one_x2.png", "-w", weights) == 0, "named alone it is a picture like any other"
    assert (folder / "holiday/one_x2_x2.png").is_file()


def test_patterns_are_expanded(folder: Path, weights: str) -> None:
    assert run("holiday/*.png", "holiday/**/*.webp", "-o", "out", "-w", weights) == 0
    assert files(folder / "out") == {"one_x2.png", "three_x2.png"}
    assert run("holi*", "-o", "all", "-w", weights) == 0, "of nothing but folders"
    assert files(folder / "all") == {"one_x2.png", "two_x2.png"}


def test_a_single_picture_may_be_given_its_name_and_quality(folder: Path, weights: str) -> None:
    for name in ("new/big.png", "big.TIF"):
        assert run("photo.jpg", "-o", name, "-w", weights) == 0
        assert pictures.read(folder / name).pixels.shape == (40, 60, 3)
    for quality in ("10", "95"):
        assert run("photo.jpg", "-o", f"{quality}.jpg", "-q", quality, "-w", weights) == 0
    assert 1.3 * (folder / "10.jpg").stat().st_size < (folder / "95.jpg").stat().st_size


def test_two_pictures_of_one_name_do_not_overwrite_each_other(
    folder: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.open("photo.jpg").save("photo.png")
    assert run("photo.jpg", "photo.png", "photo.jpg", "-w", weights) == 1
    printed = capsys.readouterr()
    assert "photo.png: would be written to photo_x2.png, as photo.jpg is; use another folder" in printed.err
    assert printed.out == "1 done, 0 skipped, 1 failed\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.jpg", "-w", "none.ckpt"], "no weights 'none.ckpt': expected a file, or one of"),
        (["photo.jpg", "-s", "7"], "no weights for scale 7 come with the package"),
        (["photo.jpg", "-s", "4", "-w", "WEIGHTS"], "--scale 4, but the weights .* enlarge ×2"),
        (["holiday", "-o", "a.png", "-w", "WEIGHTS"], "a.png is the name of one file; give a folder"),
        (["photo.jpg", "-o", "a.png", "-f", "png", "-w", "WEIGHTS"], "says the format already; leave out --format"),
        (["photo.jpg", "--tile", "3", "-w", "WEIGHTS"], "tiles of 3 pixels are too small"),
        (["photo.jpg", "-o", "photo.jpg", "-w", "WEIGHTS"], "photo.jpg: would be overwritten by the result; give -o"),
        (["photo.jpg", "-o", "a.bmp", "-w", "WEIGHTS"], "a.bmp: can't write .bmp; take png, jpg, webp, tif"),
        (["photo.jpg", "-o", "holiday/notes.txt", "-w", "WEIGHTS"], "notes.txt: neither a folder nor named as a pict"),
        (["holy*", "-w", "WEIGHTS"], r"holy\*: no such file"),
        (["dangling.png", "-w", "WEIGHTS"], "dangling.png: no such file"),
        (["empty", "-w", "WEIGHTS"], r"empty: no pictures \(.jpg .jpeg .*\) in this folder; --recursive looks"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, weights: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (folder / "empty").mkdir()
    (folder / "dangling.png").symlink_to("nothing")
    before = files(folder)
    assert run(*(weights if argument == "WEIGHTS" else argument for argument in arguments)) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(errors) == 1
    with pytest.raises(UserError, match=message):
        raise UserError(errors[0].removeprefix("error: "))
    assert files(folder) == before


def test_ctrl_c_says_how_far_it_got(
    folder: Path, weights: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(upscale, "upscale_file", interrupted)
    assert run("holiday", "-w", weights) == cli.INTERRUPTED
    assert "interrupted: 1 done, 0 skipped; the same command goes on" in capsys.readouterr().err


def test_sharp_weights_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    for name, expected in (("srresnet_x4", "srresnet_x4"), ("srgan_x4", "srgan_x4")):
        (tmp_path / f"{name}.safetensors").touch()
        assert upscale.default_weights(4) == expected
    with pytest.raises(UserError, match=r"no weights for scale 3 come with the package \(srgan_x4, srresnet_x4\)"):
        upscale.default_weights(3)
