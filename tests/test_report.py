"""The page about runs: what it says, and that it works in a browser without a network."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from test_runs import DAMAGE, FILES, make_run

from srgan import report
from srgan.runs import read as runs


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two losses with two seeds each; one of the runs failed."""
    folder = tmp_path / "sweep"
    for number, (loss, seed, psnr) in enumerate([("mse", 1, 30.0), ("mse", 2, 32.0), ("vgg", 1, 29.0)]):
        make_run(folder / str(number), (f"loss={loss}", f"seed={seed}", "batch_size=4"), psnr)
    (folder / "3" / ".hydra").mkdir(parents=True)
    (folder / "3" / ".hydra" / "overrides.yaml").write_text("[loss=vgg, seed=2, batch_size=4]")
    (folder / "3" / "error.txt").write_text("vgg_weights: no such file\n")
    return folder


class Reader(HTMLParser):
    """The cells of each table by row, all attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.text = ""
        self._open = ""
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self._cell = self._cell or tag in ("td", "th")
        self.text += " "
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag in ("script", "style") else self._open
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            return
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += data.strip()


def read_page(folder: Path) -> Reader:
    return Reader(report.page(runs.find([folder]), folder.name))


def test_the_tables(sweep: Path) -> None:
    configurations, single, *_ = read_page(sweep).tables
    assert configurations == [
        ["model", "loss", "runs", "PSNR", "SSIM", "LPIPS", "gain", "LR PSNR", "img/s", "MiB"],
        ["bicubic", "–", "–", "28.00", "0.7500", "0.2500", "–", "40.00", "–", "–"],
        # 30 and 32: mean 31, sample deviation √2
        [
            *("gan", "mse", "2", "31.00 ± 1.41", "0.7500 ± 0.0000", "0.2500 ± 0.0000"),
            *("+3.00 ± 1.41", "40.00 ± 0.00", "40.0 ± 0.0", "300 ± 0"),
        ],
        ["gan", "vgg", "1 of 2", "29.00", "0.7500", "0.2500", "+1.00", "40.00", "40.0", "300"],
    ]
    assert single[0][:8] == ["run", "loss", "seed", "status", "steps", "PSNR", "SSIM", "LPIPS"]
    assert single[2][:6] == ["1", "mse", "2", "finished", "4 of 4", "32.00"]
    assert single[4] == ["3", "vgg", "2", "failed", "0 of ?", *["–"] * 7]


def test_the_heading_says_what_was_varied_and_what_went_wrong(sweep: Path) -> None:
    text = " ".join(read_page(sweep).text.split())
    assert "4 runs: 3 finished, 1 failed" in text
    assert "Varied loss mse, vgg seed 1, 2 Fixed batch_size=4" in text
    assert "Run 3 failed vgg_weights: no such file" in text
    assert "protocol matlab" in text
    assert "Started 2026-01-31 12:00" in text


def test_a_single_run(tmp_path: Path) -> None:
    page = read_page(make_run(tmp_path / "2026-01-31_12-00-00"))
    configurations, single, *_ = page.tables
    assert [row[0] for row in configurations[1:]] == ["bicubic", "gan"]
    assert [row[0] for row in single[1:]] == ["2026-01-31_12-00-00"]
    assert "1 run: 1 finished" in " ".join(page.text.split())
    assert "Varied" not in page.text


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_runs_do_not_break_the_page(damage: str, sweep: Path) -> None:
    for number, file in enumerate(FILES, start=10):
        DAMAGE[damage](make_run(sweep / str(number)) / file)
    for number, model in enumerate(["gan", "hr", "lr"], start=20):
        DAMAGE[damage](make_run(sweep / str(number)) / "pictures" / model / "a.png")
    (sweep / "20" / "pictures" / "gan" / "b.png").write_bytes(b"the only picture of b")
    single = read_page(sweep).tables[1]
    assert [row[0] for row in single[1:]] == ["0", "1", "2", "3", "10", "11", "12", "13", "14", "20", "21", "22"]


def test_a_folder_of_nothing_but_a_failed_run(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "error.txt").write_text("no data")
    text = read_page(tmp_path).text
    for said in ("no readable metrics.csv", "No figures of LPIPS", "no readable pictures"):
        assert said in text


def test_text_out_of_the_runs_is_only_text(sweep: Path) -> None:
    evil = "<script>alert(1)</script>"
    (sweep / "3" / "error.txt").write_text(evil)
    make_run(sweep / "4", (f"loss={evil}", f"data.root={evil}"), settings={"name": evil})
    (sweep / "4" / "metrics.csv").write_text(f"step,{evil}\n1,2\n")
    html = report.page(runs.find([sweep]), evil)
    page = Reader(html)
    assert evil not in html
    assert page.text.count(evil) >= 4  # it is shown
    assert page.tags.count("script") == read_page(sweep / "0").tags.count("script")
    group = runs.configurations(runs.find([sweep / "4", sweep / "0"]), ["loss"])
    chart = report.curves_chart(group)
    assert chart is not None
    assert "<" not in "".join(trace["name"] + trace["legendgroup"] for trace in chart["traces"])


def test_the_page_names_nothing_to_load(sweep: Path) -> None:
    page = read_page(sweep)
    loading = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert loading == ["data:,"]
    policy = [value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value]
    assert policy and "default-src 'none'" in policy[0] and "http" not in policy[0]
    styles = (Path(report.__file__).parent / "report.html.jinja").read_text(encoding="utf-8")
    assert "url(" not in styles and "@import" not in styles


def test_curves_share_the_colour_of_their_configuration(sweep: Path) -> None:
    found = runs.find([sweep])
    chart = report.curves_chart(runs.configurations(found, runs.varied_keys(found)))
    assert chart is not None
    go.Figure(chart["traces"])  # raises for what plotly doesn't know
    names = [metric["name"] for metric in chart["metrics"]]
    assert names == ["val/psnr", "train/loss", "train/images_per_s", "train/peak_mib"]
    psnr = [trace for trace in chart["traces"] if trace["meta"] == "val/psnr"]
    assert [(trace["legendgroup"], trace["name"]) for trace in psnr] == [
        ("loss=mse", "run 0, seed 1"),
        ("loss=mse", "run 1, seed 2"),
        ("loss=vgg", "run 2, seed 1"),
    ]
    colours = [trace["line"]["color"] for trace in psnr]
    assert colours[0] == colours[1] != colours[2]
    assert (psnr[0]["x"], psnr[0]["y"]) == ([2, 4], [20.0, 25.0])


def test_long_curves_are_thinned(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "0")
    (folder / "metrics.csv").write_text("step,train/loss\n" + "".join(f"{step},1\n" for step in range(1, 2502)))
    chart = report.curves_chart(runs.configurations([runs.read(folder, "0")], []))
    assert chart is not None
    steps = chart["traces"][0]["x"]
    assert (len(steps), steps[-1], steps[-2]) == (834, 2501, 2498)


def test_the_plane_holds_every_model_of_every_run(sweep: Path) -> None:
    found = runs.find([sweep])
    chart = report.plane_chart(runs.configurations(found, ["loss", "seed"]))
    assert chart is not None
    go.Figure(chart["traces"])
    assert {(trace.get("legendgroup"), trace["name"]): trace["x"] for trace in chart["traces"]} == {
        (None, "bicubic"): [28.0],
        ("loss=mse", "content"): [31.0, 33.0],
        ("loss=mse", "gan"): [30.0, 32.0],
        ("loss=vgg", "content"): [30.0],
        ("loss=vgg", "gan"): [29.0],
    }


def test_without_lpips_the_plane_says_how_to_get_it(tmp_path: Path) -> None:
    text = read_page(make_run(tmp_path / "0", lpips=None)).text
    assert "No figures of LPIPS" in text
    assert "lpips=squeeze" in text


def embedded(pictures: dict[str, Any], label: str) -> Image.Image:
    (source,) = [source for source in pictures["sources"] if source["label"] == label]
    uri, width, height = pictures["files"][source["pictures"]["a"]]
    assert (width, height) == (16, 16)
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_pictures_are_embedded_once_and_without_loss(sweep: Path, encoded: Callable[..., bytes]) -> None:
    noise = np.random.default_rng(3).integers(256, size=(16, 16, 3), dtype=np.uint8)
    (sweep / "0" / "pictures" / "gan" / "a.png").write_bytes(encoded(noise, "PNG"))
    found = runs.find([sweep])
    pictures = report.sample_pictures(runs.configurations(found, ["loss", "seed"]))
    assert pictures is not None
    assert [source["label"] for source in pictures["sources"]] == [
        *("HR", "bicubic", "LR"),
        *("0 · content · loss=mse seed=1", "0 · gan · loss=mse seed=1"),
        *("1 · content · loss=mse seed=2", "1 · gan · loss=mse seed=2"),
        *("2 · content · loss=vgg seed=1", "2 · gan · loss=vgg seed=1"),
    ]
    assert len(pictures["files"]) == 7  # HR, bicubic, LR, the content phases' (all alike here), three results
    assert np.array_equal(np.asarray(embedded(pictures, "0 · gan · loss=mse seed=1")), noise)
    assert embedded(pictures, "HR").getpixel((0, 0)) == (0, 0, 99)
    factors = {source["model"]: source["factor"] for source in pictures["sources"]}
    assert factors == {"hr": 1, "bicubic": 1, "lr": 4, "content": 1, "gan": 1}
    assert pictures["sources"][-1]["figures"]["a"] == ["29.50", "0.7500", "0.2500"]
    assert pictures["sources"][0]["figures"]["a"] == ["–", "–", "–"]
    assert (pictures["left"], pictures["right"]) == (1, 8)


def test_other_scales_have_a_bicubic_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path / "0", ("scale=4",))
    other = make_run(tmp_path / "1", ("scale=2",), settings={"scale": 2})
    metrics = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps(metrics | {"scale": 2}))
    for model, side in ("bicubic", 16), ("lr", 8), ("hr", 14):
        Image.new("RGB", (side, side), "red").save(other / "pictures" / model / "a.png")
    found = runs.find([tmp_path])
    pictures = report.sample_pictures(runs.configurations(found, ["scale"]))
    assert pictures is not None
    assert [(source["label"], source["factor"]) for source in pictures["sources"][:6]] == [
        *(("HR ×4", 1), ("HR ×2", 1), ("bicubic ×4", 1), ("bicubic ×2", 1), ("LR ×4", 4), ("LR ×2", 2))
    ]
    assert pictures["sources"][pictures["left"]]["label"] == "bicubic ×2"  # that of the run to the right of it
    rows = read_page(tmp_path).tables[0][1:]
    assert [row[:2] for row in rows] == [["bicubic", "4"], ["bicubic", "2"], ["gan", "4"], ["gan", "2"]]


def test_fewer_images_on_demand(sweep: Path) -> None:
    for name in "bc":
        shutil.copy(sweep / "0" / "pictures" / "gan" / "a.png", sweep / "0" / "pictures" / "gan" / f"{name}.png")
    groups = runs.configurations(runs.find([sweep]), ["loss", "seed"])
    for limit, names in (2, ["a", "b"]), (None, ["a", "b", "c"]):
        pictures = report.sample_pictures(groups, limit)
        assert pictures is not None
        assert pictures["images"] == names


def test_the_command_line(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(sweep)])
    assert capsys.readouterr().out == f"{sweep / 'report.html'}\n"
    assert (sweep / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    other = sweep / "other.html"
    report.main([str(sweep / "0"), str(sweep / "1"), "-o", str(other)])
    assert "2 runs:" in " ".join(Reader(other.read_text(encoding="utf-8")).text.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["absent"], "no such folder"), (["."], "no run in it"), (["sweep", "-o", "absent/x.html"], "can't be written")],
)
def test_a_users_error_is_one_line(
    arguments: list[str],
    said: str,
    sweep: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(sweep.parent)
    with pytest.raises(SystemExit) as exit_:
        report.main(arguments)
    error = capsys.readouterr().err
    assert exit_.value.code == 1
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_it_starts_without_the_frameworks() -> None:
    code = "import sys, srgan.report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "jinja2" in loaded
    assert not {"torch", "lightning", "hydra", "wandb", "pandas"} & set(loaded)


@pytest.fixture
def opened(browser: Any, sweep: Path) -> Iterator[Any]:
    """The page about `sweep` in a window of 1280 × 900, with its complaints and requests watched."""
    report.main([str(sweep)])
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    seen: list[str] = []
    tab.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: seen.append(str(error)))
    tab.on("request", lambda request: seen.append(request.url[:100]))
    url = (sweep / "report.html").as_uri()
    tab.goto(url)
    tab.wait_for_selector("#plane .scatterlayer .trace")
    tab.wait_for_selector("#right-picture[src]")
    yield tab
    assert [what for what in seen if what != url and not what.startswith("data:")] == []
    tab.close()


def column(tab: Any, table: int, index: int) -> list[str]:
    rows = f"[...document.querySelectorAll('.sortable')[{table}].tBodies[0].rows]"
    return tab.evaluate(f"{rows}.map((row) => row.cells[{index}].textContent.trim())")


@pytest.mark.slow
def test_a_table_sorts_both_ways_with_missing_values_last(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth") <= 1280  # the page isn't wider than the window
    heading = opened.locator(".sortable").nth(1).locator("th", has_text="PSNR").first
    assert column(opened, 1, 5) == ["30.00", "32.00", "29.00", "–"]
    heading.locator("button").click()
    assert column(opened, 1, 5) == ["29.00", "30.00", "32.00", "–"]
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").press("Enter")
    assert column(opened, 1, 5) == ["32.00", "30.00", "29.00", "–"]
    assert heading.get_attribute("aria-sort") == "descending"
    opened.locator(".sortable").nth(1).locator("th button", has_text="loss").click()
    assert column(opened, 1, 1) == ["mse", "mse", "vgg", "vgg"]
    assert heading.get_attribute("aria-sort") == "none"


@pytest.mark.slow
def test_the_slider_moves_the_border(opened: Any) -> None:
    def borders() -> tuple[str, str, str]:
        style = "(id) => document.getElementById(id).style"
        return opened.evaluate(
            f"[({style})('left-picture').clipPath, ({style})('right-picture').clipPath, ({style})('divider').left]"
        )

    opened.wait_for_selector("#stage[style*='width: 64px']")  # 16 pixels, four times
    assert borders()[1:] == ["inset(0px 0px 0px 32px)", "32px"]
    opened.locator("#slider").fill("75")
    left, right, divider = borders()
    assert (right, divider) == ("inset(0px 0px 0px 48px)", "48px")
    assert re.findall(r"48px", left) == ["48px", "48px"]
    opened.locator("#slider").press("ArrowLeft")
    assert float(borders()[2].removesuffix("px")) < 48
    opened.locator("#stage").click(position={"x": 16, "y": 5})
    assert borders()[2] == "16px"


@pytest.mark.slow
def test_other_choices_change_the_pictures_and_their_figures(opened: Any) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    picture, psnr = opened.locator("#right-picture"), opened.locator("#right-figures td").first
    expect(psnr).to_have_text("29.50")
    expect(picture).to_have_attribute("alt", "a: 2 · gan · loss=vgg seed=1")
    first = picture.get_attribute("src")
    opened.locator("#right").select_option(label="1 · gan · loss=mse seed=2")
    expect(psnr).to_have_text("32.50")
    assert picture.get_attribute("src") != first
    opened.locator("#right").select_option(label="LR")
    expect(psnr).to_have_text("–")
    expect(picture).to_have_css("width", "64px")  # 4 pixels, ×4 to HR's size, four times
    opened.locator("#zoom").select_option("1")
    expect(picture).to_have_css("width", "16px")
    expect(opened.locator("#stage")).to_have_css("width", "16px")


@pytest.mark.slow
def test_the_curves_change_with_the_metric(opened: Any) -> None:
    def drawn() -> tuple[str, list[list[float]]]:
        return opened.evaluate(
            "() => { const plot = document.getElementById('curves');"
            " return [plot.layout.yaxis.title.text, plot.data.map((trace) => trace.y)] }"
        )

    buttons = opened.locator("#curves .modebar-btn").evaluate_all("(all) => all.map((one) => one.dataset.title)")
    assert buttons == ["Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale"]  # none uploads it
    assert drawn() == ["Validation PSNR, dB (matlab)", [[20, 25]] * 3]
    assert opened.locator("#curves .scatterlayer .trace").count() == 3
    opened.locator("#metric").select_option("train/loss")
    assert drawn() == ["Training loss", [[0.5, 0.3, 0.2]] * 3]
    assert opened.locator("#curves .scatterlayer .trace").count() == 3
