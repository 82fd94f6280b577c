"""Imports point one way, and only some parts know the frameworks."""

import ast
import sys
from pathlib import Path

import pytest

import srgan

ROOT = Path(srgan.__file__).parent

# From the ground up: a part imports from the layers below its own and from itself.
LAYERS = [
    {"errors", "imresize"},
    {"files"},
    {"overrides", "threads", "pilresize", "images", "machine", "weights"},
    {"data", "models", "metrics"},
    {"losses"},
    {"cli", "inference", "runs"},
    {"config"},
    {"config_checks"},
    {"training", "evaluation"},
    {"measure"},
    {"train", "tune", "look", "check_data", "shard", "evaluate", "report", "upscale", "serve", "export", "dashboard"},
    {"speed", "leaderboard"},
]
CONFIGURED = {"train", "training.build", "look", "check_data", "shard", "evaluate", "speed", "config", "config_checks"}
FRAMEWORKS = {
    "hydra": CONFIGURED | {"tune", "overrides"},
    "omegaconf": CONFIGURED | {"leaderboard"},
    "lightning": {"train", "training", "data.datamodule", "speed", "measure.trainer"},
    "wandb": {"train", "training", "dashboard"},
    "spandrel": {"evaluation.methods", "inference.spandrel_plugin"},
    "gradio": {"serve"},
    "fastapi": {"serve"},
    "huggingface_hub": {"inference.hub"},
    "datasets": {"data.huggingface"},
    "litdata": {"data.shards"},
    "optuna": {"tune"},
    "pyvips": {"inference.pictures"},
    "wandb_workspaces": {"dashboard"},
    "plotly": {"runs.page"},
    "jinja2": {"runs.page"},
}


def imports_of(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{file}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.fixture(scope="module")
def files() -> dict[str, set[str]]:
    """The names that each module imports."""
    modules = sorted({*ROOT.rglob("*.py")} - {ROOT / "__init__.py", ROOT / "__main__.py"})
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): imports_of(file) for file in modules}


def within(name: str, parts: set[str]) -> bool:
    return any(name == part or name.startswith(part + ".") for part in parts)


def test_imports_point_one_way(files: dict[str, set[str]]) -> None:
    parts = {part for layer in LAYERS for part in layer}
    assert {module.split(".")[0] for module in files} == parts, "say in LAYERS where a new part belongs"
    for module, names in files.items():
        part = module.split(".")[0]
        layer = next(index for index, layer_parts in enumerate(LAYERS) if part in layer_parts)
        allowed = {part}.union(*LAYERS[:layer])
        inside = {name.removeprefix("srgan.") for name in names if name.startswith("srgan.")}
        of_parts = {name for name in inside if name.split(".")[0] in parts}
        wrong = {name for name in of_parts if not within(name, allowed)}
        assert not wrong, f"{module} imports {sorted(wrong)}"


def test_networks_losses_and_metrics_need_torch_alone(files: dict[str, set[str]]) -> None:
    known = {"srgan", "numpy", "torch", "torchvision", "torchmetrics", "safetensors", "torch_fidelity"}
    known |= sys.stdlib_module_names
    for module, names in files.items():
        unknown = {name.split(".")[0] for name in names} - known
        assert not (unknown and within(module, {"models", "losses", "metrics"})), f"{module} imports {unknown}"


def test_only_some_parts_know_a_framework(files: dict[str, set[str]]) -> None:
    for framework, allowed_users in FRAMEWORKS.items():
        users = {module for module, names in files.items() if any(within(name, {framework}) for name in names)}
        assert users, f"nothing imports {framework}: the rule is out of date"
        assert all(within(user, allowed_users) for user in users), (framework, users)
