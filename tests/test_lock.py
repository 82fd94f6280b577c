"""requirements.lock pins every dependency to a version that pyproject.toml allows, with hashes and no addresses."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_the_lock_is_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:/|@ |--(extra-)?index-url|--find-links", lock)
    entries = re.findall(r"^([\w.-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lock, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^[\w.-]+==", lock, re.MULTILINE)), "an entry without hashes"
    pinned = {canonicalize_name(name): version for name, version, _ in entries}
    asked = [Requirement(text) for texts in project["optional-dependencies"].values() for text in texts]
    for requirement in [*map(Requirement, project["dependencies"]), *asked]:
        if requirement.name != project["name"]:  # its own extras
            version = pinned.get(canonicalize_name(requirement.name))
            assert version and requirement.specifier.contains(version), f"{requirement}: {version}; run make lock"
