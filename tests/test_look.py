"""`python -m srgan.look`: the sheet of LR and HR."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srgan import look

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(run_main: Callable[..., tuple[int, str]]) -> Command:
    """command("key=value", …): `python -m srgan.look` in this process; its exit code and what it wrote to stderr."""
    return partial(run_main, look)


def test_the_sheet_holds_lr_enlarged_by_repetition_beside_hr(
    command: Command, photo_folder: Path, tmp_path: Path
) -> None:
    """Pictures of one grey each: in both cells of a pair nothing but that grey, in the order of training."""
    for index, path in enumerate(sorted(photo_folder.iterdir())):
        Image.new("RGB", (72, 64), (20 * index + 40,) * 3).save(path)
    command("data=folder", f"data.root={photo_folder}", "data.crop=32", "pairs=6", "batch_size=4", "hydra.run.dir=out")
    sheet = np.asarray(Image.open(tmp_path / "out/sheet.png"))
    assert sheet.shape == (22 + 2 * 36, 8 * 36, 3)
    cells = [sheet[22 + 36 * row :, 36 * column :][:32, :32] for row in range(2) for column in range(8)]
    greys = [np.unique(cell).tolist() for cell in cells]
    assert all(len(grey) == 1 for grey in greys) and greys[12:] == [[255]] * 4
    assert greys[:12:2] == greys[1:12:2] and len({grey[0] for grey in greys[:12]}) == 6


def test_it_shows_any_degradation_and_its_path(command: Command, photo_folder: Path, tmp_path: Path) -> None:
    options = ["data=folder", f"data.root={photo_folder}", "data.crop=32", "pairs=3", "hydra.run.dir=out"]
    sheets: list[bytes] = []
    for degradation in ("bicubic", "realworld", "realworld"):
        command(*options, f"degradation={degradation}")
        sheets.append((tmp_path / "out/sheet.png").read_bytes())
    assert sheets[1] == sheets[2] != sheets[0]
    log = (tmp_path / "out/look.log").read_text(encoding="utf-8")
    assert f"Folder ×4, 3 pairs: {tmp_path / 'out/sheet.png'}\n" in log
    assert "pairs=0: expected at least 1" in command(*options, "pairs=0")[1]
    assert "set degradation.blur_sigma" in command(*options, "data.degradation.blur_sigma=1")[1]
