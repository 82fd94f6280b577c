"""Which files make up the splits, and their bytes."""

import io
import logging
import os
import pickle
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srgan.data.celeba import celeba_splits, download_celeba
from srgan.data.sources import Source, Splits, ZipSource, folder_splits, photo_splits
from srgan.errors import UserError

PARTITION = {1: 0, 2: 1, 3: 2, 4: 0, 5: 2, 162_771: 0}  # other than the published ranges say, to tell which was used
BOUNDARIES = {1: 0, 162_770: 0, 162_771: 1, 182_637: 1, 182_638: 2, 202_599: 2}
OFFICIAL, KAGGLE = Path("img_align_celeba"), Path("img_align_celeba/img_align_celeba")
PACKINGS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


def file_name(number: int) -> str:
    return f"{number:06d}.jpg"


@pytest.fixture
def jpeg(encoded: Callable[..., bytes]) -> Callable[[int], bytes]:
    """jpeg(number): a small real JPEG, another one for each number."""
    return lambda number: encoded(np.random.default_rng(number).integers(256, size=(10, 8, 3), dtype=np.uint8), "JPEG")


Tree = Callable[..., Path]


@pytest.fixture
def official(tmp_path: Path, jpeg: Callable[[int], bytes]) -> Tree:
    """official(partition): images below img_align_celeba/ beside list_eval_partition.txt."""

    def build(partition: dict[int, int] | None = PARTITION, numbers: list[int] | None = None) -> Path:
        root = tmp_path / "official"
        (root / OFFICIAL).mkdir(parents=True)
        for number in numbers or partition or {}:
            (root / OFFICIAL / file_name(number)).write_bytes(jpeg(number))
        if partition is not None:
            lines = (f"{file_name(number)} {part}\n" for number, part in partition.items())
            (root / "list_eval_partition.txt").write_text("".join(lines))
        return root

    return build


@pytest.fixture
def kaggle(tmp_path: Path, jpeg: Callable[[int], bytes]) -> Tree:
    """kaggle(): images below img_align_celeba/img_align_celeba/, and a csv with a header and Windows line ends."""

    def build() -> Path:
        root = tmp_path / "kaggle"
        (root / KAGGLE).mkdir(parents=True)
        for number in PARTITION:
            (root / KAGGLE / file_name(number)).write_bytes(jpeg(number))
        lines = ["image_id,partition", *(f"{file_name(number)},{part}" for number, part in PARTITION.items())]
        (root / "list_eval_partition.csv").write_bytes("\r\n".join(lines).encode())
        return root

    return build


def pack(root: Path, archive: Path, compression: int) -> Path:
    """All files below `root` into `archive`, and away with them."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted(root.rglob("*.*")):
            file.write(path, path.relative_to(root))
    shutil.rmtree(root)
    return archive


def names(source: Source) -> list[str]:
    return [Path(source.name(index)).name for index in range(len(source))]


def contents(source: Source) -> dict[str, bytes]:
    return dict(zip(names(source), (source.read(index) for index in range(len(source))), strict=True))


def parts(splits: Splits) -> tuple[Source, Source, Source]:
    return splits.train, splits.validation, splits.test


@pytest.fixture
def assert_follows(jpeg: Callable[[int], bytes]) -> Callable[[Splits, dict[int, int]], None]:
    """assert_follows(splits, partition): each split holds its files, with the bytes that were written."""

    def check(splits: Splits, partition: dict[int, int]) -> None:
        for part, source in enumerate(parts(splits)):
            expected = {file_name(n): jpeg(n) for n, listed in partition.items() if listed == part}
            assert contents(source) == expected

    return check


Check = Callable[[Splits, dict[int, int]], None]

# --- CelebA ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [".", "img_align_celeba"])
def test_the_official_folder_follows_its_partition(official: Tree, assert_follows: Check, root: str) -> None:
    assert_follows(celeba_splits(official() / root), PARTITION)


def test_torchvisions_folder_follows_its_partition(tmp_path: Path, official: Tree, assert_follows: Check) -> None:
    official().rename(tmp_path / "celeba")
    assert_follows(celeba_splits(tmp_path), PARTITION)


@pytest.mark.parametrize("root", [".", "img_align_celeba", "img_align_celeba/img_align_celeba"])
def test_kaggles_nested_folder_follows_its_csv(kaggle: Tree, assert_follows: Check, root: str) -> None:
    assert_follows(celeba_splits(kaggle() / root), PARTITION)


@pytest.mark.parametrize("compression", PACKINGS)
@pytest.mark.parametrize("root", [".", "img_align_celeba.zip"])
def test_the_official_zip_follows_the_partition_beside_it(
    tmp_path: Path, official: Tree, assert_follows: Check, root: str, compression: int
) -> None:
    tree = official()
    (tree / "list_eval_partition.txt").rename(tmp_path / "list_eval_partition.txt")
    pack(tree, tmp_path / "img_align_celeba.zip", compression)
    assert_follows(celeba_splits(tmp_path / root), PARTITION)


@pytest.mark.parametrize("compression", PACKINGS)
@pytest.mark.parametrize("root", [".", "celeba", "celeba/archive.zip"])
def test_kaggles_zip_follows_the_csv_inside_it(
    tmp_path: Path, kaggle: Tree, assert_follows: Check, root: str, compression: int
) -> None:
    pack(kaggle(), tmp_path / "celeba/archive.zip", compression)
    assert_follows(celeba_splits(tmp_path / root), PARTITION)


@pytest.mark.parametrize("packed", [False, True])
def test_without_a_partition_the_published_ranges_decide_and_the_log_says_so(
    tmp_path: Path, official: Tree, assert_follows: Check, caplog: pytest.LogCaptureFixture, packed: bool
) -> None:
    root = official(partition=None, numbers=list(BOUNDARIES))
    if packed:
        root = pack(root, tmp_path / "img_align_celeba.zip", zipfile.ZIP_STORED)
    with caplog.at_level(logging.INFO):
        assert_follows(celeba_splits(root), BOUNDARIES)
    assert "published index ranges" in caplog.text


def test_with_a_partition_the_log_speaks_of_no_ranges(official: Tree, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        celeba_splits(official())
    assert "index ranges" not in caplog.text


def test_files_missing_from_the_partition_are_left_out(official: Tree, assert_follows: Check) -> None:
    root = official(numbers=[*PARTITION, 6, 99])
    assert_follows(celeba_splits(root), PARTITION)


def test_files_the_partition_lists_but_that_are_missing_are_left_out(official: Tree, assert_follows: Check) -> None:
    root = official()
    (root / OFFICIAL / file_name(4)).unlink()
    assert_follows(celeba_splits(root), {n: part for n, part in PARTITION.items() if n != 4})


def test_the_order_of_the_partition_does_not_matter(official: Tree, assert_follows: Check) -> None:
    assert_follows(celeba_splits(official(dict(reversed(PARTITION.items())))), PARTITION)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("junk", ["._000001.jpg", "thumbs.jpg", "000001.txt"])
def test_what_is_no_numbered_face_is_left_out(official: Tree, assert_follows: Check, junk: str, listed: bool) -> None:
    root = official() if listed else official(partition=None, numbers=list(BOUNDARIES))
    (root / OFFICIAL / junk).write_bytes(b"junk")
    assert_follows(celeba_splits(root), PARTITION if listed else BOUNDARIES)


@pytest.mark.parametrize(
    "damaged",
    [
        "000001.jpg 0\n000002.jpg",
        "000001.jpg zero",
        "000001.jpg 3",
        "<html>Quota exceeded</html>",
        "",
        "image_id,partition\n",
    ],
    ids=["cut off", "a word", "a fourth part", "a web page", "empty", "nothing but a header"],
)
def test_a_damaged_partition_is_refused(official: Tree, damaged: str) -> None:
    root = official()
    (root / "list_eval_partition.txt").write_text(damaged)
    with pytest.raises(UserError, match="partition file is damaged"):
        celeba_splits(root)


@pytest.mark.parametrize("root", ["empty", "missing", "missing.zip", "file.txt"])
def test_nothing_found_names_where_it_looked_and_what_to_do(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("no folder")
    with pytest.raises(UserError) as raised:
        celeba_splits(tmp_path / root)
    for text in (str(tmp_path / root / "img_align_celeba"), ".zip", "data=photos", "data.download=true"):
        assert text in str(raised.value)


def test_a_split_without_images_is_refused_by_name(official: Tree) -> None:
    with pytest.raises(UserError, match="no validation images"):
        celeba_splits(official({1: 0, 2: 0, 3: 2}))


def test_a_damaged_zip_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba.zip").write_bytes(b"<html>Quota exceeded</html>")
    with pytest.raises(UserError, match=r"img_align_celeba\.zip: not a readable zip"):
        celeba_splits(tmp_path)


def test_a_zip_packed_otherwise_is_refused(tmp_path: Path, official: Tree) -> None:
    archive = pack(official(), tmp_path / "img_align_celeba.zip", zipfile.ZIP_BZIP2)
    with pytest.raises(UserError, match="extract it"):
        celeba_splits(archive)


def test_other_zips_beside_the_images_are_passed_over(tmp_path: Path, kaggle: Tree, assert_follows: Check) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.txt").write_text("no faces here")
    pack(tmp_path / "notes", tmp_path / "data/a.zip", zipfile.ZIP_STORED)
    pack(kaggle(), tmp_path / "data/b.zip", zipfile.ZIP_STORED)
    assert_follows(celeba_splits(tmp_path / "data"), PARTITION)


def test_a_damaged_entry_of_a_zip_is_refused_by_name(tmp_path: Path, kaggle: Tree) -> None:
    archive = pack(kaggle(), tmp_path / "archive.zip", zipfile.ZIP_DEFLATED)
    source = celeba_splits(archive).train
    assert isinstance(source, ZipSource)
    with archive.open("r+b") as file:
        file.seek(int(source.offsets[0]) + 30 + len(str(KAGGLE / file_name(1))))
        file.write(b"\xff" * 16)
    with pytest.raises(UserError, match=r"archive\.zip:.*000001\.jpg: damaged"):
        source.read(0)


def test_a_zip_source_reads_after_pickling(tmp_path: Path, kaggle: Tree, jpeg: Callable[[int], bytes]) -> None:
    source = celeba_splits(pack(kaggle(), tmp_path / "archive.zip", zipfile.ZIP_STORED)).train
    copy = pickle.loads(pickle.dumps(source))
    assert contents(copy) == contents(source) == {file_name(n): jpeg(n) for n in (1, 4, 162_771)}


@pytest.mark.slow
def test_a_zip_source_reads_in_a_process_of_its_own(tmp_path: Path, kaggle: Tree, jpeg: Callable[[int], bytes]) -> None:
    source = celeba_splits(pack(kaggle(), tmp_path / "archive.zip", zipfile.ZIP_DEFLATED)).train
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(source.read, range(len(source)))) == [jpeg(1), jpeg(4), jpeg(162_771)]


def test_the_faces_beside_the_repository_are_1000_50_and_32(shared: Path) -> None:
    if not (shared / "data/celeba").is_dir():
        pytest.skip(f"needs {shared / 'data/celeba'}, which is not here")
    splits = celeba_splits(shared / "data/celeba")
    assert [len(part) for part in parts(splits)] == [1000, 50, 32]
    assert Image.open(io.BytesIO(splits.test.read(0))).size == (178, 218)


# --- download -------------------------------------------------------------------------------------------------------


class FileURLRetrievalError(Exception):
    """gdown's, when Google Drive's quota is used up."""


def replace_download(monkeypatch: pytest.MonkeyPatch, download: Callable[[str], None]) -> None:
    def celeba(root: str, **options: object) -> None:
        assert options == {"split": "all", "download": True}
        download(root)

    monkeypatch.setattr("torchvision.datasets.CelebA", celeba)


def test_download_puts_the_images_where_they_are_found(
    tmp_path: Path, official: Tree, assert_follows: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = official()
    replace_download(monkeypatch, lambda root: shutil.copytree(tree, Path(root) / "celeba"))
    download_celeba(tmp_path / "root")
    assert_follows(celeba_splits(tmp_path / "root"), PARTITION)


def test_images_that_are_there_are_not_downloaded(official: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_download(monkeypatch, lambda root: pytest.fail(f"downloaded into {root}"))
    download_celeba(official())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("File not found or corrupted."),
        ConnectionError("no route to host\nand more"),
        ConnectionResetError(),
        FileURLRetrievalError("Too many users have viewed or downloaded this file recently."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_download_says_why_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(root: str) -> None:
        raise error

    replace_download(monkeypatch, fail)
    with pytest.raises(UserError, match="could not be downloaded") as raised:
        download_celeba(tmp_path)
    assert str(error).partition("\n")[0] in str(raised.value)
    assert "data=photos" in str(raised.value)


def test_a_download_without_gdown_says_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(UserError, match="'gdown' is required"):
        download_celeba(tmp_path)


# --- any folder -----------------------------------------------------------------------------------------------------

FILES = [
    f"{folder}{number}{suffix}" for folder in ("", "a/", "a/b/") for number in range(7) for suffix in (".jpg", ".PNG")
]


def fill(root: Path, files: list[str]) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def paths(root: Path, source: Source) -> list[str]:
    return [Path(source.name(index)).relative_to(root).as_posix() for index in range(len(source))]


def test_all_images_are_found_however_deep_and_whatever_the_case(tmp_path: Path) -> None:
    images = ["x.jpg", "X.JPEG", "y.Png", "deep/er/z.webp", "deep/w.BMP"]
    fill(tmp_path, [*images, "notes.txt", "deep/jpg", "x.jpg.part"])
    splits = folder_splits(tmp_path, None, 0.05)
    assert sorted(path for part in parts(splits) for path in paths(tmp_path, part)) == sorted(images)


def test_a_folder_source_reads_the_file_it_names(tmp_path: Path) -> None:
    train = folder_splits(fill(tmp_path, FILES), None, 0.05).train
    assert [train.read(index).decode() for index in range(len(train))] == paths(tmp_path, train)


@pytest.mark.parametrize(("held_out", "each"), [(0.01, 1), (0.05, 1), (0.2, 4), (0.5, 10)])
def test_splits_are_disjoint_and_cover_everything(tmp_path: Path, held_out: float, each: int) -> None:
    splits = folder_splits(fill(tmp_path, FILES), None, held_out)
    assert [len(part) for part in parts(splits)] == [len(FILES) - 2 * each, each, each]
    assert sorted(path for part in parts(splits) for path in paths(tmp_path, part)) == sorted(FILES)


def test_the_choice_depends_neither_on_the_place_nor_on_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = folder_splits(fill(tmp_path / "here", FILES), None, 0.3)
    there_root = fill(tmp_path / "far/away/there", FILES)
    walk = os.walk

    def shuffled(*args: object, **options: object) -> list[tuple[str, list[str], list[str]]]:
        listing = list(walk(*args, **options))
        random.Random(1).shuffle(listing)
        return [(folder, folders, random.Random(1).sample(files, len(files))) for folder, folders, files in listing]

    monkeypatch.setattr("os.walk", shuffled)
    there = folder_splits(there_root, None, 0.3)
    for one, other in zip(parts(here), parts(there), strict=True):
        assert paths(tmp_path / "here", one) == paths(there_root, other)


def test_a_link_back_to_the_folder_lists_no_image_twice(tmp_path: Path) -> None:
    fill(tmp_path, ["1.jpg", "2.jpg", "below/3.jpg"])
    (tmp_path / "below/back").symlink_to(tmp_path, target_is_directory=True)
    assert sum(len(part) for part in parts(folder_splits(tmp_path, None, 0.05))) == 3


def test_a_validation_root_serves_validation_and_test_and_all_else_trains(tmp_path: Path) -> None:
    train_root, held_root = fill(tmp_path / "train", FILES), fill(tmp_path / "held", ["v.png", "w/v.png"])
    splits = folder_splits(train_root, held_root, 0.05)
    assert paths(train_root, splits.train) == sorted(FILES)
    assert paths(held_root, splits.validation) == paths(held_root, splits.test) == ["v.png", "w/v.png"]


@pytest.mark.parametrize(("count", "held_out"), [(1, 0.05), (2, 0.05), (4, 0.99)])
def test_too_few_images_to_hold_out_say_so(tmp_path: Path, count: int, held_out: float) -> None:
    fill(tmp_path, FILES[:count])
    with pytest.raises(UserError, match=rf"{count} image\(s\), too few.*data\.validation_root"):
        folder_splits(tmp_path, None, held_out)


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1, 2.0])
def test_a_share_that_is_none_is_refused(tmp_path: Path, held_out: float) -> None:
    fill(tmp_path, FILES)
    with pytest.raises(UserError, match=rf"data.held_out={held_out:g}: expected a share between 0 and 1"):
        folder_splits(tmp_path, None, held_out)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("name", "found"), [("missing", "no folder"), ("empty", "no images")])
def test_a_folder_without_images_is_refused_by_name(tmp_path: Path, name: str, found: str, held: bool) -> None:
    (tmp_path / "empty").mkdir()
    full = fill(tmp_path / "full", FILES)
    bad = tmp_path / name
    with pytest.raises(UserError, match=found) as raised:
        folder_splits(full, bad, 0.05) if held else folder_splits(bad, None, 0.05)
    assert str(bad) in str(raised.value)


# --- the photographs ------------------------------------------------------------------------------------------------


def test_the_photographs_are_disjoint_exist_and_decode() -> None:
    splits = photo_splits()
    listed = [name for part in parts(splits) for name in names(part)]
    assert len(listed) == len(set(listed)) == 9
    for part in parts(splits):
        assert len(part)
        for index in range(len(part)):
            pixels = np.asarray(Image.open(io.BytesIO(part.read(index))))
            assert min(pixels.shape[:2]) >= 96
            assert len(set(pixels.mean(axis=(0, 1)))) == 3  # colour, not grey
