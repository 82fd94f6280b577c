"""Imports point one way, and only some parts know the frameworks."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import srgan

ROOT = Path(srgan.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

ENTRY_POINTS = {"train", "evaluate", "speed"}

# What each part of the package may import of the package; ENTRY_POINTS may import everything.
ALLOWED = {
    "errors": set(),
    "images": {"errors"},
    "data.resize": set(),
    "data": {"data", "images", "errors"},
    "models": {"models", "data.resize", "errors"},
    "losses": {"losses", "errors"},
    "metrics": {"metrics", "images", "data.resize", "errors"},
    "machine": {"errors"},
    "training": {"training", "data", "models", "losses", "metrics", "images", "machine", "tiles", "errors"},
    "config": {"errors"},
    "measure": {
        "measure",
        "training",
        "data",
        "models",
        "losses",
        "metrics",
        "images",
        "machine",
        "upscaler",
        "errors",
    },
    "checkpoints": {"models", "errors"},
    "provenance": set(),
    "tiles": {"models"},
    "pictures": {"errors"},
    "weights": {"errors"},
    "upscaler": {"checkpoints", "pictures", "weights", "tiles", "machine", "data.resize", "models", "errors"},
    "upscale": {"upscaler", "pictures", "tiles", "weights", "errors"},
    "hub": {"checkpoints", "weights", "errors"},
    "export": {"checkpoints", "weights", "models", "images", "data.sources", "provenance", "runs", "errors"},
    "serve": {"upscaler", "pictures", "weights", "errors"},
    "spandrel_plugin": {"models", "errors"},
    "__init__": {"upscaler"},
    "evaluation": {
        *("evaluation", "checkpoints", "weights", "spandrel_plugin", "tiles"),
        *("data", "models", "metrics", "images", "errors"),
    },
    "runs": {"errors"},
    "report": {"runs", "errors"},
    "dashboard": {"training.loggers", "errors"},
}
FRAMEWORKS = {
    "hydra": {"train", "evaluate", "speed", "config"},
    "omegaconf": {"train", "evaluate", "speed", "config"},
    "lightning": {"train", "training", "data.datamodule", "speed", "measure.trainer"},
    "wandb": {"train", "training", "dashboard"},
    "spandrel": {"evaluation.methods", "spandrel_plugin"},
    "gradio": {"serve"},
    "fastapi": {"serve"},
    "huggingface_hub": {"hub"},
    "pyvips": {"pictures"},
    "wandb_workspaces": {"dashboard"},
    "plotly": {"report"},
    "jinja2": {"report"},
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


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_one_way(file: Path) -> None:
    name = module_name(file)
    rule = ALLOWED.get(name, ALLOWED.get(name.split(".")[0]))
    if rule is None:
        assert name in ENTRY_POINTS, f"{name}: say in ALLOWED what it may import"
        return
    inside = {module.removeprefix("srgan.") for module in imported(file) if module.startswith("srgan.")}
    assert all(within(module, rule) for module in inside), inside


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_only_some_parts_know_a_framework(framework: str) -> None:
    users = {module_name(file) for file in FILES if any(within(module, {framework}) for module in imported(file))}
    assert users, f"nothing imports {framework}: the rule is out of date"
    assert all(within(user, FRAMEWORKS[framework]) for user in users), users
