"""`python -m srgan.export CHECKPOINT --format FORMAT`: writes a trained generator as one file, to share or deploy.

`inference/formats.py` writes the file. This module collects its description: how the generator was trained and scored.
"""

import argparse
import inspect
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch

from srgan import cli, weights
from srgan.errors import UserError
from srgan.files import at_home
from srgan.inference import formats
from srgan.inference.formats import FORMATS, PHOTOGRAPH_SIZES, Description
from srgan.models import basicsr, checkpoints
from srgan.models.generators import Generator
from srgan.runs import record
from srgan.runs.read import read_json

PLAIN_METHODS = ("nearest", "bicubic")  # methods in a metrics.json that aren't models


# --- what is known of a generator -------------------------------------------------------------------------------------


def read(path: Path) -> tuple[Generator, Description]:
    """Read a checkpoint, exported weights or a BasicSR file. Returns the generator and its description."""
    if path.suffix == ".safetensors":
        return checkpoints.load(path), checkpoints.describe(path)
    if path.suffix == basicsr.SUFFIX:
        node, _ = basicsr.read(path)
        generator = checkpoints.load(path)
        return generator, {"generator": node, "about": _architecture_facts(generator, node)}
    checkpoint = checkpoints.read(path)
    generator = checkpoints.generator_of(checkpoint, path)
    node = dict(checkpoint["config"]["generator"])
    return generator, {"generator": node, "about": _about(checkpoint, path, generator)}


def _about(checkpoint: dict[str, Any], path: Path, generator: Generator) -> dict[str, Any]:
    """How it was trained and scored, from the checkpoint and its run's folder; without paths."""
    config = checkpoint["config"]
    plan = cast(dict[str, int], checkpoint.get("phases", {}))
    step: int = checkpoint.get("global_step", 0)
    ends = dict(zip(plan, accumulate(plan.values()), strict=True))
    phase = next((name for name, end in ends.items() if step <= end), "")
    folder = path.resolve().parent.parent
    made_with, metrics = read_json(folder / record.RUN), read_json(folder / record.METRICS)
    data = _mapping(config, "data")
    loss = _mapping(config, "phases", phase, "loss")
    shares = {name: share for name, share in _mapping(loss, "balance").items() if share is not None}
    about: dict[str, Any] = {
        "name": Path(str(config.get("name", ""))).name,
        **_architecture_facts(generator, config["generator"]),
        "phase": phase,
        "steps": {name: min(steps, max(0, step - ends[name] + steps)) for name, steps in plan.items()},
        "loss": {name: weight for name, weight in _mapping(loss, "weights").items() if weight and name not in shares},
        "balance": shares,
        "data": {"kind": str(data.get("_target_", "")).split(".")[-1]}
        | {key: data[key] for key in ("crop", "augment") if key in data},
        "git_commit": made_with.get("git_commit"),
        "versions": made_with.get("versions"),
    }
    if phase and metrics.get("steps") == plan and step == min(ends[phase], metrics["steps_done"]):
        about["figures"] = _figures(metrics, phase)
    return {name: value for name, value in about.items() if value}


def _mapping(tree: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping under these keys; an empty one if a checkpoint's configuration has none there."""
    for key in keys:
        below: object = tree.get(key)
        tree = cast(Mapping[str, Any], below) if isinstance(below, Mapping) else {}
    return tree


def _architecture_facts(generator: Generator, node: dict[str, Any]) -> dict[str, Any]:
    return {
        "scale": generator.scale,
        "architecture": _architecture(generator, node),
        "weights": _count_weights(generator),
    }


def _architecture(generator: Generator, node: dict[str, Any]) -> str:
    """The class and its size, such as "SRResNet, 64 channels, 16 blocks"."""
    values = {name: value for name, value in node.items() if not name.startswith("_")}
    arguments = inspect.signature(type(generator)).bind(**values)
    size = [f"{value} {name}" for name, value in arguments.arguments.items() if name != "scale"]
    return ", ".join([type(generator).__name__, *size])


def _figures(metrics: dict[str, Any], model: str) -> dict[str, Any]:
    """Benchmark's name → mean scores of the model and of bicubic under every protocol."""
    own, bicubic = (metrics["models"][name]["mean"] for name in (model, "bicubic"))
    return {metrics["benchmark"]: {"own": own, "bicubic": bicubic}}


def _measured_figures(path: Path, generator: Generator) -> dict[str, Any]:
    """The figures in a metrics.json of `srgan.evaluate` of the model that has the weights of `generator`.

    Raises UserError if there is none.
    """
    metrics = read_json(path)
    if not metrics.get("models"):
        raise UserError(f"{path}: no metrics.json of srgan.evaluate")
    own = checkpoints.fingerprint(generator)
    for name, model in metrics["models"].items():
        if model.get("weights_sha256") == own:
            return _figures(metrics, name)
    models = ", ".join(name for name in metrics["models"] if name not in PLAIN_METHODS) or "no model"
    raise UserError(
        f"{path}: scores {models}, and none has the weights that are exported; export without --metrics, score that"
        " file by srgan.evaluate 'models=[FILE]', and export again"
    )


def _count_weights(generator: Generator) -> int:
    return sum(parameter.numel() for parameter in generator.parameters())


# --- average and export -----------------------------------------------------------------------------------------------


def interpolate(generator: Generator, description: Description, other: str, share: float) -> None:
    """Move the weights by the fraction `share` (0…1) towards those of `other`: network interpolation (ESRGAN, §3.4).

    If both started from the same weights, the SR changes gradually, and artefacts that only one has (a grid, noise)
    fade first. `description` loses the scores of `generator` and names the other. Raises UserError if `other` is a
    different network or if `share` is outside 0…1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"--share {share}: expected 0 (all of CHECKPOINT) to 1 (all of OTHER)")
    path = weights.find(other)
    target, target_description = read(path)
    if type(target) is not type(generator) or target.scale != generator.scale:
        kinds = [f"{type(network).__name__} ×{network.scale}" for network in (target, generator)]
        raise UserError(f"{path}: {kinds[0]} can't be mixed with {kinds[1]}")
    checkpoints.check_fit(generator.state_dict(), target.state_dict(), path)
    if repr(target) != repr(generator):  # layers without weights
        raise UserError(f"{path}: its network has other layers, such as activations, than the one to mix it with")
    with torch.no_grad():
        for value, target_value in zip(generator.state_dict().values(), target.state_dict().values(), strict=True):
            if value.is_floating_point():  # all but BN's counters
                value.lerp_(target_value, share)
    about: dict[str, Any] = description["about"]
    about.pop("figures", None)
    kept = {k: v for k, v in target_description["about"].items() if k in ("phase", "steps", "loss", "data")}
    about["mixed_with"] = [*about.get("mixed_with", []), {"share": share} | kept]


def export_file(options: argparse.Namespace) -> None:
    """Export as the command line says and print a summary. Raises UserError if that can't work."""
    file_format = FORMATS[options.format]
    output = None if options.output is None else Path(at_home(str(options.output)))
    suffix = file_format.suffix
    if output is not None and (not output.name or output.is_dir()):
        raise UserError(f"-o {output} is a folder; name a {suffix} file")
    if options.format == "basicsr" and (options.metrics or options.note is not None):
        raise UserError("--format basicsr has no place for --note and --metrics; take safetensors")
    if output is not None and output.suffix != suffix:
        raise UserError(
            f"{output}: --format {options.format} writes {suffix} files; name it {output.with_suffix(suffix).name}"
        )
    if options.share is not None and options.mix is None:
        raise UserError("--share needs another checkpoint; name it by --mix OTHER")
    if missing := file_format.missing_packages():
        raise UserError(f"--format {options.format} needs {', '.join(missing)}: pip install 'srgan[onnx]'")
    path = weights.find(options.checkpoint)
    generator, description = read(path)
    if options.mix is not None:
        interpolate(generator, description, options.mix, 0.5 if options.share is None else options.share)
    about = description["about"]
    for file in options.metrics:
        about["figures"] = about.get("figures", {}) | _measured_figures(file, generator)
    if options.note is not None:
        about["note"] = options.note
    if output is None:
        run_name = about.get("name") if path.suffix == ".ckpt" else ""
        output = Path((f"{run_name}_{path.stem}" if run_name else path.stem) + suffix)
    if output.exists() and not options.force:
        raise UserError(f"{output} is there already; --force overwrites it, -o FILE names another")
    largest = formats.export(generator, description, options.format, output)
    name, size = type(generator).__name__, output.stat().st_size / 2**20
    print(f"{output}: {name} ×{generator.scale}, {_count_weights(generator):,} weights, {size:.2f} MiB")
    print(
        f"Loaded again, it differs from the original by at most {largest:.2g} grey levels on"
        f" {len(PHOTOGRAPH_SIZES)} photographs."
    )


def _parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(
        "export",
        "Write a trained generator as one file, load that again and compare it with the original. safetensors keeps it"
        " as it was trained, and so does basicsr, for other programs; the others take RGB (B, 3, h, w) in [0, 1] of any"
        " size, and give SR clamped to [0, 1].",
        "outputs/NAME/TIME/checkpoints/last.ckpt --format onnx",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a run's checkpoint, or weights by file or name (.safetensors, BasicSR's .pth)",
    )
    parser.add_argument("--format", required=True, choices=list(FORMATS), help="onnx needs pip install 'srgan[onnx]'")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="default: in this folder, named after the run and its checkpoint",
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--note", metavar="TEXT", help="stored with the export: training data, terms of use")
    parser.add_argument(
        "--metrics",
        action="append",
        default=[],
        type=Path,
        metavar="JSON",
        help="metrics.json of srgan.evaluate, whose scores of the very weights that are exported are stored with them;"
        " may be repeated",
    )
    parser.add_argument(
        "--mix",
        metavar="OTHER",
        help="average the weights with those of another checkpoint that started from the same ones, such as its "
        "content phase's: between the highest PSNR and the sharpest pictures",
    )
    parser.add_argument("--share", type=float, help="share of OTHER, from 0 to 1 (default: 0.5)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    cli.run(lambda: export_file(options))


if __name__ == "__main__":
    main()
