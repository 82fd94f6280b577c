import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from srgan import config
from srgan.evaluation.score import Evaluation, Seeds
from srgan.evaluation.table import rows_of, table


def figures(psnr: float, lpips: float | None = None) -> dict[str, Any]:
    return {
        "paper": {"psnr": psnr, "ssim": 0.82114},
        "matlab": {"psnr": psnr + 0.0006, "ssim": 0.9},
        "lpips_alex": lpips,
        "lr_psnr": 40 + psnr,
    }


def made(benchmark: str = "Set5", scale: int = 4, lpips: float | None = None) -> Evaluation:
    rows = {"bicubic": {"a": figures(28.0, lpips)}, "outputs/long/path.ckpt": {"a": figures(8.5, lpips)}}
    labels = {"bicubic": "bicubic", "outputs/long/path.ckpt": "ours"}
    return Evaluation(benchmark=benchmark, scale=scale, labels=labels, figures=rows)


REFERENCE = {
    "title": "Somebody",
    "protocol": "paper",
    "scale": 4,
    "tables": {"Set5": {"bicubic": [28.43, 0.82], "SRGAN": [29.4, 0.8472]}, "Set14": {"bicubic": [25.99, 0.7486]}},
}


def test_figures_stand_under_their_protocol_and_a_references_only_under_its_own() -> None:
    assert table(made(lpips=0.28594), reference=REFERENCE).splitlines() == [
        "                     paper   paper  matlab  matlab",
        "                      PSNR    SSIM    PSNR    SSIM  LPIPS (alex)  LR-PSNR",
        "bicubic             28.000  0.8211  28.001  0.9000        0.2859    68.00",
        "ours                 8.500  0.8211   8.501  0.9000        0.2859    48.50",
        "bicubic (Somebody)   28.43  0.8200",
        "SRGAN (Somebody)     29.40  0.8472",
    ]


def test_what_is_not_measured_is_a_dash_and_fid_and_seeds_are_there_where_they_are() -> None:
    result = made()
    assert "FID" not in table(result)
    result.fid = {"bicubic": 123.456, "outputs/long/path.ckpt": 7.0}
    group = Seeds("a, b", ["x", "y"], [1, 2], figures(30.0) | {"fid": 9.0}, figures(0.25) | {"fid": 0.5})
    lines = table(result, [group]).splitlines()
    rows = [re.split(r" {2,}", line.strip()) for line in lines]
    assert rows[1] == ["PSNR", "SSIM", "PSNR", "SSIM", "LPIPS (alex)", "LR-PSNR", "FID"]
    assert rows[2] == ["bicubic", "28.000", "0.8211", "28.001", "0.9000", "–", "68.00", "123.46"]
    assert rows[-1] == [
        *("a, b (2 seeds)", "30.000 ± 0.250", "0.8211 ± 0.8211", "30.001 ± 0.251", "0.9000 ± 0.9000"),
        *("–", "70.00 ± 40.25", "9.00 ± 0.50"),
    ]
    assert len({len(line) for line in lines[1:]}) == 1


def test_a_reference_has_rows_for_its_benchmarks_in_any_case_and_for_its_scale_only() -> None:
    for benchmark, scale in (("Set5", 2), ("Urban100", 4), ("", 4)):
        result = made(benchmark, scale)
        assert rows_of(REFERENCE, result) == {} and table(result, reference=REFERENCE) == table(result)
    assert rows_of(REFERENCE, made("set14")) == {"bicubic": [25.99, 0.7486]}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table_of(text: str, head: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the Markdown table whose first cell begins with `head`."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {head}"))
    end = next(index for index in range(start, len(lines)) if not lines[index].startswith("|"))
    return cells(lines[start])[1:], [cells(line) for line in lines[start + 2 : end]]


def test_the_papers_rows_are_those_of_its_tables(shared: Path) -> None:
    text = (shared / "PROTOCOL.md").read_text(encoding="utf-8")
    expected: dict[str, dict[str, list[float]]] = {}
    methods, rows = table_of(text, "Table 2")
    for title, *values in rows:
        benchmark, figure = title.split()
        for method, value in zip(methods, values, strict=True):
            row = expected.setdefault(benchmark, {}).setdefault(method, [0, 0])
            row[("PSNR", "SSIM").index(figure)] = float(value)
    losses, rows = table_of(text, "Table 1")
    for benchmark, *values in rows:
        for loss, value in zip(losses, values, strict=True):
            expected[benchmark][loss] = [float(part) for part in value.split("/")]
    assert sum(len(table) for table in expected.values()) == 3 * 8 + 2 * 5

    paper: Any = OmegaConf.to_container(OmegaConf.load(config.CONF / "reference" / "paper.yaml"))
    assert paper["tables"] == expected
    assert (paper["protocol"], paper["scale"]) == ("paper", 4)
