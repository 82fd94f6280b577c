"""Prepares the command line for Hydra: quotes values of paths and names, so that they are read as the text typed.

Otherwise Hydra reads `data.root=2024_01_05` as a number, and refuses `data.root=a=b`, `data.root='x (1)'` or
`data.root=josé`.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from hydra.core.override_parser.types import Quote, QuotedString

from srgan.errors import UserError
from srgan.files import at_home

PATHS = (  # keys (fnmatch patterns) of files and folders, in which ~ is the home folder
    *("init_from", "ckpt_path", "vgg", "run_dir", "discriminator.weights", "*.content.*.weights"),
    *("data.root", "data.validation_root", "data.hr", "data.lr", "data.validation_hr", "data.validation_lr"),
    *("data.path", "benchmark.root", "benchmark.hr", "benchmark.lr", "callbacks.*.folder", "logger.*.folder"),
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir"),
    *("logger.*.save_dir", "trainer.default_root_dir", "table"),
)
NAMES = (  # keys of other free text
    *("name", "data.column", "data.revision", "benchmark.name", "callbacks.*.monitor", "hydra.job.name"),
    "logger.*.prefix",
    *(f"logger.wandb.{key}" for key in ("project", "name", "group", "id", "entity")),
)
PATH_LISTS = ("models",)  # keys of a text, or of [lists] or {mappings} of texts
NAME_LISTS = ("logger.wandb.tags", "hydra.searchpath", "about")

_OVERRIDE = re.compile(r"(\+{0,2}([\w.$/-]+)(?:@[\w.$/-]*)?=)(.*)", re.DOTALL)
_PLAIN = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_/][\w./:@+-]*", re.ASCII | re.IGNORECASE)  # reads as itself
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_PAIR = re.compile(r"((?:\\.|'[^']*'|\"[^\"]*\"|[^:\\])*):(.*)", re.DOTALL)  # of a mapping
_NO_TEXT = re.compile(r"[+-]?(?:[\d_.]+(?:e[+-]?[\d_]+)?|inf|nan)|null|true|false", re.IGNORECASE)
_SWEEP = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag)\((.*)\)", re.DOTALL)
_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")  # escapes that Hydra's grammar allows in unquoted text


def with_quoted_text(arguments: Sequence[str], groups: Sequence[str] = ()) -> list[str]:
    """Quote the values of paths and names in a command's arguments if Hydra would otherwise misread them.

    Raises UserError for a mapping of such texts with the same key twice, of which Hydra would keep one.
    `groups`: the configuration's groups, whose options are names too. `null`, quoted values, `${…}` and, in a
    sweep, commas and functions such as `choice(…)` keep their meaning.
    """
    multirun = is_multirun(arguments)
    return [_with_quoted_text(argument, groups, multirun) for argument in arguments]


def names_a_path(key: str) -> bool:
    """True for a key whose value may be the path of a file or folder."""
    return _matches(key, PATHS)


def is_multirun(arguments: Sequence[str]) -> bool:
    """True for a command that starts a sweep."""
    return any(argument in ("-m", "--multirun", "hydra.mode=MULTIRUN") for argument in arguments)


def quoted(text: str) -> str:
    """Quote a text so that Hydra reads exactly this text."""
    return text if _PLAIN.fullmatch(text) else QuotedString(text, Quote.double).with_quotes()


def _with_quoted_text(argument: str, groups: Sequence[str], multirun: bool) -> str:
    override = _OVERRIDE.fullmatch(argument)
    if override is None:
        return argument
    start, key, value = override.groups()
    is_path = _matches(key, PATHS + PATH_LISTS)
    is_list = _matches(key, PATH_LISTS + NAME_LISTS) or key.lstrip("/") in groups
    if not (is_path or is_list or _matches(key, NAMES)):
        return argument
    parts = _split(value) if multirun or is_list else [value]
    return start + ",".join(_element(part, is_path, is_list, multirun) for part in parts)


def _element(value: str, is_path: bool, is_list: bool, multirun: bool) -> str:
    """One value, quoted if Hydra wouldn't read it as this text."""
    stripped = value.strip()
    if not stripped or stripped.lower() == "null" or _QUOTED.fullmatch(stripped):
        return stripped
    if is_list and stripped[0] == "[" and stripped[-1] == "]":
        parts = [_element(part, is_path, is_list, multirun) for part in _split(stripped[1:-1])]
        return f"[{','.join(parts)}]"
    if is_list and stripped[0] == "{" and stripped[-1] == "}":
        pairs = [_PAIR.fullmatch(part) for part in _split(stripped[1:-1])]
        if None in pairs:
            return stripped  # Hydra says what is wrong
        keys = [_key(pair[1]).strip("\\ ") for pair in pairs if pair]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise UserError(f"{stripped}: {twice[0]} stands there twice; give each another name")
        texts = [f"{_key(pair[1])}:{_element(pair[2], is_path, is_list, multirun)}" for pair in pairs if pair]
        return f"{{{','.join(texts)}}}"
    if multirun and (sweep := _SWEEP.fullmatch(stripped)):
        if sweep[1] != "choice":
            return stripped
        return ",".join(_element(part, is_path, is_list, multirun) for part in _split(sweep[2]))  # the same, shorter
    text = _ESCAPED.sub(r"\1", stripped if is_list or multirun else value)
    return quoted(at_home(text) if is_path else text)


def _key(key: str) -> str:
    r"""The key of a mapping, so that Hydra reads it as text: of `2024` or `1e3`, `\ 2024` with a space before it.

    Hydra doesn't take keys in quotes. Whoever reads such a mapping strips its keys of spaces.
    """
    key = key.strip()
    if _QUOTED.fullmatch(key):
        key = re.sub(r"[\\()\[\]{}:=, \t]", r"\\\g<0>", key[1:-1])
    return rf"\ {key}" if _NO_TEXT.fullmatch(key) else key


def _split(text: str) -> list[str]:
    """Split at the commas that are neither escaped nor within quotes, brackets, braces or parentheses."""
    parts: list[str] = []
    start, depth, position = 0, 0, 0
    while position < len(text):
        begins = text[:position].rstrip()[-1:] in ",:[{("  # or "": what comes is the first of an element
        literal = _QUOTED.match(text, position) if begins else None
        character = text[position]
        if literal:
            position = literal.end()
            continue
        if character == "\\":
            position += 1
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append(text[start:position])
            start = position + 1
        position += 1
    return [*parts, text[start:]]


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
