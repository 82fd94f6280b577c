"""What typed paths and patterns stand for."""

from pathlib import Path

import pytest

from srgan.errors import UserError
from srgan.files import expand, given, several


def test_brackets_in_names_of_folders_stand_for_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shoot [1]/a.png", "shoot [1]/b [2]/c.png", "shoot 1/d.png", "e1.png", "e2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for pattern, expected in (
        ("shoot [1]/*.png", ["shoot [1]/a.png"]),
        ("shoot [1]/**/*.png", ["shoot [1]/a.png", "shoot [1]/b [2]/c.png"]),
        ("shoot [1]/b [2]/?.png", ["shoot [1]/b [2]/c.png"]),
        ("shoot [1]/a.png", ["shoot [1]/a.png"]),
        ("*/d.png", ["shoot 1/d.png"]),
        ("e[13].png", ["e1.png"]),
        ("f*", []),
    ):
        assert expand(pattern) == expected
        assert expand(f"{tmp_path}/{pattern}") == [f"{tmp_path}/{path}" for path in expected]


def test_an_empty_path_is_refused_and_many_lines_are_shortened() -> None:
    for path in ("", "  ", None):
        with pytest.raises(UserError, match=r"^data\.root is empty; give data\.root=PATH"):
            given(path, "data.root")
    assert given("a", "key") == Path("a")
    assert several(["a"]) == "a" and several(["a", "b"]) == "\n  a\n  b"
    assert several([str(n) for n in range(12)]).endswith("\n  9\n  … and 2 more")
