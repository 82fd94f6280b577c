"""The leaderboard: rows are added, replaced, verified; the page in docs/ is the table's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from srgan import leaderboard
from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.models.generators import Compact

DOCS = Path(__file__).parents[1] / "docs"
Board = Callable[..., list[leaderboard.Row]]


@pytest.fixture
def board(
    tmp_path: Path, photos: Path, compose_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> Board:
    """board("verify=true", …): the command on two photographs, with nearest and a network of 4 channels."""
    monkeypatch.setattr(leaderboard, "SECONDS", 0.01)
    config = {"_target_": "srgan.models.generators.Compact", "scale": 2, "channels": 4, "blocks": 1}
    checkpoints.save_weights(tmp_path / "net.safetensors", Compact(2, 4, 1), config)
    options = (f"models={{near: nearest, net: {tmp_path / 'net.safetensors'}}}", "scale=2", "benchmark.name=Two")
    options += (f"benchmark.root={photos}", "benchmark.images=2", f"table={tmp_path / 'docs/board.csv'}")
    off = ("lpips=null", "niqe=false", "dists=false", "device=cpu")
    return lambda *more: leaderboard.leaderboard(
        compose_config(*options, *off, *more, run_dir=tmp_path / "run", command="leaderboard")
    )


def test_rows_are_added_said_anew_and_verified(board: Board, tmp_path: Path) -> None:
    rows = board("about={net: new}")
    table, page = tmp_path / "docs/board.csv", tmp_path / "docs/board.md"
    assert rows == leaderboard.read(table) and page.read_text() == leaderboard.page(rows, "board.csv")
    assert {(row["images"], row["lr"], len(row["hr_sha256"])) for row in rows} == {("2", "by bicubic degradation", 64)}
    assert [row["system"] for row in rows] == ["bicubic", "near", "net"] and {row["scale"] for row in rows} == {"2"}
    bicubic, _, net = rows
    assert float(net["matlab_psnr"]) == pytest.approx(float(bicubic["matlab_psnr"]), abs=0.2)  # as which it starts
    assert float(net["megapixels_per_s"]) > 0 and float(net["million_weights"]) < 0.01
    assert not bicubic["million_weights"] and not bicubic["megapixels_per_s"]
    picture = tmp_path / "docs/board_Two_x2.jpg"
    assert picture.is_file()
    picture.unlink()
    table.write_text(leaderboard.as_csv([*rows, net | {"system": "other"}]))
    board()  # a part of the table's systems: its picture is left alone
    assert not picture.exists() and (tmp_path / "run/board_Two_x2.jpg").is_file()
    table.write_text(leaderboard.as_csv(rows))

    again = board("about={near: repeats | pixels}")
    assert [row["about"] for row in again] == ["", "repeats | pixels", "new"]
    assert r"| repeats \| pixels |" in page.read_text() and not [*table.parent.glob("*.part")]
    before = table.read_bytes()
    assert board("verify=true") == again and table.read_bytes() == before
    wrong = [row | {"rgb_ssim": "0.9"} if row["system"] == "near" else row for row in again if row["system"] != "net"]
    table.write_text(leaderboard.as_csv(wrong))
    with pytest.raises(UserError, match=r"differs(.|\n)*near: rgb_ssim 0.9, measured(.|\n)*net: not in the table"):
        board("verify=true")
    table.write_text(leaderboard.as_csv([row | {"million_weights": "9"} if row == again[-1] else row for row in again]))
    with pytest.raises(UserError, match=r"net: million_weights 9, measured 0\.00"):
        board("verify=true")
    with pytest.raises(UserError, match="about: other is none of bicubic, near, net"):
        board("about={other: x}")


def test_rows_that_others_add_meanwhile_stay(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "docs/board.csv"
    rows = board()
    measure = leaderboard.measure

    def meanwhile(cfg: DictConfig) -> Any:
        table.write_text(leaderboard.as_csv([*rows, rows[-1] | {"system": "theirs"}]))
        return measure(cfg)

    monkeypatch.setattr(leaderboard, "measure", meanwhile)
    assert {row["system"] for row in board("benchmark.name=Two")} == {"bicubic", "near", "net", "theirs"}


def test_rows_on_other_images_or_lr_are_refused(board: Board, tmp_path: Path) -> None:
    table = tmp_path / "docs/board.csv"
    rows = board()
    before = table.read_bytes()
    for other in ("benchmark.images=1", "degradation.blur_sigma=2", "degradation=pillow"):
        with pytest.raises(UserError, match=r"Two ×2 was measured on 2 images|bicubic: .* the same HR, so another LR"):
            board(other)
    with pytest.raises(
        UserError, match=r"Two ×2 was measured on 2 images, LR by bicubic degradation, HR .*, this is 1"
    ):
        board("verify=true", "benchmark.images=1")
    assert table.read_bytes() == before
    old = [column for column in leaderboard.COLUMNS if column not in leaderboard.MEASURED_ON]
    lines = [",".join(old), *(",".join(row[column] for column in old) for row in rows)]
    table.write_text("\n".join(lines) + "\n")  # as before these columns
    with pytest.raises(UserError, match=r"bicubic: .* other HR or LR than"):
        board("benchmark.images=1")
    assert board()[0]["images"] == "2"


def test_a_figure_that_is_not_measured_again_is_kept_or_the_row_is_refused(
    board: Board, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "docs/board.csv"
    caplog.set_level("INFO")
    rows = [row | {"niqe": "5.00"} for row in board()]
    table.write_text(leaderboard.as_csv(rows))
    assert [row["niqe"] for row in board()] == ["5.00"] * 3
    assert "Two 2 bicubic: niqe kept, not measured here" in caplog.messages
    board("verify=true")
    assert any(text.startswith("Not compared, ") and text.endswith("_squeeze, niqe") for text in caplog.messages)
    assert f"{table}: 3 rows are as measured here, in all other columns" in caplog.messages
    empty = dict.fromkeys(leaderboard.FIGURES, "")
    table.write_text(leaderboard.as_csv([row | empty for row in rows]))
    with pytest.raises(UserError, match="Two 2 near: has no figure that was measured here"):
        board("verify=true")
    table.write_text(leaderboard.as_csv([row | {"grid": "9"} if row["system"] == "near" else row for row in rows]))
    with pytest.raises(UserError, match=r"near: grid 9, measured .*: measure niqe again, too"):
        board()


def test_a_table_that_cannot_be_written_is_refused_before_scoring(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboard, "measure", lambda cfg: pytest.fail("scored"))
    for setting, words in (
        ("about=words", "about=words: expected {NAME: a remark"),
        ("about={net: [a]}", "about=.*: expected {NAME: a remark"),
        ("lpips=[alex,vgg]", "no column for lpips=vgg; srgan.evaluate"),
        ("dists=true", "no column for dists=True; srgan.evaluate"),
        ("protocols=[paper,matlab,rgb,faces]", "no column for protocols=faces; srgan.evaluate"),
        ("lpips=true", "lpips=true: name its networks"),
        ("about={mien: x}", "about: mien is none of bicubic, near, net"),
        ("protocols=[paper]", "columns of matlab, rgb, too"),
    ):
        with pytest.raises(UserError, match=words):
            board(setting)
    with pytest.raises(UserError, match="about= has no effect with verify=true"):
        board("about={net: x}", "verify=true")
    (tmp_path / "notes.md").write_text("# Notes")
    with pytest.raises(UserError, match=r"notes.csv: its page would replace .*notes.md, which is no leaderboard"):
        board(f"table={tmp_path / 'notes.csv'}")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for name, more, words in (
        ("folder.csv", "", "expected the path of a .csv file"),
        ("table.md", "", "expected the path of a .csv file"),
        ("file/table.csv", "", "its folder can't be made"),
        ("none.csv", "true", "no such file"),
    ):
        with pytest.raises(UserError, match=f"table=.*{name}: {words}"):
            board(f"table={tmp_path / name}", f"verify={more or 'false'}")


def test_the_table_in_docs_is_well_formed_and_the_page_is_made_of_it(tmp_path: Path) -> None:
    rows = leaderboard.read(DOCS / "leaderboard.csv")
    assert (DOCS / "leaderboard.md").read_text(encoding="utf-8") == leaderboard.page(rows)
    assert rows == leaderboard.merged(rows, [])
    path, (first, *_) = tmp_path / "t.csv", rows
    for wrong, words in (
        ([first | {"niqe": "low"}], "line 2: niqe is 'low', expected a number"),
        ([first, first], "line 3: .* is there twice, also in line 2"),
        ([first | {"system": ""}], "line 2: expected .* values"),
        ([first | {"niqe": "nan"}], "line 2: niqe is 'nan', expected a number"),
        ([first | {"scale": "x4"}], "line 2: scale is 'x4', expected a whole number"),
        ([first, first | {"system": "b", "hr_sha256": "0" * 64}], "Set5 ×4 was measured on .*, HR 00000000"),
    ):
        path.write_text(leaderboard.as_csv(wrong))
        with pytest.raises(UserError, match=words):
            leaderboard.read(path)
    path.write_text(leaderboard.as_csv(rows), encoding="utf-8-sig", newline="\r\n")  # as Excel does
    assert leaderboard.read(path) == rows
    path.write_bytes(b"\xd7")
    with pytest.raises(UserError, match="expected CSV in UTF-8"):
        leaderboard.read(path)
    path.write_text("a,b\n")
    with pytest.raises(UserError, match="expected the columns benchmark,scale"):
        leaderboard.read(path)
