"""Imports point one way, and only some parts know the frameworks."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import srgan

ROOT = Path(srgan.__file__).parent
FILES = sorted({*ROOT.rglob("*.py")} - {ROOT / "__init__.py", ROOT / "__main__.py"})

# From the ground up: a part imports from the layers below its own and from itself.
LAYERS: list[dict[str, set[str]]] = [
    {"errors": set(), "threads": set(), "imresize": set(), "images": set(), "machine": set(), "weights": set()},
    {"data": set(), "models": set(), "losses": {"models", "metrics"}, "metrics": set()},
    {"cli": set(), "config": {"cli", "runs"}, "inference": set(), "runs": set()},
    {"training": set(), "evaluation": set()},
    {"measure": set()},
    {command: set() for command in ("train", "evaluate", "report", "upscale", "serve", "export", "dashboard")},
    {"speed": set()},
]
GROUND = {"images": {"errors"}, "machine": {"errors"}, "weights": {"errors"}}  # what of the ground these may import
FRAMEWORKS = {
    "hydra": {"train", "evaluate", "speed", "config"},
    "omegaconf": {"train", "evaluate", "speed", "config"},
    "lightning": {"train", "training", "data.datamodule", "speed", "measure.trainer"},
    "wandb": {"train", "training", "dashboard"},
    "spandrel": {"evaluation.methods", "inference.spandrel_plugin"},
    "gradio": {"serve"},
    "fastapi": {"serve"},
    "huggingface_hub": {"inference.hub"},
    "pyvips": {"inference.pictures"},
    "wandb_workspaces": {"dashboard"},
    "plotly": {"runs.page"},
    "jinja2": {"runs.page"},
}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def within(name: str, parts: set[str]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def allowed(part: str) -> set[str]:
    """The parts of the package that a part may import."""
    layer = next(index for index, parts in enumerate(LAYERS) if part in parts)
    if layer == 0:
        return GROUND.get(part, set())
    return {part, *LAYERS[layer][part], *(below for parts in LAYERS[:layer] for below in parts)}


def test_imports_point_one_way() -> None:
    parts = {part for layer in LAYERS for part in layer}
    assert {module_name(file).split(".")[0] for file in FILES} == parts, "say in LAYERS where a new part belongs"
    for file in FILES:
        part = module_name(file).split(".")[0]
        inside = {name.removeprefix("srgan.") for name in imported(file) if name.startswith("srgan.")}
        wrong = {name for name in inside if name.split(".")[0] in parts and not within(name, allowed(part))}
        assert not wrong, f"{module_name(file)} imports {sorted(wrong)}"


def test_networks_losses_and_metrics_need_torch_alone() -> None:
    known = {
        "srgan",
        "numpy",
        "torch",
        "torchvision",
        "torchmetrics",
        "safetensors",
        "torch_fidelity",
        *sys.stdlib_module_names,
    }
    for file in FILES:
        part = module_name(file).split(".")[0]
        names = {name.split(".")[0] for name in imported(file)} if part in ("models", "losses", "metrics") else set()
        assert names <= known, f"{module_name(file)} imports {names - known}"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_only_some_parts_know_a_framework(framework: str) -> None:
    users = {module_name(file) for file in FILES if any(within(name, {framework}) for name in imported(file))}
    assert users, f"nothing imports {framework}: the rule is out of date"
    assert all(within(user, FRAMEWORKS[framework]) for user in users), users
