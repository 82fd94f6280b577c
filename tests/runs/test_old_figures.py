"""Runs made before LPIPS bore its network's name are read, and their figures named."""

import json
from pathlib import Path

import pytest
import yaml

from srgan.runs.compare import configurations
from srgan.runs.page import configurations_table, page, plane_chart
from srgan.runs.read import find_runs


def earlier_run(folder: Path, config: dict[str, str | None]) -> Path:
    folder.mkdir(parents=True)
    figures = {"matlab": {"psnr": 30.0, "ssim": 0.9}, "lpips": 0.1, "lr_psnr": 45.0}
    bicubic = {"matlab": {"psnr": 28.0, "ssim": 0.8}, "lpips": 0.3, "lr_psnr": 37.0}
    models = {name: {"mean": mean, "images": {"a": mean}} for name, mean in (("bicubic", bicubic), ("gan", figures))}
    content = {"scale": 4, "benchmark": "test", "models": models, "steps": {"gan": 4}, "steps_done": 4}
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "metrics.csv").write_text(
        "step,val/lpips,val/lpips_bicubic,val/lpips_gain\n2,0.2,0.3,-0.1\n4,0.1,0.3,-0.2\n"
    )
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize(("setting", "network"), [("vgg", "vgg"), ("squeeze", "squeeze"), (None, "squeeze")])
def test_lpips_without_a_name_is_that_of_the_network_of_the_configuration(
    setting: str | None, network: str, tmp_path: Path
) -> None:
    config = {} if setting is None else {"lpips": setting}
    (run,) = find_runs([earlier_run(tmp_path / "0", config)])
    assert run.result is not None and getattr(run.result, f"lpips_{network}") == 0.1
    assert [name for name in vars(run.result) if name.startswith("lpips") and getattr(run.result, name)] == [
        f"lpips_{network}"
    ]
    assert run.curves[f"val/lpips_{network}"] == [(2, 0.2), (4, 0.1)]
    assert {name for name in run.curves if "lpips" in name} == {
        f"val/lpips_{network}{suffix}" for suffix in ("", "_bicubic", "_gain")
    }


def test_old_and_new_runs_stand_on_one_page_each_figure_under_its_network(tmp_path: Path) -> None:
    earlier_run(tmp_path / "0", {"lpips": "squeeze", "loss": "a"})
    new = earlier_run(tmp_path / "1", {"lpips": "alex", "loss": "b"}) / "metrics.json"
    text = new.read_text().replace('"lpips"', '"lpips_alex"').replace('"lr_psnr"', '"niqe": 7.25, "lr_psnr"')
    new.write_text(text)
    runs = find_runs([tmp_path])
    groups = configurations(runs)
    headings = [name for name, _ in configurations_table(groups).headings]
    shown = [name for name in headings if name.startswith(("LPIPS", "NIQE", "DISTS", "grid", "colour"))]
    assert shown == ["LPIPS (alex)", "LPIPS (squeeze)", "NIQE"]
    chart = plane_chart(groups)
    assert chart is not None
    assert [measure["title"] for measure in chart["measures"]] == ["LPIPS (alex)", "LPIPS (squeeze)", "NIQE"]
    assert {trace["meta"]: trace["y"] for trace in chart["traces"] if trace["name"] == "gan"} == {
        "lpips_alex": [0.1],
        "lpips_squeeze": [0.1],
        "niqe": [7.25],
    }
    html = page(runs, "title")
    assert 'id="perception"' in html and '<option value="niqe">NIQE</option>' in html
