"""`python -m srgan.export CHECKPOINT --format FORMAT`: a trained generator as one file, for other programs or to share.

`safetensors` holds the generator as it was trained. The other formats hold a network that is ready for use: RGB
(B, 3, h, w) in [0, 1], float32 → (B, 3, scale · h, scale · w), clamped to [0, 1], of any batch, height and width.
"""

import argparse
import inspect
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from srgan import weights
from srgan.data.sources import photo_splits
from srgan.errors import UserError
from srgan.images import decode, to_float
from srgan.models import checkpoints
from srgan.models.folding import fold
from srgan.models.generators import Generator

OPSET = 18  # of ONNX: the lowest that torch exports without a conversion, read by onnxruntime 1.14 and later
IR_VERSION = 8  # of ONNX, the one that belongs to this opset
AXES = {0: "batch", 2: "height", 3: "width"}  # that are dynamic
SIZES = ((37, 53), (64, 48), (5, 9))  # height and width of the photographs that an export is compared on
TOLERANCE = 1.0  # grey levels
DESCRIPTION = "srgan.json"  # an extra file in TorchScript's and torch.export's archives

Network = Callable[[Tensor], Tensor]
Description = dict[str, Any]  # `generator` and `about`, as in `checkpoints.describe`


class Clamped(nn.Module):
    """SR within [0, 1], which programs that show or store it take for granted."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, lr: Tensor) -> Tensor:
        return self.generator(lr).clamp(0, 1)


# --- formats ----------------------------------------------------------------------------------------------------------


def _save_safetensors(path: Path, generator: Generator, description: Description) -> None:
    checkpoints.save_weights(path, generator, description["generator"], description["about"])


def _save_onnx(path: Path, generator: Generator, description: Description) -> None:
    import onnx

    exported = torch.onnx.export(
        _program(generator),
        dynamic_shapes=(AXES,),
        input_names=["input"],
        output_names=["output"],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        del part.metadata_props[:]  # notes of the exporter, unknown to this IR version
    model.ir_version = IR_VERSION
    about = {"scale": str(generator.scale), "srgan": json.dumps(description)}
    onnx.helper.set_model_props(model, about)
    onnx.save_model(model, path)


def _load_onnx(path: Path) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda lr: torch.from_numpy(session.run(None, {"input": lr.numpy()})[0])


def _save_torchscript(path: Path, generator: Generator, description: Description) -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        _ignore_deprecation()
        traced = torch.jit.trace(Clamped(fold(generator)), _example())
        torch.jit.save(traced, buffer, _extra_files={DESCRIPTION: json.dumps(description)})
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w") as kept:
        for record in archive.infolist():
            if not record.filename.endswith(".debug_pkl"):  # where in this machine's folders the code came from
                kept.writestr(record, archive.read(record))


def _load_torchscript(path: Path) -> Network:
    with warnings.catch_warnings():
        _ignore_deprecation()
        return torch.jit.load(path)


def _ignore_deprecation() -> None:
    """TorchScript is deprecated, but it is what many programs load."""
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")


def _save_torch_export(path: Path, generator: Generator, description: Description) -> None:
    torch.export.save(_program(generator), path, extra_files={DESCRIPTION: json.dumps(description)})


def _load_torch_export(path: Path) -> Network:
    return torch.export.load(path).module()


def _program(generator: Generator) -> ExportedProgram:
    sizes = {axis: Dim(name) for axis, name in AXES.items()}
    program = torch.export.export(Clamped(fold(generator)), (_example(),), dynamic_shapes=(sizes,))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # names this machine's folders
    return program


def _example() -> Tensor:
    return torch.zeros(2, 3, 12, 10)


@dataclass(frozen=True)
class Format:
    """How a generator with its description is written to a file of this suffix, and how that file becomes a network."""

    suffix: str
    save: Callable[[Path, Generator, Description], None]
    load: Callable[[Path], Network]
    packages: tuple[str, ...] = ()


FORMATS = {
    "safetensors": Format(".safetensors", _save_safetensors, checkpoints.load),
    "onnx": Format(".onnx", _save_onnx, _load_onnx, ("onnx", "onnxruntime", "onnxscript")),
    "torchscript": Format(".pt", _save_torchscript, _load_torchscript),
    "torch_export": Format(".pt2", _save_torch_export, _load_torch_export),
}


# --- what is known of a generator -------------------------------------------------------------------------------------


def read(path: Path) -> tuple[Generator, Description]:
    """The generator of a checkpoint or of exported weights, with what is known of it."""
    if path.suffix == ".safetensors":
        return checkpoints.load(path), checkpoints.describe(path)
    checkpoint = checkpoints.read(path)
    generator = checkpoints.generator_of(checkpoint, path)
    node = dict(checkpoint["config"]["generator"])
    return generator, {"generator": node, "about": _about(checkpoint, path, generator, node)}


def _about(checkpoint: dict[str, Any], path: Path, generator: Generator, node: dict[str, Any]) -> dict[str, Any]:
    """How it was trained and how it scored, as far as the checkpoint and its run's folder tell; no paths."""
    config = checkpoint["config"]
    plan = cast(dict[str, int], checkpoint.get("phases", {}))
    step: int = checkpoint.get("global_step", 0)
    ends = dict(zip(plan, accumulate(plan.values()), strict=True))
    phase = next((name for name, end in ends.items() if step <= end), "")
    folder = path.resolve().parent.parent
    record, metrics = _json(folder / "run.json"), _json(folder / "metrics.json")
    data = config.get("data") or {}
    arguments = inspect.signature(type(generator)).bind(**{k: v for k, v in node.items() if not k.startswith("_")})
    arguments.apply_defaults()
    size = ", ".join(f"{value} {name}" for name, value in arguments.arguments.items() if name != "scale")
    loss = config["phases"][phase]["loss"]["weights"] if phase else {}
    known: dict[str, Any] = {
        "name": Path(config.get("name", "")).name,
        "scale": generator.scale,
        "architecture": f"{type(generator).__name__}, {size}",
        "weights": _count(generator),
        "phase": phase,
        "steps": {name: min(steps, max(0, step - ends[name] + steps)) for name, steps in plan.items()},
        "loss": {name: weight for name, weight in loss.items() if weight},
        "data": {"kind": str(data.get("_target_", "")).split(".")[-1]}
        | {key: data[key] for key in ("crop", "augment") if key in data},
        "git_commit": record.get("git_commit"),
        "versions": record.get("versions"),
    }
    if phase and metrics.get("steps") == plan and step == min(ends[phase], metrics["steps_done"]):
        known["figures"] = _figures(metrics, phase)
    return {name: value for name, value in known.items() if value}


def _figures(metrics: dict[str, Any], model: str) -> dict[str, Any]:
    """By benchmark the means under every protocol, of the model and of bicubic."""
    own, bicubic = (metrics["models"][name]["mean"] for name in (model, "bicubic"))
    return {metrics["benchmark"]: {"own": own, "bicubic": bicubic}}


def _measured(path: Path, checkpoint: str) -> dict[str, Any]:
    """The figures of a checkpoint in a metrics.json of `srgan.evaluate`. Raises UserError if they aren't there."""
    metrics = _json(path)
    if not metrics.get("models"):
        raise UserError(f"{path}: no metrics.json of srgan.evaluate")
    others = [name for name in metrics["models"] if name not in ("nearest", "bicubic")]
    model = checkpoint if checkpoint in others else others[0] if len(others) == 1 else None
    if model is None:
        raise UserError(f"{path}: has {', '.join(others) or 'no model'}, not {checkpoint}")
    return _figures(metrics, model)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a run that is moved, unfinished or damaged leaves that out
        return {}


def _count(generator: Generator) -> int:
    return sum(parameter.numel() for parameter in generator.parameters())


# --- export -----------------------------------------------------------------------------------------------------------


def mix(generator: Generator, description: Description, other: str, share: float) -> None:
    """Move each weight by `share` (−1…1) of its way to that of `other`: network interpolation (ESRGAN, §3.4).

    Between generators that started from the same weights, SR changes gradually, and what each does by itself (a grid,
    noise) fades first. A share below 0 goes away from `other`: from what training started with, a little further the
    way it went, which makes up for an average's lying nearer to the start than what it is of. What was measured of
    `generator` is dropped from `description`, and the other is named there.
    Raises UserError if `other` is another network or `share` is not within −1…1.
    """
    if not -1 <= share <= 1:
        raise UserError(f"--share {share}: expected 0 (all of CHECKPOINT) to 1 (all of OTHER), or down to -1 (away)")
    path = weights.find(other)
    theirs, known = read(path)
    if type(theirs) is not type(generator) or theirs.scale != generator.scale:
        pair = [f"{type(network).__name__} ×{network.scale}" for network in (theirs, generator)]
        raise UserError(f"{path}: {pair[0]} can't be mixed with {pair[1]}")
    checkpoints.check_fit(generator.state_dict(), theirs.state_dict(), path)
    with torch.no_grad():
        for value, target in zip(generator.state_dict().values(), theirs.state_dict().values(), strict=True):
            if value.is_floating_point():  # but for BN's counters
                value.lerp_(target, share)
    about: dict[str, Any] = description["about"]
    about.pop("figures", None)
    named = {k: v for k, v in known["about"].items() if k in ("phase", "steps", "loss", "data")}
    about["mixed_with"] = [*about.get("mixed_with", []), {"share": share} | named]


def export(generator: Generator, description: Description, kind: str, output: Path) -> float:
    """Write `output`, read it again, and compare. Nothing is left of an export that fails.

    Returns the largest difference to the generator, in grey levels. Raises UserError if it is above TOLERANCE.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".export-", dir=output.parent) as folder:
            written = Path(folder) / output.name
            FORMATS[kind].save(written, generator, description)
            found = difference(generator, FORMATS[kind].load(written), photographs())
            if not found <= TOLERANCE:  # NaN, too
                raise UserError(
                    f"{output}: the {kind} export differs from the original by {found:.3g} grey levels, more than"
                    f" {TOLERANCE:g}; it was removed"
                )
            written.replace(output)
    except OSError as error:
        raise UserError(f"{output}: can't be written ({error.strerror}); name another file by -o FILE") from error
    return found


@torch.inference_mode()
def difference(generator: Generator, exported: Network, images: Sequence[Tensor]) -> float:
    """The largest difference between the SR of both, clamped to [0, 1], in grey levels; NaN if one is not finite."""
    differences: list[Tensor] = []
    for lr in images:
        expected, found = generator(lr).clamp(0, 1), exported(lr).clamp(0, 1)
        if found.shape != expected.shape:
            raise UserError(f"the export makes {tuple(found.shape)} of {tuple(lr.shape)}, not {tuple(expected.shape)}")
        differences.append(255 * (found - expected).abs().max())
    return float(torch.stack(differences).max())


def photographs() -> list[Tensor]:
    """The middle of photographs of which none is trained on by default, each (1, 3, h, w) of another size."""
    splits = photo_splits()
    files = [(source, index) for source in (splits.test, splits.validation) for index in range(len(source))]
    cut: list[Tensor] = []
    for (source, index), (height, width) in zip(files, SIZES, strict=True):
        picture = decode(source.read(index), source.name(index))
        top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
        cut.append(to_float(picture[None, :, top : top + height, left : left + width]).contiguous())
    return cut


def export_file(
    checkpoint: str,
    kind: str,
    output: Path | None,
    force: bool,
    note: str | None,
    metrics: Sequence[Path],
    other: str | None,
    share: float | None,
) -> str:
    """Export as the command line says. Returns the lines to print."""
    suffix, packages = FORMATS[kind].suffix, FORMATS[kind].packages
    if output is not None and output.suffix != suffix:
        raise UserError(f"{output}: --format {kind} writes {suffix} files; name it {output.with_suffix(suffix).name}")
    if share is not None and other is None:
        raise UserError("--share is of another checkpoint; name it by --mix OTHER")
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UserError(f"--format {kind} needs {', '.join(missing)}: pip install 'srgan[onnx]'")
    path = weights.find(checkpoint)
    generator, description = read(path)
    if other is not None:
        mix(generator, description, other, 0.5 if share is None else share)
    about = description["about"]
    for file in metrics:
        about["figures"] = about.get("figures", {}) | _measured(file, checkpoint)
    if note is not None:
        about["note"] = note
    if output is None:
        run_name = "" if path.suffix == ".safetensors" else about.get("name")
        output = Path((f"{run_name}_{path.stem}" if run_name else path.stem) + suffix)
    if output.exists() and not force:
        raise UserError(f"{output} is there already; --force overwrites it, -o FILE names another")
    found = export(generator, description, kind, output)
    name, size = type(generator).__name__, output.stat().st_size / 2**20
    return (
        f"{output}: {name} ×{generator.scale}, {_count(generator):,} weights, {size:.2f} MiB\n"
        f"Loaded again, it differs from the original by at most {found:.2g} grey levels on {len(SIZES)} photographs."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m srgan.export",
        description="Write a trained generator as one file, load that again and compare it with the original. "
        "safetensors keeps it as it was trained; the others take RGB (B, 3, h, w) in [0, 1] of any size, and give SR "
        "clamped to [0, 1].",
        epilog="Example: python -m srgan.export outputs/NAME/TIME/checkpoints/best.ckpt --format onnx",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="of a run, exported weights (.safetensors), or the name of weights"
    )
    parser.add_argument(
        "--format", dest="kind", required=True, choices=list(FORMATS), help="onnx needs pip install 'srgan[onnx]'"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="default: in this folder, named after the run and its checkpoint",
    )
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--note", metavar="TEXT", help="goes with the export: what it was trained on, its terms")
    parser.add_argument(
        "--metrics",
        action="append",
        default=[],
        type=Path,
        metavar="JSON",
        help="of srgan.evaluate: its figures go with the export; may be given several times",
    )
    parser.add_argument(
        "--mix",
        dest="other",
        metavar="OTHER",
        help="average the weights with those of another checkpoint that started from the same ones, such as its "
        "content phase's: between the highest PSNR and the sharpest pictures",
    )
    parser.add_argument("--share", type=float, help="of OTHER, from 0 to 1 (default: 0.5); below 0: away from it")
    options = parser.parse_args(arguments)
    try:
        print(export_file(**vars(options)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
