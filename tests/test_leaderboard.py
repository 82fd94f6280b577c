"""The leaderboard: rows are added, replaced, verified; the page in docs/ is the table's."""

from collections.abc import Callable
from pathlib import Path

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
    monkeypatch.setattr(leaderboard._megapixels_per_s, "__defaults__", (0.01,))  # seconds
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
    assert rows == leaderboard.read(table) and page.read_text() == leaderboard.page(rows)
    assert [row["system"] for row in rows] == ["bicubic", "near", "net"] and {row["scale"] for row in rows} == {"2"}
    bicubic, _, net = rows
    assert float(net["matlab_psnr"]) == pytest.approx(float(bicubic["matlab_psnr"]), abs=0.2)  # as which it starts
    assert float(net["megapixels_per_s"]) > 0 and float(net["million_weights"]) < 0.01
    assert not bicubic["million_weights"] and not bicubic["megapixels_per_s"]
    assert (tmp_path / "docs/board_Two_x2.jpg").is_file()

    again = board("about={near: repeats pixels}")
    assert [row["about"] for row in again] == ["", "repeats pixels", "new"]
    before = table.read_bytes()
    assert board("verify=true") == again and table.read_bytes() == before
    wrong = [row | {"rgb_ssim": "0.9"} if row["system"] == "near" else row for row in again if row["system"] != "net"]
    table.write_text(leaderboard.as_csv(wrong))
    with pytest.raises(UserError, match=r"differs(.|\n)*near: rgb_ssim 0.9, measured(.|\n)*net: not in the table"):
        board("verify=true")
    with pytest.raises(UserError, match="about: other is none of bicubic, near, net"):
        board("about={other: x}")


def test_the_table_in_docs_is_well_formed_and_the_page_is_made_of_it(tmp_path: Path) -> None:
    rows = leaderboard.read(DOCS / "leaderboard.csv")
    assert (DOCS / "leaderboard.md").read_text(encoding="utf-8") == leaderboard.page(rows)
    assert rows == leaderboard.merged(rows, [])
    path, (first, *_) = tmp_path / "t.csv", rows
    for wrong, words in (
        ([first | {"niqe": "low"}], "line 2: niqe is 'low', expected a number"),
        ([first, first], "line 3: .* is there twice, also in line 2"),
        ([first | {"system": ""}], "line 2: expected .* values"),
    ):
        path.write_text(leaderboard.as_csv(wrong))
        with pytest.raises(UserError, match=words):
            leaderboard.read(path)
    path.write_text("a,b\n")
    with pytest.raises(UserError, match="expected the columns benchmark,scale"):
        leaderboard.read(path)
