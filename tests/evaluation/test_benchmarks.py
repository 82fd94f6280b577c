from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srgan.data.degradation import BicubicDegradation
from srgan.data.sources import PHOTOS_TEST, Splits, list_folder, photo_splits
from srgan.errors import UserError
from srgan.evaluation.benchmarks import FolderBenchmark, distinct, match, split_benchmark
from srgan.imresize import imresize

Picture = Callable[..., Tensor]
Write = Callable[[Path, Tensor], Path]


def folder(root: Path, scale: int = 4, **options: object) -> FolderBenchmark:
    return FolderBenchmark(str(root), BicubicDegradation(scale), **{"name": None, "images": None} | options)


def write_pairs(write: Write, picture: Picture, hr: Path, lr: Path | None, scale: int, *names: str) -> list[Tensor]:
    """HR pictures of 8 and 9 LR pixels a side, and LR pictures that are not theirs, to tell them from degraded ones."""
    images: list[Tensor] = []
    for index, name in enumerate(names):
        images.append(picture(index, 8 * scale, 9 * scale))
        write(hr / f"{name}.png", images[-1])
        if lr is not None:
            write(lr / f"{name}.png", picture(100 + index, 8, 9))
    return images


@pytest.mark.parametrize("layout", ["x4/", ""])
def test_pairs_of_files_are_taken_as_they_are(tmp_path: Path, picture: Picture, write: Write, layout: str) -> None:
    hr = write_pairs(write, picture, tmp_path / f"{layout}HR", tmp_path / f"{layout}LR", 4, "b", "a")
    benchmark = folder(tmp_path)
    assert (benchmark.scale, benchmark.name, benchmark.lr_from) == (4, tmp_path.name, "as given")
    assert len(benchmark) == 2 and benchmark.names == ["a", "b"]
    assert benchmark[1].name == "b"
    assert torch.equal(benchmark[1].hr, hr[0]) and torch.equal(benchmark[1].lr, picture(100, 8, 9))
    assert torch.equal(benchmark[0].hr, hr[1]) and torch.equal(benchmark[0].lr, picture(101, 8, 9))


def test_the_folder_of_the_scale_goes_before_one_for_all(tmp_path: Path, picture: Picture, write: Write) -> None:
    write_pairs(write, picture, tmp_path / "HR", tmp_path / "LR", 2, "all")
    write_pairs(write, picture, tmp_path / "x2/HR", tmp_path / "x2/LR", 2, "two")
    assert folder(tmp_path, 2).names == ["two"]
    assert folder(tmp_path, 4).names == ["all"]


@pytest.mark.parametrize("layout", ["", "HR", "x4/HR", "some/where/deeper"])
def test_without_an_lr_folder_lr_is_the_degraded_hr(
    tmp_path: Path, picture: Picture, write: Write, layout: str
) -> None:
    hr = write_pairs(write, picture, tmp_path / layout, None, 4, "a")
    benchmark = folder(tmp_path, name="Mine")
    assert benchmark.name == "Mine"
    assert benchmark.lr_from == "by bicubic degradation"
    assert benchmark[0].name == ("a" if layout != "some/where/deeper" else f"{layout}/a")
    assert torch.equal(benchmark[0].hr, hr[0])
    assert torch.equal(benchmark[0].lr, imresize(hr[0], 1 / 4))


def test_the_degradation_given_makes_the_lr(tmp_path: Path, picture: Picture, write: Write) -> None:
    (hr,) = write_pairs(write, picture, tmp_path, None, 4, "a")
    blurred = BicubicDegradation(4, blur_sigma=1.5)
    assert torch.equal(FolderBenchmark(str(tmp_path), blurred, None, None)[0].lr, blurred(hr))
    assert not torch.equal(blurred(hr), imresize(hr, 1 / 4))


def test_set5s_lr_is_what_the_degradation_makes(shared: Path) -> None:
    root = shared / "data/benchmarks/Set5"
    if not root.is_dir():
        pytest.skip(f"needs {root}, which is not here")
    given, made = folder(root, 3), folder(root / "x3/HR", 3)
    assert (given.name, given.lr_from, made.lr_from) == ("Set5", "as given", "by bicubic degradation")
    assert len(given) == len(made) == 5
    assert all(torch.equal(given[i].lr, made[i].lr) and torch.equal(given[i].hr, made[i].hr) for i in range(5))


@pytest.mark.parametrize("lr_name", ["babyx4", "baby_x4", "baby_LR", "baby.bicubic"])
def test_an_lr_is_found_by_the_usual_names(tmp_path: Path, picture: Picture, write: Write, lr_name: str) -> None:
    write_pairs(write, picture, tmp_path / "HR", None, 4, "baby", "babys")
    write(tmp_path / "LR" / f"{lr_name}.png", picture(50, 8, 9))
    write(tmp_path / "LR" / f"{lr_name.replace('baby', 'babys')}.png", picture(51, 8, 9))
    benchmark = folder(tmp_path)
    assert torch.equal(benchmark[0].lr, picture(50, 8, 9)) and torch.equal(benchmark[1].lr, picture(51, 8, 9))


def test_an_hr_without_its_lr_and_an_lr_without_hr_are_named(tmp_path: Path, picture: Picture, write: Write) -> None:
    write_pairs(write, picture, tmp_path / "HR", tmp_path / "LR", 4, "a", "b")
    (tmp_path / "LR" / "b.png").rename(tmp_path / "LR" / "c.png")
    with pytest.raises(UserError, match=r"LR needs one picture for b, found none"):
        folder(tmp_path)
    (tmp_path / "HR" / "b.png").unlink()
    with pytest.raises(UserError, match=r"LR/c.png has no HR in .*HR; add it or remove the LR"):
        folder(tmp_path)
    write(tmp_path / "alone/x4/LR/a.png", picture(0, 8, 9))
    with pytest.raises(UserError, match="has an LR folder, but no HR beside it"):
        folder(tmp_path / "alone")


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_hr_is_cut_to_a_multiple_of_the_scale(tmp_path: Path, picture: Picture, write: Write, scale: int) -> None:
    whole = picture(0, 8 * scale + 1, 9 * scale + scale - 1)
    write(tmp_path / "HR" / "a.png", whole)
    cut = whole[..., : 8 * scale, : 9 * scale]
    image = folder(tmp_path, scale)[0]
    assert torch.equal(image.hr, cut) and torch.equal(image.lr, imresize(cut, 1 / scale))
    write(tmp_path / "LR" / "a.png", picture(1, 8, 9))
    image = folder(tmp_path, scale)[0]
    assert torch.equal(image.hr, cut) and torch.equal(image.lr, picture(1, 8, 9))


@pytest.mark.parametrize("size", [(8, 8), (16, 18)])
def test_an_lr_of_another_size_is_named_with_both_sizes(
    tmp_path: Path, picture: Picture, write: Write, size: tuple[int, int]
) -> None:
    write(tmp_path / "HR" / "a.png", picture(0, 33, 38))
    write(tmp_path / "LR" / "a.png", picture(0, *size))
    with pytest.raises(UserError, match=rf"LR/a.png is {size[1]}×{size[0]} and its HR 38×33: not a pair for scale=4"):
        folder(tmp_path)[0]


def test_another_scale_names_those_that_there_are(tmp_path: Path, picture: Picture, write: Write) -> None:
    for scale in (3, 2):
        write_pairs(write, picture, tmp_path / f"x{scale}/HR", None, scale, "a")
    with pytest.raises(UserError, match=r"has no x4/HR; it has x2, x3"):
        folder(tmp_path)


def test_without_images_it_says_where_it_looked(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match=rf"no images in {tmp_path}; expected jpg"):
        folder(tmp_path)
    (tmp_path / "HR").mkdir()
    with pytest.raises(UserError, match=rf"no images in {tmp_path / 'HR'}"):
        folder(tmp_path)
    with pytest.raises(UserError, match=rf"benchmark.root={tmp_path}/none: no such folder"):
        folder(tmp_path / "none")
    with pytest.raises(UserError, match=r"a benchmark is needed: benchmark.root=PATH"):
        FolderBenchmark(None, BicubicDegradation(4), None, None)


def test_two_images_of_one_name_are_refused(tmp_path: Path, picture: Picture, write: Write) -> None:
    for name in ("a.png", "a.bmp", "b.png"):
        write(tmp_path / name, picture(0, 32, 32))
    with pytest.raises(UserError, match=r"a.bmp and .*a.png have one name"):
        folder(tmp_path)


def test_grey_becomes_equal_channels_and_transparency_white(tmp_path: Path) -> None:
    grey = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:, 16:, 3] = 255
    Image.fromarray(clear).save(tmp_path / "half.png")
    images = folder(tmp_path)
    assert torch.equal(images[0].hr, torch.from_numpy(grey).expand(1, 3, 32, 32))
    assert images[1].hr[..., :16].eq(255).all() and images[1].hr[..., 16:].eq(0).all()


def test_an_image_too_small_to_be_scored_is_named(tmp_path: Path, picture: Picture, write: Write) -> None:
    write(tmp_path / "large_enough.png", picture(0, 23, 40))
    write(tmp_path / "small.png", picture(0, 40, 22))
    benchmark = folder(tmp_path)
    assert benchmark[0].hr.shape == (1, 3, 20, 40)
    with pytest.raises(UserError, match=r"small.png is 22×40, too small to be scored at ×4"):
        benchmark[1]


@pytest.mark.parametrize(("count", "kept"), [(1, "0"), (3, "036"), (99, None)])
def test_a_limit_takes_images_evenly_spaced(
    tmp_path: Path, picture: Picture, write: Write, count: int, kept: str | None
) -> None:
    write_pairs(write, picture, tmp_path / "HR", tmp_path / "LR", 4, *"0123456789")
    benchmark = folder(tmp_path, images=count)
    assert benchmark.names == list(kept or "0123456789")
    last = int(benchmark.names[-1])
    assert torch.equal(benchmark[len(benchmark) - 1].lr, picture(100 + last, 8, 9))
    assert torch.equal(benchmark[len(benchmark) - 1].hr, picture(last, 32, 36))


def test_a_limit_that_leaves_no_image_is_refused(tmp_path: Path, picture: Picture, write: Write) -> None:
    write_pairs(write, picture, tmp_path, None, 2, "a", "b")
    source = list_folder(tmp_path)
    data = SimpleNamespace(splits=Splits(source, source, source), degradation=BicubicDegradation(2))
    for count in (0, -1):
        with pytest.raises(UserError, match="images"):
            folder(tmp_path, 2, images=count)
        with pytest.raises(UserError, match="images"):
            split_benchmark(data, "test", images=count)


# --- a split of a data set --------------------------------------------------------------------------------------------


def test_the_splits_of_the_photographs() -> None:
    data = SimpleNamespace(splits=photo_splits(), degradation=BicubicDegradation(4))
    benchmark = split_benchmark(data, "test", None)
    assert (benchmark.name, benchmark.scale) == ("SimpleNamespace test", 4)
    assert benchmark.names == [Path(name).stem for name in PHOTOS_TEST]
    image = benchmark[1]
    assert image.name == "chelsea" and image.hr.shape == (1, 3, 300, 448)  # of 300×451
    assert torch.equal(image.lr, imresize(image.hr, 1 / 4))
    assert split_benchmark(data, "validation", None).names == ["coffee"]
    assert split_benchmark(data, "train", images=2).names == ["hubble_deep_field", "motorcycle_right"]
    with pytest.raises(UserError, match=r"benchmark.split=tset: expected train, validation or test"):
        split_benchmark(data, "tset", None)
    with pytest.raises(UserError, match=r"benchmark=split needs a data set: data=celeba"):
        split_benchmark(None, "test", None)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["data/faces/000001.jpg"], ["000001"]),
        (["data/faces/000001.jpg", "data/faces/000002.jpg"], ["000001", "000002"]),
        (["runs/a/checkpoints/best.ckpt", "runs/b/checkpoints/best.ckpt"], ["a", "b"]),
        (["runs/a/1/best.ckpt", "runs/a/2/best.ckpt", "runs/b/1/best.ckpt"], ["a/1", "a/2", "b/1"]),
        (["a/x.png", "a/x.jpg"], ["x.png", "x.jpg"]),
        (["day/x.png", "night/x.jpg"], ["day/x", "night/x"]),
        (["x4_lr0.5.ckpt", "x4_lr0.25.ckpt"], ["x4_lr0.5", "x4_lr0.25"]),
    ],
)
def test_names_leave_out_what_all_paths_share(paths: list[str], names: list[str]) -> None:
    assert distinct(paths) == names
    assert distinct([Path("/somewhere", path) for path in paths]) == names


@pytest.mark.parametrize(
    "paths",
    [
        ["r/x.png", "r/r/x.png"],
        ["r/a/b/x.png", "r/b/a/x.png"],
        ["a/b.png", "a/b/b.png"],
        ["x.png", "x.png.png", "x/x.png"],
        ["runs/1/best.ckpt", "runs/1/1/best.ckpt"],
    ],
)
def test_names_of_different_paths_differ(paths: list[str]) -> None:
    names = distinct(paths)
    assert len(set(names)) == len(names) == len(paths)


@pytest.mark.parametrize("others", ["LRbicx4", "LR_bicubic/X4", "lr", "low_res"])
def test_folders_of_lr_are_not_scored_as_hr(tmp_path: Path, picture: Picture, write: Write, others: str) -> None:
    """Layouts of other projects, without a folder called HR."""
    write_pairs(write, picture, tmp_path / "original", tmp_path / others, 4, "a")
    with pytest.raises(UserError, match=rf"(?i)has .*{others.split('/')[0]}"):
        folder(tmp_path)
    (tmp_path / "original").rename(tmp_path / "hr")
    assert folder(tmp_path).lr_from == ("as given" if others == "lr" else "by bicubic degradation")


def test_lr_that_is_not_used_is_said(
    tmp_path: Path, picture: Picture, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write_pairs(write, picture, tmp_path / "HR", tmp_path / "LR_bicubic/X4", 4, "a")
    assert folder(tmp_path).lr_from == "by bicubic degradation"
    assert "LR_bicubic is not used: LR is read from a folder LR beside" in caplog.text


def test_a_file_is_matched_to_one_name_only() -> None:
    with pytest.raises(UserError, match="folder needs one picture for img, found none"):
        matched(["img", "img_2"], ["img_2"])
    with pytest.raises(UserError, match=r"one picture for img_2 and one for img, found img_2_sr.png for both"):
        matched(["img", "img_2"], ["img_2_sr"])
    assert matched(["img", "img_2"], ["img_sr", "img_2"]) == {"img": "img_sr", "img_2": "img_2"}


def matched(names: list[str], files: list[str], scale: int = 4) -> dict[str, str]:
    files_by_stem = {stem: Path(f"{stem}.png") for stem in files}
    return {name: path.stem for name, path in match(names, files_by_stem, scale, Path("folder")).items()}


def test_the_same_name_goes_before_longer_ones() -> None:
    assert matched(["a"], ["a", "ax4", "a_x4", "a_srgan"]) == {"a": "a"}
    assert matched(["a"], ["a_other", "ax4", "a_x4"]) == {"a": "ax4"}
    assert matched(["a"], ["a_other", "a_x4"]) == {"a": "a_x4"}
    assert matched(["a.1", "a.12"], ["a.1_sr", "a.12_sr"]) == {"a.1": "a.1_sr", "a.12": "a.12_sr"}


def test_a_name_that_several_files_begin_with_is_refused_with_them() -> None:
    with pytest.raises(UserError, match=r"folder needs one picture for a, found 2 begin with it: a_1.png, a_2.png"):
        matched(["a"], ["a_1", "a_2", "b"])
    with pytest.raises(UserError, match=r"needs one picture for a, found none"):
        matched(["a"], ["ab", "ax2", "xa"])
