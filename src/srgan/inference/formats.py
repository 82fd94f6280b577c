"""Exports trained generators: writes a file, reads it back, and compares its results with the original's.

`safetensors` and `basicsr` hold the generator as trained. The other formats hold a folded network for inference: RGB
(B, 3, h, w) in [0, 1], float32 → (B, 3, scale · h, scale · w), clamped to [0, 1], of any batch, height and width.
"""

import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from srgan.data.sources import photo_splits
from srgan.errors import UserError
from srgan.images import decode, to_float
from srgan.models import basicsr, checkpoints
from srgan.models.folding import fold
from srgan.models.generators import Generator

OPSET = 18  # ONNX opset: the lowest that torch exports without conversion; onnxruntime reads it since 1.14
IR_VERSION = 8  # ONNX file version that belongs to this opset
DYNAMIC_AXES = {0: "batch", 2: "height", 3: "width"}
PHOTOGRAPH_SIZES = ((37, 53), (64, 48), (5, 9))  # (height, width) of the photographs used to compare exports
TOLERANCE = 1.0  # grey levels
DESCRIPTION_FILE = "srgan.json"  # an extra file in torch.export's archive

Network = Callable[[Tensor], Tensor]
Description = dict[str, Any]  # `generator` and `about`, as in `checkpoints.describe`


@dataclass(frozen=True)
class Format:
    """A file format: its suffix, a function that writes a generator with its description, one that reads a network.

    `packages` names the packages it needs beyond this one's dependencies.
    """

    suffix: str
    save: Callable[[Path, Generator, Description], None]
    load: Callable[[Path], Network]
    packages: tuple[str, ...] = ()

    def missing_packages(self) -> list[str]:
        return [package for package in self.packages if find_spec(package) is None]


class Clamped(nn.Module):
    """A generator whose SR is clamped to [0, 1], as programs that show or store it expect."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, lr: Tensor) -> Tensor:
        return self.generator(lr).clamp(0, 1)


def export(generator: Generator, description: Description, format_name: str, output: Path) -> float:
    """Write `output`, read it back, and compare. A failed export neither leaves nor changes a file.

    Returns the largest difference from the generator's SR in grey levels. Raises UserError if it exceeds TOLERANCE or
    if `output` can't be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".export-", dir=output.parent) as folder:
            written = Path(folder) / output.name
            FORMATS[format_name].save(written, generator, description)
            largest = largest_difference(generator, FORMATS[format_name].load(written), photographs())
            if not largest <= TOLERANCE:  # true for NaN as well
                raise UserError(
                    f"{output}: the {format_name} export differs from the original by {largest:.3g} grey levels, more"
                    f" than {TOLERANCE:g}; it was removed"
                )
            written.replace(output)
    except OSError as error:
        raise UserError(f"{output}: can't be written ({error.strerror}); name another file by -o FILE") from error
    return largest


@torch.inference_mode()
def largest_difference(generator: Generator, exported: Network, images: Sequence[Tensor]) -> float:
    """The largest difference between the two SR, clamped to [0, 1], in grey levels; NaN if a value isn't finite."""
    differences: list[Tensor] = []
    for lr in images:
        expected, sr = generator(lr).clamp(0, 1), exported(lr).clamp(0, 1)
        if sr.shape != expected.shape:
            raise UserError(f"the export makes {tuple(sr.shape)} of {tuple(lr.shape)}, not {tuple(expected.shape)}")
        differences.append(255 * (sr - expected).abs().max())
    return float(torch.stack(differences).max())


def photographs() -> list[Tensor]:
    """Central crops, (1, 3, h, w) of different sizes, of photographs that aren't used for training by default."""
    splits = photo_splits()
    files = [(source, index) for source in (splits.test, splits.validation) for index in range(len(source))]
    centres: list[Tensor] = []
    for (source, index), (height, width) in zip(files, PHOTOGRAPH_SIZES, strict=True):
        picture = decode(source.read(index), source.name(index))
        top, left = (picture.shape[-2] - height) // 2, (picture.shape[-1] - width) // 2
        centres.append(to_float(picture[None, :, top : top + height, left : left + width]).contiguous())
    return centres


# --- formats ----------------------------------------------------------------------------------------------------------


def _save_safetensors(path: Path, generator: Generator, description: Description) -> None:
    checkpoints.save_weights(path, generator, description["generator"], description["about"])


def _save_basicsr(path: Path, generator: Generator, description: Description) -> None:
    basicsr.save(path, generator)  # the format has no place for a description


def _save_onnx(path: Path, generator: Generator, description: Description) -> None:
    import onnx

    exported = torch.onnx.export(
        _program(generator),
        dynamic_shapes=(DYNAMIC_AXES,),
        input_names=["input"],
        output_names=["output"],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    graph = model.graph
    for element in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        del element.metadata_props[:]  # the exporter's notes, which this IR version doesn't know
    model.ir_version = IR_VERSION
    onnx.helper.set_model_props(model, {"scale": str(generator.scale), "srgan": json.dumps(description)})
    onnx.save_model(model, path)


def _load_onnx(path: Path) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda lr: torch.from_numpy(session.run(None, {"input": lr.numpy()})[0])


def _save_torch_export(path: Path, generator: Generator, description: Description) -> None:
    file = io.BytesIO()  # a full disk is then an OSError, not torch's own
    torch.export.save(_program(generator), file, extra_files={DESCRIPTION_FILE: json.dumps(description)})
    path.write_bytes(file.getvalue())


def _load_torch_export(path: Path) -> Network:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch 2.11 of its own reading
        return torch.export.load(path).module()


def _program(generator: Generator) -> ExportedProgram:
    """The folded generator as a graph, without this machine's file names, which torch stores in it."""
    sizes = {axis: Dim(name) for axis, name in DYNAMIC_AXES.items()}
    if generator.multiple > 1:  # torch.export refuses sizes that become 1 inside the network
        sizes |= {axis: Dim(DYNAMIC_AXES[axis], min=generator.multiple + 1) for axis in (2, 3)}
    example = torch.zeros(2, 3, 12, 10)
    program = torch.export.export(Clamped(fold(generator)), (example,), dynamic_shapes=(sizes,))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


FORMATS = {
    "safetensors": Format(".safetensors", _save_safetensors, checkpoints.load),
    "basicsr": Format(basicsr.SUFFIX, _save_basicsr, checkpoints.load),
    "onnx": Format(".onnx", _save_onnx, _load_onnx, ("onnx", "onnxruntime", "onnxscript")),
    "torch_export": Format(".pt2", _save_torch_export, _load_torch_export),
}
