"""Which files make up the splits, and their bytes."""

import errno
import logging
import os
import pickle
import re
import shutil
import sys
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from srgan.data.celeba import celeba_splits, download_celeba
from srgan.data.sources import Source, Splits, ZipSource, folder_splits, list_folder, list_hr
from srgan.errors import UserError
from srgan.runs import record

PARTITION = {1: 0, 2: 1, 3: 2, 4: 0, 5: 2, 162_771: 0}  # other than the published ranges say, to tell which was used
BOUNDARIES = {1: 0, 162_770: 0, 162_771: 1, 182_637: 1, 182_638: 2, 202_599: 2}
FACES, TEXT = "img_align_celeba", "list_eval_partition.txt"
JUNK = ["._000001.jpg", "thumbs.jpg", "000001.txt"]
FILES = [f"{folder}{n}{suffix}" for folder in ("", "a/", "a/b/") for n in range(7) for suffix in (".jpg", ".PNG")]


def fill(root: Path, files: list[str]) -> Path:
    """Files that read as their own names."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def listed(*sources: Source) -> list[str]:
    """The files of sources that `fill` wrote, each read."""
    files = [(source.name(index), source.read(index).decode()) for source in sources for index in range(len(source))]
    assert all(name.endswith(text) for name, text in files)
    return [text for _, text in files]


def parts(splits: Splits) -> tuple[Source, Source, Source]:
    return splits.train, splits.validation, splits.test


def jpg(number: int) -> str:
    return f"{number:06d}.jpg"


def assert_follows(splits: Splits, partition: dict[int, int] = PARTITION) -> None:
    for part, source in enumerate(parts(splits)):
        assert [int(Path(name).stem) for name in listed(source)] == sorted(n for n in partition if partition[n] == part)


def official(root: Path, partition: dict[int, int] = PARTITION, with_list: bool = True) -> Path:
    """Images below img_align_celeba/ beside list_eval_partition.txt."""
    fill(root / FACES, [jpg(number) for number in partition])
    if with_list:
        (root / TEXT).write_text("".join(f"{jpg(number)} {part}\n" for number, part in partition.items()))
    return root


def kaggle(root: Path) -> Path:
    """Images below img_align_celeba/img_align_celeba/, and a csv with a header and Windows line ends."""
    official(root / FACES, with_list=False)
    lines = ["image_id,partition", *(f"{jpg(number)},{part}" for number, part in PARTITION.items())]
    (root / "list_eval_partition.csv").write_bytes("\r\n".join(lines).encode())
    return root


def pack(root: Path, archive: Path, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Move all files below `root` into a zip."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted(root.rglob("*.*")):
            entry = zipfile.ZipInfo(path.relative_to(root).as_posix())
            entry.extra = b"UT\5\0\3time"  # as other programs write it
            file.writestr(entry, path.read_bytes(), compression)
    shutil.rmtree(root)
    return archive


def test_folders_follow_their_partition(tmp_path: Path) -> None:
    one, torchvisions, other = official(tmp_path / "a"), official(tmp_path / "b/celeba").parent, kaggle(tmp_path / "c")
    for root in (one, one / FACES, torchvisions, other, other / FACES, other / FACES / FACES):
        assert_follows(celeba_splits(root), PARTITION)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zips_follow_the_partition_beside_or_inside_them(tmp_path: Path, compression: int) -> None:
    tree = official(tmp_path / "tree")
    (tree / TEXT).rename(tmp_path / TEXT)
    beside = pack(tree, tmp_path / "img_align_celeba.zip", compression)
    inside = pack(kaggle(tmp_path / "tree"), tmp_path / "b/celeba/archive.zip", compression)
    pack(fill(tmp_path / "notes", ["a zip without faces is passed over.txt"]), inside.with_name("a.zip"))
    for root in (beside, beside.parent, inside, inside.parent, inside.parent.parent):
        assert_follows(pickle.loads(pickle.dumps(celeba_splits(root))), PARTITION)  # as a loader's process gets it


def test_every_layout_in_which_celeba_is_handed_on_is_found(tmp_path: Path) -> None:
    """Images and partition file by their paths; a .zip is made of what is said to be in it."""
    png, upper = "img_align_celeba_png", [name.replace("jpg", "JPG") for name in map(jpg, PARTITION)]
    names = list(map(jpg, PARTITION))
    layouts = {  # root: images, partition
        "drive/CelebA": ([f"Img/{FACES}/{name}" for name in names], f"Eval/{TEXT}"),
        "above/.": ([f"CelebA/Img/{FACES}/{name}" for name in names], f"CelebA/Eval/{TEXT}"),
        "anno/Img": ([f"{FACES}/{name}" for name in names], f"../Anno/{TEXT}"),
        "png/.": ([f"Img/{png}.7z/{png}/{name[:6]}.png" for name in names], f"Eval/{TEXT}"),
        "upper/.": ([f"{FACES}/{name}" for name in upper], TEXT),
        "flat/pictures": (names, TEXT),
    }
    for root, (images, partition) in layouts.items():
        fill(tmp_path / root, [*images, "img_celeba/000001.jpg"])
        path = tmp_path / root / partition
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{jpg(number)} {part}\n" for number, part in PARTITION.items()))
        assert_follows(celeba_splits(tmp_path / root))
    drive = tmp_path / "packed"
    flat = pack(official(tmp_path / "tree") / FACES, drive / "Img/faces.ZIP")  # images at its top
    shutil.copytree(tmp_path / "drive/CelebA/Eval", drive / "Eval")
    assert_follows(celeba_splits(drive))
    assert_follows(celeba_splits(flat))
    flat.rename(drive / "Img/img_align_celeba.zip")
    shutil.copytree(drive, tmp_path / "again")
    outer = pack(drive, tmp_path / "CelebA-001.zip", zipfile.ZIP_STORED)  # as Google Drive packs a folder
    assert_follows(pickle.loads(pickle.dumps(celeba_splits(outer))))
    with pytest.raises(
        UserError, match=r"the zip Img/img_align_celeba\.zip in it is compressed again; extract again\.zip"
    ):
        celeba_splits(pack(tmp_path / "again", tmp_path / "again.zip"))


def test_a_zip_that_was_unpacked_only_in_part_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    archive = pack(official(tmp_path / "tree"), tmp_path / "celeba/img_align_celeba.zip")
    official(tmp_path / "celeba")
    assert_follows(celeba_splits(tmp_path / "celeba"))
    (tmp_path / "celeba" / FACES / jpg(3)).unlink()
    with pytest.raises(UserError, match=rf"{FACES} holds 5 of the 6 images in .*; remove that folder, or name"):
        celeba_splits(tmp_path / "celeba")
    with pytest.raises(UserError, match=rf"{FACES} holds 5 of the 6 images in"):
        download_celeba(tmp_path / "celeba")  # which would leave that folder as it is
    assert_follows(celeba_splits(archive))
    assert len(celeba_splits(tmp_path / "celeba" / FACES).train) == 3
    pack(kaggle(tmp_path / "tree"), tmp_path / "kaggle/archive.zip")
    (kaggle(tmp_path / "kaggle") / FACES / FACES / jpg(3)).unlink()
    with pytest.raises(UserError, match=rf"{FACES} holds 5 of the 6 images in .*archive\.zip"):
        celeba_splits(tmp_path / "kaggle")


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("utf-8-sig", "{name} {part}"),
        ("utf-16", "{name} {part}"),
        ("utf-8-sig", "{name},{part}"),
        ("utf-8", '"{name}","{part}"'),
        ("utf-8", "{row},{name},{part}"),
        ("utf-8-sig", '"{row}";"{name}";"{part}"'),
        ("utf-8", "{name}\t{part} "),
        ("utf-8", "  {name}   {part}"),
    ],
)
@pytest.mark.parametrize("headings", ["", ",image_id,partition"])
def test_a_partition_file_is_read_however_it_was_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str, line: str, headings: str
) -> None:
    root = official(tmp_path, with_list=False)
    lines = [line.format(row=n, name=jpg(number), part=part) for n, (number, part) in enumerate(PARTITION.items())]
    text = "\r\n".join([headings, *lines] if headings else lines)
    (root / "list_eval_partition.csv").write_bytes(text.encode(encoding))
    assert_follows(celeba_splits(root))
    assert not caplog.records


def test_without_a_partition_the_published_ranges_decide(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    celeba_splits(official(tmp_path / "listed"))
    assert not caplog.records
    root = official(tmp_path / "official", BOUNDARIES, with_list=False)
    fill(root / FACES, JUNK)
    for place in (root, pack(official(tmp_path / "tree", BOUNDARIES, with_list=False), tmp_path / "faces.zip")):
        assert_follows(celeba_splits(place), BOUNDARIES)
        assert "published index ranges" in caplog.text


def test_what_is_unlisted_or_missing_or_no_face_is_left_out_and_a_damaged_list_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = official(tmp_path, dict(reversed(PARTITION.items())))
    (root / FACES / jpg(4)).unlink()
    fill(root / FACES, [jpg(6), jpg(999_999), *JUNK])
    assert_follows(celeba_splits(root), {number: part for number, part in PARTITION.items() if number != 4})
    assert "of 6 images in the partition file 5 are there; 2 images that it doesn't list are left out" in caplog.text
    for damaged, words in (
        ("000001.jpg 0\n000002.jpg", "line 2: '000002.jpg'"),
        ("000001.jpg zero", "line 1"),
        ("000001.jpg 3", "line 1"),
        ("000001.jpg 0\n000001.jpg 1", "lists 000001 twice"),
        ("image_id partition\nimage_id partition\n000001.jpg 0", "line 2"),
        ("", "expected lines such as"),
        ("<!DOCTYPE html>\n<p>Quota exceeded", "line 1: '<!DOCTYPE html>'"),
        ("image_id,partition\n", "expected lines such as"),
    ):
        (root / TEXT).write_text(damaged)
        with pytest.raises(UserError, match=f"partition file is damaged.*{words}"):
            celeba_splits(root)


def test_an_image_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    root = official(tmp_path / "one")
    fill(root / FACES, [f"copy/{jpg(2)}"])
    for make in (lambda: root, lambda: pack(root, tmp_path / "img_align_celeba.zip")):
        with pytest.raises(UserError, match=r"/000002\.jpg and .*/copy/000002\.jpg are the same image \(1 such\)"):
            celeba_splits(make())


def test_without_images_the_message_says_where_they_were_looked_for_and_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path, ["empty/notes.txt", "file.txt"])
    for root in ("empty", "missing", "missing.zip", "file.txt"):
        with pytest.raises(UserError) as raised:
            celeba_splits(tmp_path / root)
        for text in (str(tmp_path / root / FACES), ".zip", "data=photos", "data.download=true"):
            assert text in str(raised.value)
    with pytest.raises(UserError, match="no validation images"):
        celeba_splits(official(tmp_path / "incomplete", {1: 0, 2: 0, 3: 2}))
    words = r"no validation images among its 3 \(000001 to 000003 of 202,599\).* data=folder"
    with pytest.raises(UserError, match=words):
        celeba_splits(official(tmp_path / "first", {1: 0, 2: 0, 3: 0}, with_list=False))
    fill(tmp_path, ["7z/Img/img_align_celeba_png.7z.001"])
    with pytest.raises(UserError, match=r"img_align_celeba_png\.7z\.001 is there, but only zips are read packed"):
        celeba_splits(tmp_path / "7z")


def test_zips_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba.zip").write_bytes(b"<html>Quota exceeded</html>")
    with pytest.raises(UserError, match=r"img_align_celeba\.zip: not a readable zip"):
        celeba_splits(tmp_path)
    with pytest.raises(UserError, match="extract it"):
        celeba_splits(pack(official(tmp_path / "tree"), tmp_path / "b.zip", zipfile.ZIP_BZIP2))
    archive = pack(kaggle(tmp_path / "tree"), tmp_path / "archive.zip")
    locked = bytearray(archive.read_bytes())
    for signature, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):  # where an entry's flags are
        for match in re.finditer(re.escape(signature), bytes(locked)):
            locked[match.start() + place] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(UserError, match=r"locked\.zip is encrypted: extract it with its password"):
        celeba_splits(tmp_path / "locked.zip")
    source = celeba_splits(archive).train
    assert isinstance(source, ZipSource)
    with archive.open("r+b") as file:
        file.seek(int(source.offsets[0]) + 39 + len(f"{FACES}/{FACES}/{jpg(1)}"))
        file.write(b"\xff" * 8)
    with pytest.raises(UserError, match=r"archive\.zip:.*000001\.jpg: damaged"):
        source.read(0)


def test_a_failed_download_says_why_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "gdown", None)
        with pytest.raises(UserError, match="'gdown' is required"):
            download_celeba(tmp_path)
    for error, reason in (
        (Exception("Too many."), "Too many."),  # gdown's, when Google Drive's quota is used up, is of its own kind
        (ConnectionError("no route\nand more"), "no route"),
        (TimeoutError(), "TimeoutError"),
    ):
        monkeypatch.setattr("torchvision.datasets.CelebA", Mock(side_effect=error))
        with pytest.raises(UserError, match=rf"could not be downloaded \({reason}\)(?s:.*)data=photos"):
            download_celeba(tmp_path)


def test_a_folder_that_cannot_be_read_is_named_and_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, ["a.png", "closed/b.png"])
    scandir = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(UserError, match=r"closed: can't be read \(Permission denied\); its images would be missing"):
        list_folder(tmp_path)


def test_all_images_are_found_however_deep_and_whatever_the_case(tmp_path: Path) -> None:
    images = ["x.jpg", "X.JPEG", "y.Png", "deep/er/z.webp", "deep/w.BMP"]
    fill(tmp_path, [*images, "notes.txt", "deep/jpg", "x.jpg.part"])
    (tmp_path / "deep/back").symlink_to(tmp_path, target_is_directory=True)  # lists no image twice
    source = list_folder(tmp_path)
    assert [source.name(index) for index in range(len(source))] == [str(tmp_path / name) for name in sorted(images)]


@pytest.mark.parametrize(
    ("kept", "left_out"),
    [
        (["D_train_HR/0001", "extra/1"], ["D_train_LR_bicubic/X4/0001x4", "D_train_LR_mild/0001x4m"]),
        (["GT/a", "b/c"], ["LQ/a", "original/a"]),
        (["target/a"], ["input/a"]),
        (["input/a", "data/a", "low light/a", "x4/a", "Mustang_GT", "x_LR"], []),
        (["D_HR_sub/1_s001"], ["D_LR_bicubic/X4_sub/1_s001"]),
        (["p0", "p1", "q_x4", "maxx4"], ["p0_x4", "p1_x2", "p1x4", "p1_LR", "p0_x4_x4", "sharp/p0_x4"]),
        (["a_HR", "b_HR"], ["a_LR", "b_LR", "a_bicubic"]),
        (["a"], [".a", "._a", ".ipynb_checkpoints/a", ".Trash-1000/files/a", "@eaDir/a", "b/__MACOSX/a", "#recycle/a"]),
        (["a"], [f"outputs/b/1/{name}" for name in (record.HYDRA + "/x", "pictures/m/a", "comparison")]),
        (["a"], ["runs/pictures/b", "runs/sheet"]),  # with a run.json
    ],
)
def test_only_hr_is_trained_on_and_the_log_says_what_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: list[str], left_out: list[str]
) -> None:
    caplog.set_level(logging.INFO)
    fill(tmp_path, [f"{name}.png" for name in kept + left_out])
    if "runs/sheet" in left_out:
        fill(tmp_path, [f"runs/{record.RUN}"])
    source = list_hr(tmp_path, "data.root")
    assert listed(source) == sorted(f"{name}.png" for name in kept)
    assert f"{len(kept)} images (" in caplog.text
    silent = not left_out or "._a" in left_out  # nobody asks for hidden files
    assert ("left out are" in caplog.text or "are skipped" in caplog.text) != silent


def test_folders_without_hr_of_one_scale_are_refused(tmp_path: Path) -> None:
    for root, files, words in (
        ("a", ["LR/a.png", "LRx2/b.png"], r"holds no HR images, only 2 LR \(LR: 1, LRx2: 1\)"),
        ("D_LR_bicubic/X4", ["a.png"], "X4 is named as a folder of LR; name the folder of the HR"),
        ("b", ["x2/HR/a.png", "x4/HR/a.png"], r"the HR of several scales \(×2, ×4\), the same pictures"),
        ("c", ["1/.hydra/config.yaml", "1/a.png"], "no images .* but those of runs; name another folder by key=PATH"),
    ):
        with pytest.raises(UserError, match=words):
            list_hr(fill(tmp_path / root, files), "key")
    with pytest.raises(UserError, match="is a file; name a folder of images by key=PATH"):
        list_hr(tmp_path / "b/x2/HR/a.png", "key")


def test_the_share_held_out_does_not_depend_on_the_place(tmp_path: Path) -> None:
    one, other = fill(tmp_path / "here", FILES), fill(tmp_path / "far/away", FILES[::-1])
    for held_out, each in ((0.01, 1), (0.05, 1), (0.2, 4), (0.5, 10)):
        splits = parts(folder_splits(one, None, held_out))
        assert [len(part) for part in splits] == [len(FILES) - 2 * each, each, each]
        assert sorted(listed(*splits)) == sorted(FILES)
        assert listed(*parts(folder_splits(other, None, held_out))) == listed(*splits)
    _, validation, test = parts(folder_splits(one, None, 0.1))
    assert (listed(validation), listed(test)) == (["5.PNG", "a/b/1.jpg"], ["6.jpg", "a/3.PNG"])


def test_a_validation_root_serves_validation_and_test_and_all_else_trains(tmp_path: Path) -> None:
    root, held = fill(tmp_path / "all", FILES), fill(tmp_path / "held", ["v.png", "w/v.png"])
    inside = [name for name in FILES if name.startswith("a/b/")]
    for validation_root, count, trained in ((root / "a/b", 14, set(FILES) - set(inside)), (held, 2, FILES)):
        splits = folder_splits(root, validation_root, 0.05)
        assert listed(splits.train) == sorted(trained)
        assert len(listed(splits.validation)) == len(listed(splits.test)) == count
    with pytest.raises(UserError, match=r"in data\.validation_root too; none is left to train on"):
        folder_splits(root, root, 0.05)


def test_folders_that_make_no_splits_are_refused(tmp_path: Path) -> None:
    full, few, empty, missing = (tmp_path / name for name in ("full", "few", "empty", "missing"))
    fill(full, FILES)
    empty.mkdir()
    for count, share in ((1, 0.05), (2, 0.05), (4, 0.99)):
        with pytest.raises(UserError, match=rf"{count} image\(s\), too few.*data\.validation_root"):
            folder_splits(fill(few, FILES[:count]), None, share)
    for share in (0.0, 1.0):
        with pytest.raises(UserError, match=rf"data.held_out={share:g}: expected a share between 0 and 1"):
            folder_splits(full, None, share)
    for bad, words in ((missing, f"no folder {missing}"), (empty, f"no images .* below {empty}")):
        for root, validation_root, key in ((bad, None, "data.root"), (full, bad, "data.validation_root")):
            with pytest.raises(UserError, match=f"{words}.*{key}=PATH"):
                folder_splits(root, validation_root, 0.05)
