"""Every format holds the generator, for every size; an export that differs leaves nothing."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import srgan
from srgan.errors import UserError
from srgan.inference import formats
from srgan.inference.formats import FORMATS
from srgan.models import checkpoints
from srgan.models.generators import Compact, Generator, SRResNet

Kind = type[SRResNet | Compact]


def describe(kind: Kind) -> dict[str, Any]:
    node = {"_target_": f"srgan.models.generators.{kind.__name__}", "scale": 4, "channels": 32, "blocks": 1}
    return {"generator": node, "about": {"name": "faces", "loss": {"mse": 1.0}}}


@pytest.fixture(scope="module")
def exported(trained: Callable[..., Generator], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """exported(format, kind): a generator at ×4 and its file, written once."""

    @cache
    def export(name: str, kind: Kind) -> tuple[Generator, Path]:
        for package in FORMATS[name].packages:
            pytest.importorskip(package)
        generator = trained(kind, 4, channels=32)  # enough that torch's ONNX exporter folds no kernel by itself
        output = tmp_path_factory.mktemp(name) / "new" / f"net{FORMATS[name].suffix}"
        assert formats.export(generator, describe(kind), name, output) < 0.05
        assert [file.name for file in output.parent.iterdir()] == [output.name]
        return generator, output

    return export


@torch.inference_mode()
@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "basicsr"])  # see tests/models/test_basicsr.py
def test_an_export_gives_the_generators_sr_at_any_size(name: str, kind: Kind, exported: Callable[..., Any]) -> None:
    generator, path = exported(name, kind)
    network = FORMATS[name].load(path)
    for shape in ((3, 3, 12, 10), (1, 3, 1, 1), (1, 3, 23, 9), (2, 3, 8, 31)):
        lr = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        unclamped, sr = generator(lr), network(lr)
        expected = unclamped if name == "safetensors" else unclamped.clamp(0, 1)
        assert sr.dtype == torch.float32
        torch.testing.assert_close(sr, expected, atol=1e-5, rtol=1e-5)
    assert (unclamped != unclamped.clamp(0, 1)).any()
    for place in (path.parent, Path(srgan.__file__).parent, Path(torch.__file__).parent):
        assert str(place).encode() not in path.read_bytes(), "names a folder of this machine"
    if name == "safetensors":
        assert checkpoints.describe(path) == describe(kind)
    if name == "torch_export":
        extra = {"srgan.json": ""}
        torch.export.load(path, extra_files=extra)
        assert json.loads(extra["srgan.json"]) == describe(kind)


@pytest.mark.parametrize("kind", [SRResNet, Compact])
def test_the_onnx_graph_is_convolutions_and_shuffles_in_one_file(kind: Kind, exported: Callable[..., Any]) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("onnx", kind)[1], load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    operators = Counter(node.op_type for node in model.graph.node)
    both = {"Conv": 7, "PRelu": 4, "Add": 3, "DepthToSpace": 2, "Clip": 1}
    assert operators == both | ({"Div": 1} if kind is SRResNet else {"Conv": 8, "DepthToSpace": 3, "Pad": 1})
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    notes = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert (notes["scale"], notes["srgan"]) == (4, describe(kind))
    (lr,), (sr,) = model.graph.input, model.graph.output
    sizes = [[size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in (lr, sr)]
    assert (lr.name, sr.name) == ("input", "output")
    assert sizes == [["batch", 3, "height", "width"], ["batch", 3, "4*height", "4*width"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sr: sr - 2 / 255 * (torch.arange(sr.shape[-1]) == 3), "by 2 grey levels, more than 1"),
        (lambda sr: sr * float("nan"), "differs from the original by nan"),
        (lambda sr: sr[..., :-1], "the export makes"),
    ],
)
def test_an_export_that_differs_leaves_nothing(change: Any, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    generator, output = Compact(4, channels=32, blocks=1), tmp_path / "net.safetensors"
    damaged = replace(FORMATS["safetensors"], load=lambda path: lambda lr: change(generator(lr)))
    monkeypatch.setitem(FORMATS, "safetensors", damaged)
    for before in ([], [b"mine"]):
        for content in before:
            output.write_bytes(content)
        with pytest.raises(UserError, match=message):
            formats.export(generator, describe(Compact), "safetensors", output)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == before
