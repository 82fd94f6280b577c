"""One picture twice: in another size or as a copy, whatever the files and folders are called."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from srgan.data.degradation import BicubicDegradation
from srgan.data.layout import same_pictures
from srgan.data.sources import Source, folder_splits, list_hr
from srgan.errors import UserError
from srgan.evaluation.benchmarks import FolderBenchmark


def picture(number: int, side: int = 96) -> Image.Image:
    """A photograph of nothing: the same for the same number, at any side."""
    rng = np.random.default_rng(number)
    rough = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    fine = Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
    return Image.blend(rough, fine, 0.2).resize((side, side), Image.Resampling.BICUBIC)


def write(root: Path, name: str, number: int, side: int = 96, blurred: bool = False) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    image = picture(number, side)
    (image.filter(ImageFilter.GaussianBlur(2)) if blurred else image).save(root / name)


def refusals(root: Path) -> list[str]:
    """Why training and scoring refuse a folder; they must both."""
    said: list[str] = []
    for use in (
        lambda: list_hr(root, "data.root"),
        lambda: FolderBenchmark(str(root), BicubicDegradation(4), None, None),
    ):
        with pytest.raises(UserError) as caught:
            use()
        said.append(str(caught.value))
    return said


SIZES = """images1024x1024/{}.png thumbnails128x128/{}.png | data256/{}.png data64/{}.png | full/{}.png thumb/{}.png
    | X/{}.png Y/{}.png | {}_high.png {}_low.png | {}_256.png {}_64.png | hr{}.png lr{}.png | {}(HR).png {}(LR).png
    | {}_ground_truth.png {}_low.png | {}_HR_1.png {}_LR_1.png | {}.jpg {}-150x150.jpg | {}_target.png {}_source.png"""


@pytest.mark.parametrize("layout", SIZES.split("|"))
def test_one_picture_in_two_sizes_is_refused_whatever_it_is_called(layout: str, tmp_path: Path) -> None:
    large, small = layout.split()
    for number in (1, 2, 3):
        write(tmp_path, large.format(f"{number:04}"), number)
        write(tmp_path, small.format(f"{number:04}"), number, 24)
    for said in refusals(tmp_path):
        assert "one picture in two sizes" in said and "(24×24)" in said and "\n" not in said


COPIES = """original_png/{}.png noisy/{}.png | {}.png results/{}_out.png
    | DIV2K_train_HR/{}.png DF2K_HR/{}.png | A/{}.png B/{}.png"""


@pytest.mark.parametrize("layout", COPIES.split("|"))
def test_results_and_copies_in_another_folder_are_refused(layout: str, tmp_path: Path) -> None:
    original, copy = layout.split()
    for number in (1, 2, 3):
        write(tmp_path, original.format(f"{number:04}"), number)
        write(tmp_path, copy.format(f"{number:04}"), number, blurred=True)
    for said in refusals(tmp_path):
        assert ("same picture" in said or "same name" in said) and "\n" not in said


def test_upscaled_copies_beside_a_folder_of_hr_are_not_trained_on(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(tmp_path, f"hr_128/{number}.png", number)
        write(tmp_path, f"sr_16_128/{number}.png", number, blurred=True)
    with pytest.raises(UserError, match="same picture"):
        list_hr(tmp_path, "data.root")


def test_copies_beside_each_other_are_named_in_the_log_and_not_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2, 3):
        write(tmp_path, f"{number}.png", number)
    write(tmp_path, "2 (1).png", 2)
    assert len(list_hr(tmp_path, "data.root")) == 4
    assert "2 (1).png and 2.png are the same picture" in caplog.text
    with pytest.raises(UserError, match="the same picture"):
        FolderBenchmark(str(tmp_path), BicubicDegradation(4), None, None)


def test_other_pictures_of_the_same_names_or_of_fitting_sizes_are_no_twins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for number in range(4):
        write(tmp_path, f"cats/{number:04}.png", number)
        write(tmp_path, f"dogs/{number:04}.png", 10 + number)
        write(tmp_path, f"dogs/small_{20 + number}.png", 20 + number, 48)
    write(tmp_path, "beach.png", 30, 96)
    write(tmp_path, "beach_2.png", 31, 48)  # another picture, although its size and name fit
    Image.new("RGB", (48, 48), (9, 9, 9)).save(tmp_path / "even.png")
    Image.new("RGB", (96, 96), (90, 9, 9)).save(tmp_path / "even2.png")
    assert (
        len(list_hr(tmp_path, "data.root"))
        == 16
        == len(FolderBenchmark(str(tmp_path), BicubicDegradation(4), None, None))
    )
    assert not caplog.text


def test_smaller_sizes_that_are_called_so_may_be_trained_on_and_not_scored(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path, f"{number:04}.png", number)
        write(tmp_path, f"smaller/{number:04}T1.png", number, 48)
    assert len(list_hr(tmp_path, "data.root")) == 8
    with pytest.raises(UserError, match="LR would be scored as HR"):
        FolderBenchmark(str(tmp_path), BicubicDegradation(4), None, None)
    write(tmp_path, "smaller/00000.png", 0, 48)
    with pytest.raises(UserError, match=r"0000\.png .* and smaller/00000\.png .* one picture in two sizes"):
        list_hr(tmp_path, "data.root")


def test_images_of_formats_that_are_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, suffix in enumerate((".png", ".tif", ".TIF", ".gif", ".txt")):
        write(tmp_path, f"{number}.png", number)
        (tmp_path / f"{number}.png").rename(tmp_path / f"{number}{suffix}")
    assert len(list_hr(tmp_path, "data.root")) == 1
    assert "3 images of other formats are not read (.gif, .tif)" in caplog.text


def test_overlapping_pieces_of_a_picture_are_held_out_together(tmp_path: Path) -> None:
    for number in range(12):
        for piece in range(1, 6):
            write(tmp_path / "pieces", f"sub/{number:04}_s{piece:03}.png", 10 * number + piece, 32)
        for name in ("DF2K_HR/{:04}", "DF2K_multiscale/{:04}T0", "DF2K_multiscale/{:04}T1", "others/{:04}a"):
            write(tmp_path / "sizes", f"{name.format(number)}.png", 10 * number + len(name), 32)
        for name in ("HR/{:04}.jpg", "multiscale/{:04}T0.png", "others/{:04}a.png"):
            write(tmp_path / "suffixes", name.format(number), 10 * number + len(name), 32)

    def pictures(split: Source) -> set[str]:
        names = (Path(split.name(index)).name for index in range(len(split)))
        return {name if name.endswith("a.png") else name[:4] for name in names}

    for root in ("pieces", "sizes", "suffixes"):
        splits = folder_splits(tmp_path / root, None, 0.2)
        held = pictures(splits.validation) | pictures(splits.test)
        assert held and pictures(splits.train) and not held & pictures(splits.train)
        assert 3 <= len(splits.validation) == len(splits.test) <= 6


def test_many_videos_with_frames_of_the_same_names_are_not_compared_each_with_each() -> None:
    paths = [f"{clip:05}/im{frame}.png" for clip in range(5000) for frame in range(1, 8)]
    assert len(same_pictures(paths)) < 2 * len(paths)
