import itertools
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from srgan.data import pairs as data_pairs
from srgan.data import twins
from srgan.data.degradation import BicubicDegradation
from srgan.data.sources import PHOTOS_TEST, FolderSource, Splits, photo_splits
from srgan.errors import UserError
from srgan.evaluation import benchmarks
from srgan.evaluation.benchmarks import FolderBenchmark, distinct, match, pairs_benchmark, split_benchmark
from srgan.imresize import imresize

Picture = Callable[..., Tensor]
Write = Callable[[Path, Tensor], Path]
Pairs = Callable[..., list[tuple[Tensor, Tensor]]]


def folder(root: Path, scale: int = 4, **options: object) -> FolderBenchmark:
    return FolderBenchmark(str(root), BicubicDegradation(scale), **{"name": None, "images": None} | options)


@pytest.fixture
def pairs(tmp_path: Path, picture: Picture, write: Write) -> Pairs:
    """pairs(4, "HR", "LR", "a", …): files of HR, to be cut, and of LR that is not theirs; the LR and HR expected."""

    def make(scale: int, hr: str, lr: str, *names: str) -> list[tuple[Tensor, Tensor]]:
        images: list[tuple[Tensor, Tensor]] = []
        for index, name in enumerate(names):
            whole, small = picture(index, 9 * scale - 1, 9 * scale + 1), picture(100 + index, 8, 9)
            write(tmp_path / hr / f"{name}.png", whole)
            if lr:
                write(tmp_path / lr / f"{name}x{scale}.png", small)
            images.append((small, whole[..., : 8 * scale, : 9 * scale]))
        return images

    return make


def test_pairs_of_files_are_taken_as_they_are_and_the_folder_of_the_scale_first(tmp_path: Path, pairs: Pairs) -> None:
    for layout, scale, names in (("", 4, "ba"), ("x2/", 2, "dc"), ("x8/", 8, "fe")):
        expected = pairs(scale, f"{layout}HR", f"{layout}LR", *names)
        benchmark = folder(tmp_path, scale)
        assert (benchmark.scale, benchmark.name, benchmark.lr_from) == (scale, tmp_path.name, "as given")
        assert len(benchmark) == 2 and benchmark.names == sorted(names)
        for image, name, (lr, hr) in zip(benchmark, reversed(names), reversed(expected), strict=True):
            assert image.name == name and torch.equal(image.lr, lr) and torch.equal(image.hr, hr)
    assert folder(tmp_path).names == ["a", "b"]


def test_a_limit_takes_images_evenly_spaced(tmp_path: Path, pairs: Pairs) -> None:
    expected = pairs(2, "HR", "LR", *"0123456789")
    benchmark = folder(tmp_path, 2, images=3)
    assert benchmark.names == list("036")
    assert all(torch.equal(*images) for images in zip(benchmark[2][1:3], expected[6], strict=True))
    for count in (0, -1):
        with pytest.raises(UserError, match="images"):
            folder(tmp_path, 2, images=count)


@pytest.mark.parametrize("layout", ["", "HR", "x4/HR", "some/where/deeper"])
def test_without_an_lr_folder_lr_is_the_degraded_hr(tmp_path: Path, pairs: Pairs, layout: str) -> None:
    ((_, hr),) = pairs(4, layout, "", "a")
    benchmark = folder(tmp_path, name="Mine")
    assert (benchmark.name, benchmark.lr_from) == ("Mine", "by bicubic degradation")
    assert benchmark[0].name == ("a" if layout != "some/where/deeper" else f"{layout}/a")
    assert torch.equal(benchmark[0].hr, hr) and torch.equal(benchmark[0].lr, imresize(hr, 1 / 4))
    blurred = BicubicDegradation(4, blur_sigma=1.5)
    assert torch.equal(FolderBenchmark(str(tmp_path), blurred, None, None)[0].lr, blurred(hr))


@pytest.mark.parametrize(
    ("hr", "lr", "others"),
    [
        ("image_SRF_4/a_SRF_4_HR", "image_SRF_4/a_SRF_4_LR", ["image_SRF_4/a_SRF_4_bicubic", "image_SRF_2/a_SRF_2_HR"]),
        ("SRF_4/target/a", "SRF_4/data/a", ["SRF_2/target/a", "SRF_2/data/a"]),
        ("GTmod12/a", "LRbicx4/a", ["LRbicx2/a", "original/a", ".ipynb_checkpoints/a", "__MACOSX/a", "@eaDir/a"]),
        ("D_valid_HR/a", "D_valid_LR_bicubic/X4/ax4", ["D_valid_LR_bicubic/X2/ax2"]),
        ("HR/a", "LR_unknown/X4/ax4", ["HR/._a"]),
        ("original/a", "LR_bicubic/X4/ax4", ["LR_bicubic/X3/ax3"]),
        ("D_train_HR_sub/a", "D_train_LR_bicubic/X4_sub/a", []),
        ("Set5_HR/a", "Set5_LR_x4/a", ["Set5_LR_x2/a"]),
        ("x4/HR/a", "x4/LR/a", ["x4/SR/a"]),
        ("GT/a", "LQ/a", []),
        ("gt/a", "input/a", ["outputs/1/.hydra/x", "outputs/1/pictures/a"]),
        ("High Resolution/a", "low-resolution/a", []),
        ("a_HR", "a_LR", ["a_x4"]),
        ("HR_a", "LR_a", []),
        ("a", "ax4", []),
        ("a", "a_LR", ["a_x2"]),
        ("a", "a_4x", []),
        ("HR/x4/a_HR_x4", "LR/LRBI/x4/a_LRBI_x4", ["HR/x3/a_HR_x3", "LR/LRBI/x3/a_LRBI_x3"]),
        ("x4/Test_x4/test_HR/a_x1", "x4/Test_x4/test_LR/a_x4", []),
        ("original/a", "bicubic_4x/a", ["bicubic_2x/a"]),
        ("HR_x4/a", "LR_x4/a", ["HR_x2/a", "LR_x2/a"]),
        ("GTmod4/a", "LRbicx4/a", []),
        ("hr_valid/a", "Lr_Valid/a", []),
    ],
)
def test_published_layouts_are_read_as_hr_with_its_lr(
    tmp_path: Path, picture: Picture, write: Write, hr: str, lr: str, others: list[str]
) -> None:
    """Beside one HR and its LR lie others: of another scale, another form or method, hidden, or made by a run."""
    root = tmp_path / "root"
    write(root / f"{hr}.png", whole := picture(1, 33, 38))
    write(root / f"{lr}.png", small := picture(2, 8, 9))
    for other in others:
        write(root / f"{other}.png", picture(3, 66, 76))
    benchmark = folder(root)
    assert (benchmark.names, benchmark.lr_from) == (["a"], "as given")
    assert torch.equal(benchmark[0].hr, whole[..., :32, :36]) and torch.equal(benchmark[0].lr, small)


@pytest.mark.parametrize(
    ("root", "files", "words"),
    [
        ("root", ["photos/a", "LRbicx4/a"], "would be scored as HR; name the folder of the HR"),
        ("root", ["photos/a", "X4/ax4"], "has no HR that is called so, but X4, photos"),
        ("root", ["low/a", "photos/a"], "has no HR that is called so, but low, photos"),
        ("root", ["0801x4", "0802x4"], "has no HR that is called so, but 0801x4"),
        ("root", ["a_LR", "b_LR"], "has no HR that is called so, but a_LR"),
        ("root", ["a", "a_x4"], "a_x4.png is 40×40 and .*a.png 40×40: neither its LR for scale=4 nor an enlargement"),
        (
            "Canon/Test/4",
            ["Canon_001_HR", "Canon_001_LR4"],
            "the same size, as in RealSR, so nothing is left",
        ),
        ("LRbicx4", ["a"], "LRbicx4 has the name of an LR folder"),
        ("image_SRF_4", ["a"], "image_SRF_4 has the name of an LR folder or of one scale"),
        ("D_train_LR_unknown/X4", ["a"], "X4 has the name of an LR folder"),
        ("root", ["HR/a", "LR_bicubic/X4/ax4", "LR_unknown/X4/ax4"], "could both be the LR of a"),
    ],
)
def test_hr_that_cannot_be_told_from_lr_is_refused(
    tmp_path: Path, picture: Picture, write: Write, root: str, files: list[str], words: str
) -> None:
    for file in files:
        write(tmp_path / root / f"{file}.png", picture(0, 40, 40))
    with pytest.raises(UserError, match=words):
        folder(tmp_path / root)


@pytest.mark.parametrize(
    "files", [("128/a", "32/a"), ("a", "a_small"), ("HRimages/a", "LRimages/a"), ("b-1", "thumb b-1")]
)
def test_one_picture_in_two_sizes_is_refused(
    tmp_path: Path, picture: Picture, write: Write, files: tuple[str, str]
) -> None:
    whole, small = (tmp_path / f"{name}.png" for name in files)
    write(small, picture(0, 30, 35))
    write(whole, picture(0, 120, 140))
    write(tmp_path / "other.png", picture(2, 60, 60))
    with pytest.raises(UserError, match=r"one picture in two sizes, and LR would be scored as HR"):
        folder(tmp_path)
    write(small, picture(1, 30, 35))  # another picture
    assert len(folder(tmp_path)) == 3


HR_FOLDERS = "HR GT gt hq GTmod12 GTmod4 HR_x4 X_train_HR original target High ground-truth x4/HR SRF_4/target sharp ''"
LR_FOLDERS = "LR LQ lq LRbicx4 LR_bicubic/X4 X_train_LR_bicubic/X4 bicubic_4x low input data x4/LR X4 SRF_4/data 64 ''"
HR_NAMES = "{} {}_HR HR_{} {}_HR_x4 {}_x1 {}_SRF_4_HR {}-gt"
LR_NAMES = "{} {}x4 {}_x4 {}_4x {}_LR {}_LR4 LR_{} {}_LRBI_x4 {}_SRF_4_LR {}-bicubic {}_small"


def test_whatever_folders_and_files_are_called_lr_is_never_scored_as_hr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random ones of all layouts: the pairs are the right ones, LR is left aside, or the folder is refused."""
    sizes: dict[str, tuple[int, int]] = {}
    monkeypatch.setattr(
        benchmarks, "list_folder", lambda root: FolderSource(root, np.array(sorted(map(os.fsencode, sizes))))
    )
    for module in (benchmarks, data_pairs, twins):
        monkeypatch.setattr(module, "image_size", lambda path: sizes[os.path.relpath(path, tmp_path)])
    chance, ends, wrong = random.Random(1), Counter[str](), list[str]()
    words = [text.replace("''", ".").split() for text in (HR_FOLDERS, LR_FOLDERS, HR_NAMES, LR_NAMES)]
    for hr_folder, lr_folder, hr_name, lr_name in chance.sample(
        [*itertools.product(*words)], int(os.environ.get("SRGAN_TRIALS", "600"))
    ):
        stems = chance.choice([("a", "b", "c"), ("img_001", "img_002"), ("0801", "0802"), ("x 1", "x 10")])
        hr = {os.path.normpath(f"{hr_folder}/{hr_name.format(stem)}.png"): stem for stem in stems}
        lr = {os.path.normpath(f"{lr_folder}/{lr_name.format(stem)}.png"): stem for stem in stems}
        if hr.keys() & lr.keys():
            continue
        sizes.clear()
        sizes.update({path: (120 + 8 * index, 130) for index, path in enumerate(hr)})
        sizes.update({path: (30 + 2 * index, 32) for index, path in enumerate(lr)})
        try:
            found = folder(tmp_path)
        except UserError as error:
            ends["refused"] += 1
            wrong += [str(error)] if "\n" in str(error).replace("\n  ", "") else []
            continue
        read = [[os.path.relpath(path, tmp_path) for path in paths or []] for paths in (found._hr, found._lr)]
        pairs = [(hr.get(path), lr.get(other)) for path, other in zip(*read, strict=found.lr_is_given)]
        if not {*read[0]} <= hr.keys() or any(stem is None or stem != other for stem, other in pairs):
            wrong.append(f"{min(hr)} {min(lr)}")
        ends["paired" if found.lr_is_given else "hr alone"] += 1
    assert not wrong, (len(wrong), wrong[:20])
    assert min(ends["paired"], ends["refused"]) > 50, ends


def test_results_of_upscaling_are_left_out_of_a_benchmark(
    tmp_path: Path, picture: Picture, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    for name, side in (("a", 40), ("a_x4", 160), ("b", 40), ("sharp/b_x4", 160), ("c_x4", 40)):
        write(tmp_path / f"{name}.png", picture(0, side, side))
    assert folder(tmp_path).names == ["a", "b", "c_x4"]
    assert "2 images are not used (a_x4.png, sharp/b_x4.png)" in caplog.text


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "benchmark.root=.*/root: no such folder"),
        (["notes.txt"], "no images in .*/root; expected jpg"),
        (["HR/notes.txt"], "no images in .*/root; expected jpg"),
        (["HR/a.png", "HR/b.png", "LR/a.png", "LR/c.png"], "LR needs one picture for b, found none"),
        (["HR/a.png", "LR/a.png", "LR/c.png"], "LR/c.png has no HR in .*HR; add it or remove the LR"),
        (["x4/LR/a.png"], "has no HR that is called so, but x4/LR"),
        (["x3/HR/a.png", "x2/HR/a.png"], "has no HR for scale=4; it has some for ×2, ×3"),
        (["a.png", "a.bmp", "b.png"], "a.bmp and .*a.png have the same name"),
    ],
)
def test_a_folder_that_is_no_benchmark_is_refused(tmp_path: Path, files: list[str], words: str) -> None:
    for path in (tmp_path / "root" / file for file in files):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with pytest.raises(UserError, match=words):
        folder(tmp_path / "root")


def test_an_image_of_a_size_that_does_not_do_is_named(tmp_path: Path, picture: Picture, write: Write) -> None:
    write(tmp_path / "HR/a.png", picture(0, 33, 38))
    for height, width, words in ((8, 8, "no pair"), (7, 9, "no pair"), (16, 18, "no pair")):
        write(tmp_path / "LR/a.png", picture(0, height, width))
        with pytest.raises(UserError, match=rf"HR/a.png: LR {width}×{height}, HR 38×33: {words}"):
            folder(tmp_path)
    alone = tmp_path / "alone"
    write(alone / "large_enough.png", picture(0, 23, 40))
    assert folder(alone)[0].hr.shape == (1, 3, 20, 40)
    for number in range(12):
        write(alone / f"small_{number:02d}.png", picture(0, 40, 22))
    with pytest.raises(UserError) as raised:
        folder(alone)
    lines = str(raised.value).splitlines()
    assert len(lines) == 12 and lines[-1] == "  … and 2 more"
    assert "small_09.png is 22×40, too small to be scored at ×4" in lines[10]


def test_the_splits_of_the_photographs() -> None:
    data = SimpleNamespace(splits=photo_splits(), resize=None, degradation=BicubicDegradation(4))
    benchmark = split_benchmark(data, "test", None)
    assert (benchmark.name, benchmark.scale) == ("SimpleNamespace test", 4)
    assert benchmark.names == [Path(name).stem for name in PHOTOS_TEST]
    image = benchmark[1]
    assert image.name == "chelsea" and image.hr.shape == (1, 3, 300, 448)  # of 300×451
    assert torch.equal(image.lr, imresize(image.hr, 1 / 4))
    assert split_benchmark(data, "validation", None).names == ["coffee"]
    assert split_benchmark(data, "train", images=2).names == ["hubble_deep_field", "motorcycle_right"]
    with pytest.raises(UserError, match="images"):
        split_benchmark(data, "test", images=0)
    with pytest.raises(UserError, match=r"benchmark.split=tset: expected train, validation or test"):
        split_benchmark(data, "tset", None)
    with pytest.raises(UserError, match=r"benchmark=split needs a data set: data=celeba"):
        split_benchmark(None, "test", None)


def test_what_cannot_be_scored_is_listed_before_scoring(tmp_path: Path, picture: Picture, write: Write) -> None:
    for number, side in enumerate((40, 22, 41, 21)):
        write(tmp_path / f"hr/{number}.png", picture(0, side, side))
        write(tmp_path / f"lr/{number}.png", picture(0, side // 4, side // 4))
    whole = FolderSource(tmp_path / "hr", np.array([f"{number}.png" for number in range(4)], dtype=np.bytes_))
    data = SimpleNamespace(splits=Splits(whole, whole, whole), resize=None, degradation=BicubicDegradation(4))
    with pytest.raises(UserError, match=r"(?s)1\.png is 22×22, too small.*3\.png is 21×21"):
        split_benchmark(data, "test", None).verify()
    split_benchmark(data, "test", 2).verify()  # 0 and 2
    with pytest.raises(UserError, match=r"(?s)3\.png is 21×21, too small"):
        pairs_benchmark(str(tmp_path / "hr"), str(tmp_path / "lr"), BicubicDegradation(4), None, None).verify()


def test_how_lr_was_made_names_a_blur_and_another_border() -> None:
    assert [BicubicDegradation(4, *options).name for options in ((), (1.6,), (1.6, "symmetric"))] == [
        "bicubic",
        "bicubic (blur 1.6)",
        "bicubic (blur 1.6, symmetric border)",
    ]


def test_names_leave_out_what_all_paths_share() -> None:
    for paths, names in {
        "data/faces/000001.jpg": "000001",
        "data/faces/000001.jpg data/faces/000002.jpg": "000001 000002",
        "runs/a/1/best.ckpt runs/a/2/best.ckpt runs/b/1/best.ckpt": "a/1 a/2 b/1",
        "a/x.png a/x.jpg": "x.png x.jpg",
        "day/x.png night/x.jpg": "day/x night/x",
        "x4_lr0.5.ckpt x4_lr0.25.ckpt": "x4_lr0.5 x4_lr0.25",
    }.items():
        absolute = [Path("/somewhere", path) for path in paths.split()]
        assert distinct(paths.split()) == distinct(absolute) == names.split()


def test_names_of_different_paths_differ() -> None:
    for paths in ("r/x.png r/r/x.png", "r/a/b/x.png r/b/a/x.png", "a/b.png a/b/b.png", "x.png x.png.png x/x.png"):
        assert len(set(distinct(paths.split()))) == len(paths.split())


def matched(names: str, files: str) -> str:
    by_stem = {stem: Path(f"{stem}.png") for stem in files.split(", ")}
    found = match(names.split(", "), by_stem, 4, Path("folder"))
    return ", ".join(found[name].stem for name in names.split(", "))


def test_a_file_is_found_by_its_own_name_first_then_by_longer_ones() -> None:
    for names, files, expected in (
        ("a", "a, ax4, a_x4, a_srgan", "a"),
        ("a", "a_other, ax4, a_x4", "ax4"),
        ("a", "a_other, a_x4", "a_x4"),
        ("baby, babys", "babys_LR, baby_LR", "baby_LR, babys_LR"),
        ("a, b, c", "a.bicubic, b-sr, c sr", "a.bicubic, b-sr, c sr"),
        ("a.1, a.12", "a.1_sr, a.12_sr", "a.1_sr, a.12_sr"),
        ("img, img_2", "img_sr, img_2", "img_sr, img_2"),
    ):
        assert matched(names, files) == expected


def test_a_name_with_no_file_or_several_and_a_file_of_two_names_are_refused() -> None:
    for names, files, words in (
        ("a", "a_1, a_2, b", "folder needs one picture for a, found 2 begin with it: a_1.png, a_2.png"),
        ("a", "ab, ax2, xa", "folder needs one picture for a, found none"),
        ("img, img_2", "img_2", "folder needs one picture for img, found none"),
        ("img, img_2", "img_2_sr", "one picture for img_2 and one for img, found img_2_sr.png for both"),
    ):
        with pytest.raises(UserError, match=words):
            matched(names, files)
