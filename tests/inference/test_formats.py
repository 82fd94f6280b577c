"""Every format holds the generator, for every size; an export that differs leaves nothing."""

import json
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import srgan
from srgan.errors import UserError
from srgan.inference import formats
from srgan.inference.formats import FORMATS
from srgan.models import checkpoints
from srgan.models.generators import Compact, Generator, SRResNet

Kind = type[SRResNet | Compact]


def describe(generator: Generator) -> dict[str, Any]:
    node = {"_target_": f"srgan.models.generators.{type(generator).__name__}", "scale": 4, "channels": 32, "blocks": 1}
    return {"generator": node, "about": {"name": "faces", "loss": {"mse": 1.0}}}


@pytest.fixture(scope="module")
def generators(trained: Callable[..., Generator]) -> dict[Kind, Generator]:
    """Generators at ×4, with enough channels that torch's ONNX exporter folds no kernel by itself."""
    return {kind: trained(kind, 4, channels=32) for kind in (SRResNet, Compact)}


@pytest.fixture(scope="module")
def exported(generators: dict[Kind, Generator], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """exported(format, kind): the file, written once."""

    @cache
    def export(name: str, kind: Kind) -> Path:
        for package in FORMATS[name].packages:
            pytest.importorskip(package)
        output = tmp_path_factory.mktemp(name) / "new" / f"net{FORMATS[name].suffix}"
        assert formats.export(generators[kind], describe(generators[kind]), name, output) < 0.05
        assert [file.name for file in output.parent.iterdir()] == [output.name]
        return output

    return export


def description_in(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return checkpoints.describe(path)
    if path.suffix == ".onnx":
        import onnx

        return json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["srgan"])
    with zipfile.ZipFile(path) as archive:
        return json.loads(next(archive.read(name) for name in archive.namelist() if name.endswith("srgan.json")))


@torch.inference_mode()
@pytest.mark.parametrize("kind", [SRResNet, Compact])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "basicsr"])  # that one: models/test_basicsr.py
def test_an_export_gives_the_generators_sr_at_any_size(
    name: str, kind: Kind, generators: dict[Kind, Generator], exported: Callable[..., Path]
) -> None:
    generator, path = generators[kind], exported(name, kind)
    network = FORMATS[name].load(path)
    needs_clamping = False
    for shape in ((1, 3, 1, 1), (1, 3, 23, 9), (2, 3, 8, 31), (3, 3, 12, 10)):
        lr = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        expected, sr = generator(lr), network(lr)
        needs_clamping |= bool((expected != expected.clamp(0, 1)).any())
        if name != "safetensors":
            expected = expected.clamp(0, 1)
        assert sr.dtype == torch.float32
        torch.testing.assert_close(sr, expected, atol=1e-5, rtol=1e-5)
    assert needs_clamping
    assert description_in(path) == describe(generator)
    for place in (path.parent, Path(srgan.__file__).parent, Path(torch.__file__).parent):
        assert str(place).encode() not in path.read_bytes(), "names a folder of this machine"


@pytest.mark.parametrize("kind", [SRResNet, Compact])
def test_the_onnx_graph_is_convolutions_and_shuffles_in_one_file(kind: Kind, exported: Callable[..., Path]) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported("onnx", kind), load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    operators = Counter(node.op_type for node in model.graph.node)
    both = {"Conv": 7, "PRelu": 4, "Add": 3, "DepthToSpace": 2, "Clip": 1}
    only = {"Div": 1} if kind is SRResNet else {"Conv": 8, "DepthToSpace": 3, "Pad": 1}
    assert operators == both | only
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 18)}
    assert model.ir_version == 8
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert {entry.key: entry.value for entry in model.metadata_props}["scale"] == "4"
    (lr,), (sr,) = model.graph.input, model.graph.output
    sizes = [[size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in (lr, sr)]
    assert (lr.name, sr.name) == ("input", "output")
    assert sizes == [["batch", 3, "height", "width"], ["batch", 3, "4*height", "4*width"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sr: sr * 0.98, "grey levels, more than 1"),
        (lambda sr: sr * float("nan"), "differs from the original by nan"),
        (lambda sr: sr[..., :-1], "the export makes"),
    ],
)
def test_an_export_that_differs_is_an_error_and_leaves_nothing(
    change: Callable[[Tensor], Tensor],
    message: str,
    generators: dict[Kind, Generator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator, intact = generators[Compact], FORMATS["safetensors"]
    damaged = replace(intact, load=lambda path: lambda lr: change(intact.load(path)(lr)))
    monkeypatch.setitem(FORMATS, "safetensors", damaged)
    output = tmp_path / "new" / "net.safetensors"
    for before in ([], [b"mine"]):
        if before:
            output.write_bytes(before[0])
        with pytest.raises(UserError, match=message):
            formats.export(generator, describe(generator), "safetensors", output)
        assert [file.read_bytes() for file in output.parent.iterdir()] == before


def test_the_difference_is_that_of_the_worst_pixel_in_grey_levels(generators: dict[Kind, Generator]) -> None:
    generator = generators[Compact]

    def altered(lr: Tensor) -> Tensor:
        sr = generator(lr).clamp(0, 1)
        sr[0, 1, 2, 3] += 0.5 / 255 if sr[0, 1, 2, 3] < 0.5 else -0.5 / 255
        return sr

    images = formats.photographs()
    assert [tuple(image.shape) for image in images] == [(1, 3, 37, 53), (1, 3, 64, 48), (1, 3, 5, 9)]
    assert all(0 <= image.min() < image.max() <= 1 for image in images)
    assert formats.largest_difference(generator, altered, images) == pytest.approx(0.5, abs=1e-3)
    assert formats.largest_difference(generator, generator, images) == 0
