"""`python -m srgan.check_data`: what is wrong with a data set, and the exit code."""

import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from srgan import check_data


def test_what_is_wrong_is_listed_with_exit_code_1(
    photo_folder: Path, tmp_path: Path, run_main: Callable[..., tuple[int, str]]
) -> None:
    held = tmp_path / "held"
    held.mkdir()
    for name in ("6.png", "7.png"):
        (photo_folder / name).rename(held / name)
    overrides = ["data=folder", f"data.root={photo_folder}", f"data.validation_root={held}", "hydra.run.dir=out"]

    assert run_main(check_data, *overrides, "data.crop=64")[0] == 0
    log = tmp_path / "out/check_data.log"
    assert "Folder: 8 images read, 0 faults" in log.read_text(encoding="utf-8")
    assert "Smaller than" not in log.read_text(encoding="utf-8")
    shutil.copy(held / "6.png", photo_folder / "bytes.png")
    Image.open(held / "7.png").save(photo_folder / "pixels.bmp")
    shutil.copy(photo_folder / "0.png", photo_folder / "copy.png")  # twice in training is no fault
    Image.new("RGB", (72, 22)).save(held / "low.png")
    (photo_folder / "3.png").write_bytes((photo_folder / "3.png").read_bytes()[:60])
    code, stderr = run_main(check_data, *overrides, "data.crop=68")
    wrong = (tmp_path / "out/wrong.txt").read_text(encoding="utf-8").splitlines()
    assert (code, len(wrong)) == (1, 4) and all(line in stderr for line in wrong)
    assert f"{photo_folder}/3.png: not a readable image" in wrong[0]
    assert f"{held}/low.png is 72×22, too small to be scored at ×4; remove it" == wrong[1]
    for line, what, names in (
        (wrong[2], "bytes", ("bytes.png", "6.png")),
        (wrong[3], "pixels", ("pixels.bmp", "7.png")),
    ):
        first, second = (f"{folder}/{name}" for folder, name in zip((photo_folder, held), names, strict=True))
        assert line == f"the same {what} in several splits: {first} (train), {second} (validation)"
    assert "Smaller than data.crop=68, and mirrored" in log.read_text(encoding="utf-8")
    assert (tmp_path / "out/error.txt").is_file()
    for path in (held / "low.png", *(photo_folder / name for name in ("bytes.png", "pixels.bmp", "3.png"))):
        path.unlink()
    assert run_main(check_data, *overrides)[0] == 0
    assert not (tmp_path / "out/wrong.txt").exists() and not (tmp_path / "out/error.txt").exists()


def test_validation_and_test_may_share_pictures() -> None:
    """As with data.validation_root, which serves both; written as shards, they have two names."""
    both = [check_data.Image(split, f"{split}[0]", None, b"file", b"pixels", False) for split in ("validation", "test")]
    assert check_data._shared(both) == []
    (line,) = check_data._shared([both[0]._replace(split="train"), *both])
    assert line == "the same bytes in several splits: validation[0] (train), validation[0] (validation), test[0] (test)"
