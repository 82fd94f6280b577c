"""The page about runs: what it says, and that it works in a browser without a network; the command that makes it."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_read import CSV, DAMAGE, READ_FROM, make_run, write_choices

from srgan import report
from srgan.runs.compare import Configuration, configurations
from srgan.runs.page import Table, configurations_table, curves_chart, page, plane_chart, runs_table, sample_pictures
from srgan.runs.read import find_runs


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two losses with two seeds each; one of the runs failed."""
    folder = tmp_path / "sweep"
    for number, run in enumerate([("mse", 1, 30.0), ("mse", 2, 32.0), ("vgg", 1, 29.0)]):
        make_run(folder / str(number), *run)
    write_choices(folder / "3", {"data": "photos", "loss": "vgg"})
    (folder / "3" / "error.txt").write_text("vgg: no such file\n")
    return folder


def groups(folder: Path) -> Sequence[Configuration]:
    return configurations(find_runs([folder]))


def read_text(html: str) -> str:
    """What a browser would show of a page, without its scripts."""
    return " ".join(unescape(re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", html)).split())


def texts(table: Table) -> list[list[str]]:
    return [[heading for heading, _ in table.headings], *([cell.text for cell in row] for row in table.rows)]


def test_the_page_says_what_was_varied_what_came_of_it_and_what_went_wrong_and_loads_nothing(sweep: Path) -> None:
    html = page(find_runs([sweep]), "sweep")
    text = read_text(html)
    assert "4 runs: 3 finished , 1 failed Varied loss mse, vgg seed 1, 2, ? Fixed data=photos" in text
    assert "Started 2026-01-31 12:00" in text and "protocol matlab" in text
    assert "Run 3 failed vgg: no such file" in text
    others = ["40.00 ± 0.00", "40.0 ± 0.0", "300 ± 0"]
    assert texts(configurations_table(groups(sweep))) == [
        ["model", "loss", "runs", "PSNR", "SSIM", "LPIPS (alex)", "gain", "LR-PSNR", "img/s", "MiB"],
        ["bicubic", "–", "–", "28.00", "0.7500", "0.2500", "–", "40.00", "–", "–"],
        # 30 and 32: mean 31, sample deviation √2
        ["gan", "mse", "2", "31.00 ± 1.41", "0.7500 ± 0.0000", "0.2500 ± 0.0000", "+3.00 ± 1.41", *others],
        ["gan", "vgg", "1 of 2", "29.00", "0.7500", "0.2500", "+1.00", "40.00", "40.0", "300"],
    ]
    by_run = texts(runs_table(groups(sweep), find_runs([sweep])))
    assert by_run[0][:8] == ["run", "loss", "seed", "status", "steps", "PSNR", "SSIM", "LPIPS (alex)"]
    assert by_run[2][:6] == ["1", "mse", "2", "finished", "4 of 4", "32.00"]
    assert by_run[4] == ["3", "vgg", "?", "failed", "0 of ?", *["–"] * 7]

    html = re.sub(r"(?s)<script>.*?</script>", "", html)
    assert re.findall(r'\b(?:src|href|srcset|action|data)="([^"]*)"', html) == ["data:,"]
    (policy,) = re.findall(r'content="(default-src[^"]*)"', html)
    assert policy.startswith("default-src 'none';") and "http" not in policy
    assert "url(" not in html and "@import" not in html


def test_a_single_run_and_one_that_left_nothing(tmp_path: Path) -> None:
    runs = find_runs([make_run(tmp_path / "2026-01-31_12-00-00", lpips=None)])
    assert [row[0] for row in texts(configurations_table(configurations(runs)))] == ["model", "bicubic", "gan"]
    text = read_text(page(runs, "title"))
    assert "1 run: 1 finished" in text and "Varied" not in text and " 2026-01-31_12-00-00 1 finished 4 of 4" in text
    assert "No figures of LPIPS" in text and "lpips=alex" in text  # how to get them
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "error.txt").write_text("no data")
    text = read_text(page(find_runs([tmp_path / "0"]), ""))
    for said in ("no readable metrics.csv", "No figures of LPIPS", "no run has left a readable pictures"):
        assert said in text


def test_damaged_runs_do_not_break_the_page(tmp_path: Path) -> None:
    files = [*READ_FROM, *(f"pictures/{model}/a.png" for model in ("gan", "hr", "lr"))]
    for folder, damage in enumerate(DAMAGE.values()):
        for number, file in enumerate(files):
            damage(make_run(tmp_path / str(100 * folder + number)) / file)
    (tmp_path / "5" / "pictures" / "gan" / "b.png").write_bytes(b"the only picture of b")
    assert page(find_runs([tmp_path]), "").count('<i class="swatch"') > len(DAMAGE) * len(files)


def test_text_out_of_the_runs_is_only_text(sweep: Path) -> None:
    evil = "<script>alert(1)</script>"
    (sweep / "3" / "error.txt").write_text(evil)
    make_run(sweep / "4", evil, data={"root": evil}, name=evil)
    (sweep / "4" / "metrics.csv").write_text(f"step,{evil}\n1,2\n")
    html = page(find_runs([sweep]), evil)
    assert evil not in html
    assert read_text(html).count(evil) >= 4  # it is shown
    for chart in (curves_chart(groups(sweep)), plane_chart(groups(sweep))):
        for trace in chart["traces"]:
            shown = [trace["name"], *trace.get("text", []), trace.get("legendgrouptitle", {}).get("text", "")]
            assert "<" not in "".join(shown).replace("<br>", "")


def test_curves_share_the_colour_of_their_configuration(sweep: Path) -> None:
    rows = "".join(f"{step},1,-{step}\n" for step in range(1, 2502))
    (sweep / "2" / "metrics.csv").write_text(f"step,loss/mine,train/loss,val/psnr,val/psnr_bicubic\n{rows}9,,,20,19\n")
    chart = curves_chart(groups(sweep))
    titles = [metric["title"] for metric in chart["metrics"]]
    assert titles[1:] == ["Training loss", "Training speed, images/s", "Peak memory, MiB", "loss/mine"]
    assert not any(metric["log"] for metric in chart["metrics"])  # a loss below 0
    psnr = [trace for trace in chart["traces"] if trace["meta"] == "val/psnr"]
    assert [trace["legendgroup"] for trace in psnr] == ["loss=mse", "loss=mse", "loss=vgg"]
    drawn = [(trace["name"], trace["mode"]) for trace in psnr[1:]]
    assert drawn == [("run 1, seed 2", "lines"), ("run 2, seed 1", "markers")]
    colours = [trace["line"]["color"] for trace in psnr]
    assert colours[0] == colours[1] != colours[2]
    assert (psnr[0]["x"], psnr[0]["y"]) == ([2, 4], [20.0, 25.0])
    thinned = chart["traces"][-1]["x"]
    assert (len(thinned), thinned[-1], thinned[-2]) == (834, 2501, 2498)
    (sweep / "2" / "metrics.csv").write_text(CSV)
    chart = curves_chart(groups(sweep))
    assert [metric["name"] for metric in chart["metrics"] if metric["log"]] == ["train/loss"]


def test_the_plane_holds_every_model_of_every_run(sweep: Path) -> None:
    chart = plane_chart(groups(sweep))
    assert {(trace.get("legendgroup"), trace["name"]): (trace["x"], trace["y"]) for trace in chart["traces"]} == {
        (None, "bicubic"): ([28.0], [0.25]),
        ("loss=mse", "content"): ([31.0, 33.0], [0.25] * 2),
        ("loss=mse", "gan"): ([30.0, 32.0], [0.25] * 2),
        ("loss=vgg", "content"): ([30.0], [0.25]),
        ("loss=vgg", "gan"): ([29.0], [0.25]),
    }
    assert chart["traces"][2]["text"][1] == "run 1: gan<br>loss=mse, seed 2"


def embedded(pictures: dict[str, Any], label: str) -> Image.Image:
    (source,) = [source for source in pictures["sources"] if source["label"] == label]
    uri, width, height = pictures["files"][source["pictures"]["a"]]
    assert (width, height) == (16, 16)
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_pictures_are_embedded_once_and_without_loss(sweep: Path, encoded: Callable[..., bytes]) -> None:
    noise = np.random.default_rng(3).integers(256, size=(16, 16, 3), dtype=np.uint8)
    (sweep / "0" / "pictures" / "gan" / "a.png").write_bytes(encoded(noise, "PNG"))
    pictures = sample_pictures(groups(sweep))
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
    assert pictures["sources"][1]["figures"]["a"][2] != "–"
    first = sweep / "0" / "metrics.json"
    metrics = json.loads(first.read_text())
    for image in metrics["models"]["bicubic"]["images"].values():
        del image["lpips_alex"]
    first.write_text(json.dumps(metrics))
    assert sample_pictures(groups(sweep))["sources"][1] == pictures["sources"][1]  # measured by the other runs
    assert (pictures["left"], pictures["right"]) == (1, 8)
    for name in ("b.png", "c.png"):
        shutil.copy(sweep / "0" / "pictures" / "gan" / "a.png", sweep / "0" / "pictures" / "gan" / name)
    found = [sample_pictures(groups(sweep), limit)["images"] for limit in (2, None)]
    assert found == [["a", "b"], ["a", "b", "c"]]


def test_a_picture_too_long_for_webp_is_embedded_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "0")
    Image.new("RGB", (16384, 1)).save(run / "pictures" / "gan" / "a.png")
    pictures = sample_pictures(groups(tmp_path))
    assert [size for _, *size in pictures["files"] if size[0] == 16384] == [[16384, 1]]


def test_other_scales_have_a_bicubic_of_their_own(tmp_path: Path) -> None:
    make_run(tmp_path / "0")
    other = make_run(tmp_path / "1", scale=2)
    for model, side in ("bicubic", 16), ("lr", 8), ("hr", 14):
        Image.new("RGB", (side, side), "red").save(other / "pictures" / model / "a.png")
    pictures = sample_pictures(groups(tmp_path))
    assert [(source["label"], source["factor"]) for source in pictures["sources"][:6]] == [
        *(("HR ×4", 1), ("HR ×2", 1), ("bicubic ×4", 1), ("bicubic ×2", 1), ("LR ×4", 4), ("LR ×2", 2))
    ]
    assert pictures["sources"][pictures["left"]]["label"] == "bicubic ×2"  # that of the run to the right of it
    rows = texts(configurations_table(groups(tmp_path)))[1:]
    assert [row[:2] for row in rows] == [["bicubic", "4"], ["bicubic", "2"], ["gan", "4"], ["gan", "2"]]


def test_other_images_have_a_bicubic_of_their_own_named_by_what_was_varied(tmp_path: Path) -> None:
    for number, root in enumerate(("a", "b", "b")):
        run = make_run(tmp_path / str(number), seed=number, data={"root": root})
        metrics = json.loads((run / "metrics.json").read_text())
        (run / "metrics.json").write_text(json.dumps(metrics | {"hr_sha256": root}))
    headings, *rows = texts(configurations_table(groups(tmp_path)))
    place = headings.index("root")
    assert [(row[0], row[place]) for row in rows] == [("bicubic", "a"), ("bicubic", "b"), ("gan", "a"), ("gan", "b")]


def test_the_command_writes_the_page_beside_the_runs_or_where_asked_or_says_why_not(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(sweep.parent)
    for arguments, file, title in (
        ("sweep", "sweep/report.html", "sweep"),
        ("sweep/0 sweep/1 -o other.html", "other.html", "sweep/0, sweep/1"),
    ):
        report.main(arguments.split())
        assert capsys.readouterr().out == f"{file}\n"
        assert f"<title>{title} – srgan</title>" in Path(file).read_text(encoding="utf-8")
    for arguments, said in (
        ("absent", "no such folder"),
        (".", "no run in it"),
        ("sweep -o absent/x.html", "can't be written"),
    ):
        with pytest.raises(SystemExit, match="1"):
            report.main(arguments.split())
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_the_command_starts_without_the_frameworks() -> None:
    code = "import sys, srgan.report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "jinja2" in loaded
    assert not {"torch", "lightning", "hydra", "wandb", "pandas"} & set(loaded)


@pytest.fixture
def opened(browser: Any, sweep: Path) -> Iterator[Any]:
    """The page about a sweep in a window of 1280 × 900, with its complaints and requests watched."""
    file = sweep / "report.html"
    file.write_text(page(find_runs([sweep]), "sweep"), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    seen: list[str] = []
    tab.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: seen.append(str(error)))
    tab.on("request", lambda request: seen.append(request.url[:100]))
    tab.goto(file.as_uri())
    tab.wait_for_selector("#plane .scatterlayer .trace")
    tab.wait_for_selector("#stage[style*='width: 64px'] #right-picture[src]")  # 16 pixels, four times
    yield tab
    assert [what for what in seen if what != file.as_uri() and not what.startswith("data:")] == []
    tab.close()


@pytest.mark.slow
def test_everything_on_the_page_works_in_a_browser_without_a_network(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth") <= 1280  # the page isn't wider than the window
    check_sorting(opened.locator(".sortable").nth(1))
    check_slider(opened)
    check_choices(opened)
    check_curves(opened)


def check_sorting(table: Any) -> None:
    """A click on a heading sorts up, another one down; missing values come last."""
    heading = table.locator("th", has_text="PSNR").first

    def sorted_by(column: int) -> tuple[list[str], str]:
        rows = "(table) => [...table.tBodies[0].rows]"
        cells = table.evaluate(f"{rows}.map((row) => row.cells[{column}].textContent.trim())")
        return cells, heading.get_attribute("aria-sort")

    assert sorted_by(5)[0] == ["30.00", "32.00", "29.00", "–"]
    heading.locator("button").click()
    assert sorted_by(5) == (["29.00", "30.00", "32.00", "–"], "ascending")
    heading.locator("button").press("Enter")
    assert sorted_by(5) == (["32.00", "30.00", "29.00", "–"], "descending")
    table.locator("th button", has_text="loss").click()
    assert sorted_by(1) == (["mse", "mse", "vgg", "vgg"], "none")


def check_slider(opened: Any) -> None:
    def borders() -> list[str]:
        styles = (("left-picture", "clipPath"), ("right-picture", "clipPath"), ("divider", "left"))
        return [opened.evaluate(f"document.getElementById('{name}').style.{key}") for name, key in styles]

    assert borders()[1:] == ["inset(0px 0px 0px 32px)", "32px"]
    opened.locator("#slider").fill("75")
    assert borders()[1:] == ["inset(0px 0px 0px 48px)", "48px"]
    assert borders()[0].count("48px") == 2
    opened.locator("#slider").press("ArrowLeft")
    assert float(borders()[2].removesuffix("px")) < 48
    opened.locator("#stage").click(position={"x": 16, "y": 5})
    assert borders()[2] == "16px"


def check_choices(opened: Any) -> None:
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


def check_curves(opened: Any) -> None:
    drawn = "[curves.layout.yaxis.title.text, curves.data.map((trace) => trace.y)]"
    buttons = opened.locator("#curves .modebar-btn").evaluate_all("(all) => all.map((one) => one.dataset.title)")
    assert buttons == ["Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale"]  # none uploads it
    assert opened.evaluate(drawn) == ["Validation PSNR, dB (matlab)", [[20, 25]] * 3]
    assert opened.locator("#curves .scatterlayer .trace").count() == 3
    opened.locator("#metric").select_option("train/loss")
    assert opened.evaluate(drawn) == ["Training loss", [[0.5, 0.3, 0.2]] * 3]
    assert opened.locator("#curves .scatterlayer .trace").count() == 3
