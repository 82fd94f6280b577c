"""`python -m srgan.evaluate`: scores methods on a benchmark under named protocols; table, metrics.json, picture."""

import logging
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from srgan import config, config_checks
from srgan.errors import UserError
from srgan.evaluation.benchmarks import Benchmark, SplitBenchmark
from srgan.evaluation.comparison import comparison
from srgan.evaluation.methods import Method, Pictures, methods
from srgan.evaluation.score import Evaluation, Seeds, over_seeds
from srgan.evaluation.score import evaluate as score
from srgan.evaluation.table import Reference, rows_of, table
from srgan.machine import choose_device
from srgan.metrics import fid, measures
from srgan.metrics.protocol import ON_REQUEST, PROTOCOLS
from srgan.runs import record

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score as configured and return the content of metrics.json. Raises UserError for settings that can't work."""
    run_dir = Path(cfg.run_dir)
    if (run_dir / record.RUN).exists():
        raise UserError(f"hydra.run.dir={run_dir}: it holds a training, whose figures would be lost; take another")
    reference = cast(dict[str, Any] | None, OmegaConf.to_container(cfg.reference) if cfg.reference else None)
    compared, benchmark, result = measure(cfg)
    seeds = over_seeds(result, compared)
    content = _content(cfg, benchmark, result, seeds, reference)
    record.write_json(run_dir / record.METRICS, content)
    log.info("\n%s\n", table(result, seeds, reference))
    log.info("SHA-256 of the HR pixels: %s", result.hr_sha256)
    if result.shown:
        comparison(result, cfg.details).save(run_dir / record.COMPARISON)
        log.info("Pictures: %s", run_dir / record.COMPARISON)
    log.info("Figures:  %s", run_dir / record.METRICS)
    return content


def _clear(run_dir: Path) -> None:
    """Remove an earlier evaluation's results."""
    if (run_dir / record.METRICS).is_file():
        for name in (record.METRICS, record.COMPARISON):
            (run_dir / name).unlink(missing_ok=True)
        shutil.rmtree(run_dir / record.PICTURES, ignore_errors=True)


def measure(cfg: DictConfig) -> tuple[dict[str, Method], Benchmark, Evaluation]:
    """Load the methods and the benchmark, and score. Raises UserError for settings that can't work."""
    config_checks.check_targets(cfg)
    protocols = PROTOCOLS | ON_REQUEST
    unknown = [name for name in cfg.protocols if name not in protocols]
    if unknown or not cfg.protocols:
        raise UserError(f"protocols={unknown or '[]'}: choose from {', '.join(protocols)}")
    if cfg.reference and cfg.reference.protocol not in cfg.protocols:
        raise UserError(f"reference: its scores are under the protocol {cfg.reference.protocol}; add it to protocols=")
    for key, least in (("tile", 1), ("details", 0), ("shown", 0)):
        if cfg[key] < least:
            raise UserError(f"{key}={cfg[key]}: expected {least} or more")
    if cfg.models == "":
        raise UserError(
            "models is empty; give models=[PATH] (is a variable of the shell not set?), or models=[] for none"
        )
    device = choose_device(cfg.device)
    if device.type == "mps":
        raise UserError(f"device={cfg.device} has no double precision, in which scores are computed; use device=cpu")
    benchmark = cast(Benchmark, instantiate(cfg.benchmark, _convert_="all"))
    models = OmegaConf.to_container(cfg.models) if OmegaConf.is_config(cfg.models) else cfg.models or []
    compared = methods(cast(Any, models), benchmark, device, cfg.tile)
    if isinstance(benchmark, SplitBenchmark):
        benchmark.verify()
    log.info(
        "%s ×%d: %d images, LR %s, on %s", benchmark.name, benchmark.scale, len(benchmark), benchmark.lr_from, device
    )
    if benchmark.lr_is_given and any(text.startswith("degradation") for text in config.typed()):
        log.warning("LR is used as given: degradation= changes only LR-PSNR and colour drift, which reduce SR again")
    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    own = (run_dir / record.PICTURES).resolve()
    if any(
        isinstance(method, Pictures) and method.folder.resolve().is_relative_to(own) for method in compared.values()
    ):
        raise UserError(f"hydra.run.dir={run_dir}: pictures that are to be scored lie in it; take another folder")
    _clear(run_dir)
    result = score(
        compared,
        benchmark,
        device,
        protocols=[protocols[name] for name in cfg.protocols],
        measures=measures.load(lpips_networks(cfg.lpips), cfg.niqe, cfg.dists, benchmark.scale, cfg.download),
        fid=_load_fid(cfg.fid, list(compared), len(benchmark), device),
        shown=cfg.shown,
        folder=run_dir / record.PICTURES,
        saved="all" if cfg.pictures else "none",
    )
    return compared, benchmark, result


def _content(
    cfg: DictConfig, benchmark: Benchmark, result: Evaluation, seeds: Sequence[Seeds], reference: Reference | None
) -> dict[str, Any]:
    """The content of metrics.json: scores, the reference's rows, and how they were measured."""
    content = result.content() | {"seeds": [group._asdict() for group in seeds]}
    if reference is not None:
        rows = rows_of(reference, result)
        content["reference"] = {key: reference[key] for key in ("title", "protocol", "scale")} | {"rows": rows}
        counts = {name.lower(): count for name, count in cast(dict[str, int], reference.get("images", {})).items()}
        count = counts.get(benchmark.name.lower())
        if count is not None and count != len(benchmark):
            log.warning("The reference's rows are means over %d images, these over %d", count, len(benchmark))
        if count is not None and benchmark.lr_from not in ("as given", "by bicubic degradation"):
            log.warning("The reference's rows are for bicubic LR, this is LR %s", benchmark.lr_from)
        if not rows:
            log.warning(
                "The reference has no rows for %s ×%d; it has %s at ×%d (benchmark.name=NAME says which this is)",
                benchmark.name,
                benchmark.scale,
                ", ".join(reference["tables"]),
                reference["scale"],
            )
    return content | {
        "degradation": benchmark.lr_from,
        "sr_reduced_by": benchmark.degradation.name,  # for LR-PSNR and colour drift
        "command": config.command_line(),
        "git_commit": record.git_commit(),
        "versions": record.versions(),
    }


def lpips_networks(setting: str | bool | float | ListConfig | None) -> list[str]:
    """LPIPS' networks from a setting: one name, a list of names, or null."""
    if setting is None or isinstance(setting, int | float):
        if setting:
            raise UserError(
                f"lpips={str(setting).lower()}: name its networks, lpips=[alex,squeeze], or switch it off by lpips=null"
            )
        return []
    return [setting] if isinstance(setting, str) else [str(name) for name in setting]


def _load_fid(setting: bool | str, methods: list[str], images: int, device: torch.device) -> fid.FID | None:
    """Load Inception if FID is wanted and possible. Raises UserError for a setting that can't work."""
    if setting not in (True, False, "auto"):
        raise UserError(f"fid={setting}: expected auto, true or false")
    if not setting or (setting == "auto" and images < fid.FEATURES):
        return None
    if setting == "auto" and not fid.weights_file().is_file():
        log.info("FID is not measured: put %s at %s (TORCH_HOME moves it)", fid.URL, fid.weights_file())
        return None
    if setting == "auto" and find_spec("torch_fidelity") is None:
        log.info("FID is not measured: it needs pip install 'srgan[fid]'")
        return None
    if images < 2:
        raise UserError("fid=true: FID compares distributions; it needs at least 2 images")
    fid.fetch_weights()
    if images < fid.FEATURES:
        log.warning("FID of %d images says little: it needs %d", images, fid.FEATURES)
    return fid.FID(methods, device)


def main() -> None:
    config.run(evaluate, "evaluate")


if __name__ == "__main__":
    main()
