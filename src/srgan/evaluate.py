"""`python -m srgan.evaluate`: score methods on a benchmark under named protocols; a table, metrics.json, a picture."""

import json
import logging
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from srgan import config
from srgan.errors import UserError
from srgan.evaluation.benchmarks import Benchmark
from srgan.evaluation.comparison import comparison
from srgan.evaluation.methods import methods
from srgan.evaluation.score import evaluate as score
from srgan.evaluation.score import over_seeds
from srgan.evaluation.table import rows_of, table
from srgan.metrics import fid, lpips
from srgan.metrics.protocol import PROTOCOLS
from srgan.runs.record import git_commit, versions

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score as configured. Returns what metrics.json holds. Raises UserError for what can't work."""
    config.check_targets(cfg)
    unknown = [name for name in cfg.protocols if name not in PROTOCOLS]
    if unknown or not cfg.protocols:
        raise UserError(f"protocols={unknown or '[]'}: choose from {', '.join(PROTOCOLS)}")
    device = _device(cfg.device)
    benchmark = cast(Benchmark, instantiate(cfg.benchmark, _convert_="all"))
    reference = cast(dict[str, Any] | None, OmegaConf.to_container(cfg.reference) if cfg.reference else None)
    models = OmegaConf.to_container(cfg.models) if OmegaConf.is_config(cfg.models) else cfg.models or []
    compared = methods(cast(Any, models), benchmark, device, cfg.tile)
    log.info(
        "%s ×%d: %d images, LR %s, on %s", benchmark.name, benchmark.scale, len(benchmark), benchmark.lr_from, device
    )
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    result = score(
        compared,
        benchmark,
        device,
        [PROTOCOLS[name] for name in cfg.protocols],
        lpips.load(cfg.lpips),
        _fid(cfg.fid, list(compared), len(benchmark), device),
        cfg.shown,
        run_dir / "pictures",
        "all" if cfg.pictures else "none",
    )
    seeds = over_seeds(result, compared)
    content = result.content()
    content["seeds"] = [group._asdict() for group in seeds]
    if reference is not None:
        rows = rows_of(reference, result)
        content["reference"] = {key: reference[key] for key in ("title", "protocol", "scale")} | {"rows": rows}
        if not rows:
            log.warning(
                "The reference has no rows for %s ×%d; it has %s at ×%d (benchmark.name=NAME says which this is)",
                benchmark.name,
                benchmark.scale,
                ", ".join(reference["tables"]),
                reference["scale"],
            )
    content |= {
        "degradation": benchmark.lr_from,
        "lpips": cfg.lpips,
        "command": config.command_line(),
        "git_commit": git_commit(),
        "versions": versions(),
    }
    (run_dir / "metrics.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    log.info("\n%s\n", table(result, seeds, reference))
    if result.shown:
        comparison(result).save(run_dir / "comparison.png")
        log.info("Pictures: %s", run_dir / "comparison.png")
    log.info("Figures:  %s", run_dir / "metrics.json")
    return content


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device=cuda, but torch {torch.__version__} finds no CUDA device; use device=cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def _fid(wanted: bool | str, names: list[str], images: int, device: torch.device) -> fid.FID | None:
    if wanted not in (True, False, "auto"):
        raise UserError(f"fid={wanted}: expected auto, true or false")
    if wanted is False or (wanted == "auto" and images < fid.FEATURES):
        return None
    if wanted == "auto" and not fid.weights_file().is_file():
        log.info("FID is not measured: put %s at %s (TORCH_HOME moves it)", fid.URL, fid.weights_file())
        return None
    if images < 2:
        raise UserError("fid=true: FID compares distributions; it needs at least 2 images")
    fid.fetch_weights()
    if images < fid.FEATURES:
        log.warning("FID of %d images: under %d it says little", images, fid.FEATURES)
    return fid.FID(names, device)


def main() -> None:
    config.run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
