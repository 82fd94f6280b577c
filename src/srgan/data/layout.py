"""Tells from the names of folders and files which images are HR, which are LR, and which are upscaled.

Data sets are distributed in many layouts, such as `DIV2K_train_HR` with `DIV2K_train_LR_bicubic/X4/0001x4.png`,
`GTmod12` with `LRbicx4`, `SRF_4/target` with `SRF_4/data`, `image_SRF_4/img_001_SRF_4_HR.png` with `…_LR.png`. One set
of words covers all of them.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

# hr, lr: the name of a folder says so, or those of a pair of files.
# result: named after another file, as NAME_x4 after NAME; upscaled or downscaled.
# spare: another form of pictures whose HR is in a folder beside it; not used.
# plain: the names say nothing.
Role = Literal["hr", "lr", "result", "spare", "plain"]

HR_WORD = re.compile(r"hr(x?[2-9])?|hq|gt(mod\d+)?|highres")
LR_WORD = re.compile(
    r"(lr|lq)s?(bicubic|bic|bi|bd|dn|blur|unknown|mild|wild)?(x?[2-9])?|b[id]x[2-9]|bicx[2-9]|lowres"
    r"|down(sampled|scaled)|.*bicubic"
)
SCALE_WORD = re.compile(r"x([2-9])|([2-9])x|(?:srf|scale)([2-9])")
MAYBE_HR = {"target", "targets", "original", "originals", "high", "label", "labels"}  # beside a folder of LR
MAYBE_LR = {"input", "inputs", "low", "data"}  # beside a folder of HR
SUSPECTS = {"input", "inputs", "low"}  # may hold LR: not taken for HR in a benchmark unless a folder is clearly HR
FILLERS = {"image", "images", "img", "imgs", "train", "training", "val", "valid", "validation", "test", "sub"}
KINDS_OF_LR = {"unknown", "mild", "difficult", "wild"}  # DIV2K's

MULTISCALE = r"(?<=\d)T\d(?=\.[^.]+$)"  # what BasicSR puts behind a picture's name for smaller sizes: 0001T0.png

MOST_OF_A_NAME = 16  # files of which all pairs are looked at

# What data sets put behind a picture's name to tell HR from LR: x4, _4x, _LR, _HR, _LRBI, _bicubic, _LRBI_x4, x4m …
SUFFIX = re.compile(
    r"(?:[_.\- ]?(?:x\d+(?:[mdw]\d?)?|(?<![a-z])(?:[hl]r|lr[a-z]{2}|lr\d|lq|gt|bicubic))|[_.\- ]\dx)+$", re.IGNORECASE
)
RESULT = re.compile(r"(?:[_.\- ]?(?:x\d+|(?<![a-z])(?:lr|lr[a-z]{2}|lr\d|lq|bicubic))|[_.\- ]\dx)+$", re.IGNORECASE)
SCALE_SUFFIX = re.compile(r"x([2-9])$|[_.\- ]([2-9])x$", re.IGNORECASE)
HR_NAME = re.compile(r"(?:^|[_.\- ])(?:hr|gt|hq)(?:[_.\- ]?x\d)?$|^(?:hr|gt|hq)[_.\- ]|[_.\- ]x1$", re.IGNORECASE)
LR_NAME = re.compile(r"(?:^|[_.\- ])(?:lr|lq)(?:[a-z]{2}|x?\d)?(?:[_.\- ]?x\d)?$|^(?:lr|lq)[_.\- ]", re.IGNORECASE)
SCALE_IN_NAME = re.compile(r"[_\- ]SRF[_\- ]?([2-9])(?=[_.\- ]|$)", re.IGNORECASE)


def roles(paths: Sequence[str]) -> tuple[list[Role], dict[int, int]]:
    """The role of each image, by its relative path, and for each result the index of what it is named after.

    The deepest folder whose name indicates a role decides. In other folders the file names do: `…_HR` with
    `…_LR`, and results beside what they are named after (`NAME_x4` also in another folder than NAME).
    """
    by_folder: dict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        by_folder[path.rpartition("/")[0]].append(index)
    said = _folder_roles(by_folder)
    stems = [_stem(path) for path in paths]
    found: list[Role] = ["plain"] * len(paths)
    for folder, indices in by_folder.items():
        inside = {stems[index] for index in indices}
        role = said.get(folder, "plain")
        names: dict[str, Role] = _roles_by_name(inside) if role == "plain" else {}
        for index in indices:
            found[index] = names.get(stems[index], role)
    candidates = [index for index, role in enumerate(found) if role in ("hr", "plain")]
    originals = {stems[index]: index for index in reversed(candidates)}
    beside = {(paths[index].rpartition("/")[0], stems[index]): index for index in candidates}
    results: dict[int, int] = {}
    for index in candidates:
        if tail := RESULT.search(stems[index]):
            stem = stems[index][: tail.start()]
            original = beside.get((paths[index].rpartition("/")[0], stem))
            if original is None and re.fullmatch(r"(_x\d)+", tail[0]):  # as srgan.upscale names its results
                original = originals.get(stem)
            if original is not None:
                results[index] = original
    for index in results:
        found[index] = "result"
    return found, results


def scale_of(path: str) -> int | None:
    """The scale in a relative path: that of its last folder that names one, else `SRF_4` in the file's name."""
    folder, _, _ = path.rpartition("/")
    for name in reversed(folder.split("/")):
        if (scale := _folder_scale(name)) is not None:
            return scale
    found = SCALE_IN_NAME.search(_stem(path))
    return int(found[1]) if found else None


def hr_key(path: str) -> str:
    """The key that an HR image shares with its LR: its relative path without HR, scale and suffix."""
    return _key(path, HR_NAME)


def short_name(path: str) -> str:
    """A short name of an HR image: its key without the folders that say HR."""
    kept = [name for name in path.split("/")[:-1] if _folder_key(name) == name]
    return "/".join([*kept, hr_key(path.rpartition("/")[2]) or _stem(path)])


def lr_keys(path: str) -> list[str]:
    """The keys that an LR image may share with its HR, the likeliest first."""
    folder = path.rpartition("/")[0]
    stripped = SUFFIX.sub("", _stem(path))
    shorter = f"{folder}/{stripped}{Path(path).suffix}" if stripped else path
    return [_key(path, None), _key(path, LR_NAME), _key(shorter, LR_NAME)]


def named_as_lr(root: Path) -> bool:
    """True if a folder's own name, or its parent's for one called X4, says that it holds LR images."""
    names = root.absolute().parts[-2:] if root.name not in ("", ".", "..") else root.resolve().parts[-2:]
    name = names[0] if _only_scale(names[-1]) and len(names) == 2 else names[-1]
    words = [word for word in _words(name) if not SCALE_WORD.fullmatch(word) and word not in {*FILLERS, *KINDS_OF_LR}]
    return _folder_word(name) == "lr" and any(LR_WORD.fullmatch(word) for word in (words[0], words[-1]))


def is_suspect(folder: str) -> bool:
    """True for the name of a folder which often holds LR, or images of one scale, but doesn't say so."""
    return _only_scale(folder) or _maybe(folder, SUSPECTS)


def same_pictures(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of relative paths whose names say that they are one picture.

    The names are equal but for folders and suffixes, or one begins or ends with the other: `a`, `a_small`, `thumb_a`.
    Of a name that more than MOST_OF_A_NAME files have, as the frames of many videos, only neighbours are paired.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        stem = bare = _stem(path)
        for words in (SCALE_IN_NAME, HR_NAME, LR_NAME, SUFFIX):
            bare = words.sub("", bare)
        by_stem[(bare or stem).lower()].append(path)
    found: list[tuple[str, str]] = []
    for stem, same in by_stem.items():
        reach = len(same) if len(same) <= MOST_OF_A_NAME else 1
        found += [(path, other) for index, path in enumerate(same) for other in same[index + 1 : index + 1 + reach]]
        cuts = [match.span() for match in re.finditer(r"[_.\- ]", stem)]
        for shorter in {part for start, end in cuts for part in (stem[:start], stem[end:])} & by_stem.keys():
            found += itertools.product(same[:MOST_OF_A_NAME], by_stem[shorter][:MOST_OF_A_NAME])
    return found


def similar_names(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of relative paths that may be one picture: but for a first or a last word without digits they are called
    alike, as `hr1` and `lr1`, `1_high` and `1_low`. Of many such names the first two.
    """
    rests: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        stem = _stem(path).lower()
        for rest in {re.sub(r"^[a-z]+[_.\- (]*", "", stem), re.sub(r"[_.\- (]*[a-z]+\)?$", "", stem)}:
            if rest != stem and any(letter.isalnum() for letter in rest):
                rests[rest].append(path)
    return [(same[0], same[1]) for same in rests.values() if len(same) > 1]


def all_named_as_lr(paths: Sequence[str]) -> bool:
    """True if every file is named as LR images are: 0801x4, img_LR."""
    return bool(paths) and all(LR_NAME.search(_stem(path)) or SCALE_SUFFIX.search(_stem(path)) for path in paths)


# --- folders --------------------------------------------------------------------------------------------------------


def _folder_roles(folders: dict[str, list[int]]) -> dict[str, Role]:
    """The role of each folder with images, according to the deepest name on its path that indicates one."""
    children: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        path = PurePosixPath(folder)
        for below in (path, *path.parents):
            if below.name:
                children[str(below.parent)].add(below.name)
    own: dict[str, Role] = {}
    for parent, names in children.items():
        words: dict[str, Role | None] = {name: _folder_word(name) for name in names}
        maybe_hr = {name for name in names if words[name] is None and _maybe(name, MAYBE_HR)}
        maybe_lr = {name for name in names if words[name] is None and _maybe(name, MAYBE_LR)}
        scales = {name for name in names if words[name] is None and _only_scale(name)}
        has_hr, has_lr = "hr" in words.values(), "lr" in words.values()
        for name in names:
            role: Role | None = words[name]
            if name in maybe_hr:
                role = "spare" if has_hr else "hr" if has_lr or maybe_lr or scales else None
            elif name in scales or (name in maybe_lr and not has_lr):
                role = "lr" if has_hr or maybe_hr else None
            if role is not None:
                own[(parent + "/" if parent != "." else "") + name] = role
    found: dict[str, Role] = {}
    for folder in folders:
        path = PurePosixPath(folder)
        role = next((own[str(part)] for part in (path, *path.parents) if str(part) in own), None)
        if role is not None:
            found[folder] = role
    return found


@cache
def _words(name: str) -> tuple[str, ...]:
    """The words of a folder's name in lower case: `DIV2K_train_LR_bicubic` is div2k train lr bicubic."""
    name = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
    name = re.sub(r"(low|high)[_\- ]?res(olution)?(?![a-z])", r"\1res", name)
    name = re.sub(r"ground[_\- ]?truth", "gt", name)
    name = re.sub(r"(?<![a-z])(srf|scale)[_\- ]?(\d)", r"\1\2", name)
    return tuple(word for word in re.split(r"[^a-z0-9]+", name) if word)


@cache
def _folder_word(name: str) -> Literal["hr", "lr"] | None:
    """Whether a name indicates HR or LR; None for neither or both."""
    words = _words(name)
    hr = any(HR_WORD.fullmatch(word) for word in words)
    lr = any(LR_WORD.fullmatch(word) for word in words)
    if hr == lr:
        return None
    return "hr" if hr else "lr"


@cache
def _folder_scale(name: str) -> int | None:
    scales = [found for word in _words(name) if (found := SCALE_WORD.fullmatch(word))]
    if scales:
        return int(next(digit for digit in scales[-1].groups() if digit))
    ends = [word[-1] for word in _words(name) if LR_WORD.fullmatch(word) and word[-1].isdigit()]  # lrbicx4
    return int(ends[-1]) if ends else None


@cache
def _plain_words(name: str) -> set[str]:
    return {word for word in _words(name) if word not in FILLERS and not SCALE_WORD.fullmatch(word)}


def _maybe(name: str, known: set[str]) -> bool:
    words = _plain_words(name)
    return bool(words) and words <= known


def _only_scale(name: str) -> bool:
    """True for x4, X4_sub, SRF_4, image_SRF_4."""
    return _folder_scale(name) is not None and not _plain_words(name)


# --- files ----------------------------------------------------------------------------------------------------------


def _roles_by_name(stems: set[str]) -> dict[str, Role]:
    """The roles of the files of one folder, by their names alone: none unless the names make a layout.

    They do if a picture has both an HR and an LR file, or if all files are named as LR.
    """
    hr = {stem for stem in stems if HR_NAME.search(stem)}
    lr = {stem for stem in stems if LR_NAME.search(stem)}
    pairs = {hr_key(f"{stem}.") for stem in hr} & {key for stem in lr for key in lr_keys(f"{stem}.")}
    found: dict[str, Role] = {}
    if pairs:
        found.update({stem: "hr" if stem in hr else "spare" for stem in stems})
    if pairs or lr == stems:
        found.update(dict.fromkeys(lr - hr, "lr"))
    return found


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _key(path: str, said: re.Pattern[str] | None) -> str:
    folder, _, _ = path.rpartition("/")
    stem = SCALE_IN_NAME.sub("", said.sub("", _stem(path)) if said else _stem(path))
    kept = [_folder_key(name) for name in folder.split("/")]
    return "/".join(part for part in [*kept, stem] if part)


@cache
def _folder_key(name: str) -> str:
    """A folder's name without HR, LR and scale: `DIV2K_train_HR` and `DIV2K_train_LR_bicubic` are one."""
    plain = _folder_word(name) is None and not _only_scale(name)
    plain = plain and not _maybe(name, MAYBE_HR) and not _maybe(name, MAYBE_LR)
    if plain:
        return name
    return "_".join(
        word
        for word in _words(name)
        if not (HR_WORD.fullmatch(word) or LR_WORD.fullmatch(word) or SCALE_WORD.fullmatch(word))
        and word not in {*MAYBE_HR, *MAYBE_LR, *KINDS_OF_LR, "image", "images", "img", "imgs", "sub"}
    )
