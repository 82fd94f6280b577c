"""Paths and names on the command line are text as typed, whatever Hydra would make of them."""

import inspect
import shlex
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import OmegaConf

from srgan import config, config_checks, look, overrides

HOME = str(Path.home())


def read(*arguments: str) -> Any:
    """What Hydra reads of the last argument: its value, or the values of a sweep."""
    override = OverridesParser.create().parse_override(overrides.with_quoted_text(arguments, ["content"])[-1])
    if not override.is_sweep_override():
        return override.value()
    return [read(f"{override.key_or_group}={value}") for value in override.sweep_string_iterator()]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "2024_01_05",
            "007",
            "1e3",
            ".5",
            "-inf",
            "true",
            "a=b",
            "x (1)",
            "josé",
            "it's",
            'a "b"',
            "[1",
            "[1,2]",
            "{a}",
        ),
        *(
            "a, b",
            " b ",
            "a:'b'",
            "C:\\x\\",
            "~no_such_user/x",
            "choice",
            "(",
            "caf\udce9",
            "x\ty",
            "x\ny",
            "${name}/x",
            "y",
        ),
    ],
)
def test_text_stays_as_it_was_typed_alone_in_sweeps_and_in_lists(text: str) -> None:
    for key in ("data.root", "+data.root", "name", "hydra.run.dir", "init_from", "callbacks.samples.folder"):
        assert read(f"{key}={text}") == text
    assert read(*shlex.split(config.as_override("ckpt_path", text))) == text
    if not set(text) & set(",[{\\") and text != "(" and text == text.strip():
        assert read("-m", f"name={text},x") == read("-m", f"name=choice({text},x)") == [text, "x"]
        assert read(f"models=[{text},{{net: {text}}}]") == [text, {"net": text}]


def test_what_has_a_meaning_keeps_it() -> None:
    assert [read(f"init_from={value}") for value in ("null", "NULL", "'null'", '"1"', "", r"a\=b\ c")] == (
        [None, None, "null", "1", "", "a=b c"]
    )
    assert [read(f"data.root={path}") for path in ("~", "~/a b", "a~")] == [HOME, f"{HOME}/a b", "a~"]
    assert read("models=[~/a,'b, c',null,{x: ~/1e3}]") == [f"{HOME}/a", "b, c", None, {"x": f"{HOME}/1e3"}]
    assert read("content=[l1,vgg54]") == ["l1", "vgg54"] and read("batch_size=1_6") == 16
    assert read("-m", "name='a,b',1_0,\"c\"") == ["a,b", "1_0", "c"]
    assert read("phases.gan.optimizer.lr=1e3") == 1000.0 and read("name=~") == "~"


NUMBERS_TO_HYDRA = (
    *("2024", "1e3", "007", "0o17", "0x1F", "1_000", "2024_01_05", "2024-01-05", "12:30", "12:30:00"),
    *("+5", "-.5", "1.", "inf", "NaN", "true", "Off", "No", "null"),
)


def test_what_looks_like_a_number_a_date_or_a_time_is_text_wherever_a_path_or_name_stands() -> None:
    for text in NUMBERS_TO_HYDRA:
        if text != "null":
            for key in (
                "init_from",
                "ckpt_path",
                "benchmark.root",
                "hydra.sweep.dir",
                "table",
                "name",
                "data.revision",
            ):
                assert read(f"{key}={text}") == text and read("-m", f"{key}={text},x") == [text, "x"]
            for key in ("logger.wandb.project", "logger.wandb.group", "logger.wandb.id", "benchmark.name"):
                assert read(f"{key}={text}") == text
            for key in ("logger.wandb.tags", "models"):
                assert read(f"{key}=[{text},a]") == [text, "a"]
        key = text.replace(":", r"\:")
        for mapping in (f"{{{key}: {key},a: b}}", f"{{\"{text}\": '{text}',a: b}}", f"{{ {key} :{key}, a:b }}"):
            ((name, value), last) = read(f"models={mapping}").items()
            assert (name.strip(), value, last) == (
                text,
                None if text == "null" and "'" not in mapping else text,
                ("a", "b"),
            )


def test_a_run_named_null_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(look.__file__), "name=null"])
    with pytest.raises(SystemExit):
        look.main()
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "name=null" in said and said.count("\n") == 1


CHOICES = (
    "activation",
    "upsampler",
    "accelerator",
    "strategy",
    "devices",
    "precision",
    "profiler",
    "max_time",
    "net",
    "resume",
)
NUMBERS = ("val_check_interval", "balance", "weights", "layers", "content")  # which may hold text as well


def test_every_option_that_is_free_text_is_known() -> None:
    texts = (*overrides.PATHS, *overrides.NAMES, *overrides.PATH_LISTS, *overrides.NAME_LISTS)
    found: set[str] = set()
    for file in config.CONF.rglob("*.yaml"):
        loaded = OmegaConf.load(file)
        group = "" if file.parent == config.CONF or "# @package _global_" in file.read_text() else file.parent.name
        for path, node in config_checks.targets(loaded):
            parameters = inspect.signature(get_object(node["_target_"])).parameters
            keys = {str(key) for key in node if key in parameters and "str" in str(parameters[str(key)].annotation)}
            for key in keys.difference(CHOICES, NUMBERS if "Phase" not in node["_target_"] else parameters):
                found.add(".".join(part for part in (group, path, key) if part))
    found |= {key for key, kind in config.TrainConfig.__annotations__.items() if kind in (str, str | None)}
    found -= {"lpips"}
    assert {"data.validation_root", "logger.wandb.entity", "init_from"} <= found
    assert not [key for key in found if not any(fnmatchcase(key, pattern) for pattern in texts)]


def test_a_command_takes_folders_of_any_name(
    photos: Path, tmp_path: Path, run_main: Callable[..., tuple[int, str]]
) -> None:
    folders = ["2024_01_05", "x (1)", "a=b"]
    for folder in folders:
        (tmp_path / folder).symlink_to(photos)
    shared = ["data=folder", "data.crop=32", "pairs=1", "name=1e3"]
    for arguments, results in (
        ([f"data.root={folders[0]}", "hydra.run.dir=2025_01_05"], ["2025_01_05"]),
        ([f"data.root={','.join(folders)}", "hydra.sweep.dir=1e3", "-m"], ["1e3/0", "1e3/1", "1e3/2"]),
    ):
        assert run_main(look, *shared, *arguments)[0] == 0
        assert all((tmp_path / result / "sheet.png").is_file() for result in results)
        assert sys.argv[1:] == [*shared, *arguments]
    for argument, said in (
        ("data.crop=a=b", """data.crop=a=b: Hydra can't read this value; as text it is 'data.crop="a=b"'"""),
        ("scale", "scale: expected KEY=VALUE, without spaces around ="),
        ("data.root=${nokey}", "data.root: Interpolation key 'nokey' not found"),
    ):
        assert f"error: {said}\n" in run_main(look, *shared, argument)[1]
