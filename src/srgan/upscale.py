"""`python -m srgan.upscale`: upscale picture files."""
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH116 -- os.path doesn't raise for closed folders, as Path

import argparse
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from srgan import cli
from srgan import weights as packaged
from srgan.errors import UserError
from srgan.files import at_home, expand, given, is_hidden
from srgan.inference import pictures
from srgan.inference.tiles import TILE
from srgan.inference.upscaler import PRECISIONS, Upscaler, load_generator

WRITABLE = (*pictures.FORMATS, "jpeg", "tiff")  # suffixes
RESULT_STEM = re.compile(r"(.+)_x\d", re.DOTALL)  # a result's name without suffix: the original's name and the scale


class Job(NamedTuple):
    """A file to upscale and the file to write."""

    source: Path
    target: Path


class Plan(NamedTuple):
    """Which files to upscale.

    Attributes:
        jobs: the files to upscale.
        failures: one line for each input that can't be upscaled.
        results: inputs that are results of earlier runs and are left out.
        renamed: jobs whose results keep the whole file name, because several pictures differ only in suffix.
    """

    jobs: list[Job]
    failures: list[str]
    results: list[Path]
    renamed: list[Job]


class PictureFile(NamedTuple):
    """An input picture, and the subfolder of the output folder for its result."""

    path: Path
    subfolder: Path


def default_weights(scale: int) -> str:
    """The packaged weights for a scale: the sharp ones if there are any, otherwise those with the highest PSNR."""
    names = [name for name in (f"srgan_x{scale}", f"srresnet_x{scale}") if name in packaged.names()]
    if not names:
        raise UserError(f"no weights for scale {scale} come with the package ({', '.join(packaged.names()) or 'none'})")
    return names[0]


# --- which files ------------------------------------------------------------------------------------------------------


def make_plan(inputs: Sequence[str], output: Path | None, scale: int, suffix: str | None, recursive: bool) -> Plan:
    """Decide which files to upscale and where the results go.

    A picture counts as an earlier run's result and is left out if it is in an output folder inside the searched folder,
    or if it is called NAME_x4 and a picture NAME is among the inputs. In a search of subfolders, NAME must be in the
    same subfolder, or in one that an output folder repeats; between two inputs, anywhere.

    Args:
        inputs: files, folders (with `recursive` also their subfolders) and patterns.
        output: a folder or, for a single input, a file; None for the originals' folders.
        scale: used in the results' names.
        suffix: suffix of the results, without a dot; None for png, or for that of `output` if it is a file.

    Raises UserError if inputs and output contradict each other.
    """
    files: list[PictureFile] = []
    failures: list[str] = []
    inputs = [at_home(name) for name in inputs]
    for name in inputs:
        try:
            files += _find_pictures(name, recursive, failures)
        except UserError as error:
            failures.append(str(error))
    refused = {file.path: text for file in files if (text := pictures.refusal(file.path))}
    failures += refused.values()
    files = [file for file in files if file.path not in refused]  # which would only take part in the names
    file_name = output if output is not None and not os.path.isdir(output) and _is_file_name(output) else None
    if file_name and (len(inputs) > 1 or os.path.isdir(inputs[0]) or len(files) > 1):
        raise UserError(f"{output} is the name of one file; give a folder for several pictures")
    if file_name and suffix:
        raise UserError(f"-o {output} says the format already; leave out --format")
    names: dict[str, list[PictureFile]] = {}
    for file in files:
        for name in (file.path.stem, file.path.name):
            names.setdefault(name, []).append(file)
    results = [file.path for file in files if _is_result(file, names, None if file_name else output)]
    left_out = {*results}
    originals = [file for file in files if file.path not in left_out]
    targets, whole_names = _name_results(originals, file_name, output, f"_x{scale}.{suffix or 'png'}")
    jobs: dict[str, Job] = {}
    for file, target in zip(originals, targets, strict=True):
        earlier = jobs.setdefault(_same_file(os.path.abspath(target)), Job(file.path, target))
        if _same_file(os.path.realpath(target)) == _same_file(os.path.realpath(file.path)):
            del jobs[_same_file(os.path.abspath(target))]
            failures.append(f"{file.path}: would be overwritten by the result; give -o another name")
        elif os.path.abspath(earlier.source) != os.path.abspath(file.path):
            failures.append(f"{file.path}: would be written to {target}, as {earlier.source} is; use another folder")
    return Plan([*jobs.values()], failures, results, [job for job in jobs.values() if job.source in whole_names])


def _is_result(file: PictureFile, names: dict[str, list[PictureFile]], output: Path | None) -> bool:
    """True if a file is an earlier run's result. names: all pictures by name, with and without suffix."""
    match = RESULT_STEM.fullmatch(file.path.stem)
    for original in names.get(match[1], []) if match else []:
        inside, beside = file.subfolder.parts, original.subfolder.parts
        of_one_search = file.path.parents[len(inside)] == original.path.parents[len(beside)]
        if not of_one_search or inside == beside or inside[-len(beside) or len(inside) :] == beside:
            return True
    if output is None:
        return False
    folder, inside = Path(os.path.realpath(file.path.parent)), Path(os.path.realpath(output))
    searched = Path(os.path.realpath(file.path.parents[len(file.subfolder.parts)]))
    return inside != searched and inside.is_relative_to(searched) and folder.is_relative_to(inside)


def _name_results(
    files: Sequence[PictureFile], file_name: Path | None, output: Path | None, ending: str
) -> tuple[list[Path], set[Path]]:
    """The result file of each picture, and the pictures whose results keep the whole name, as a.jpg_x4.png.

    Those are pictures such as a.jpg and a.png, which would otherwise be written to the same file.
    """
    whole_names: set[Path] = set()
    while True:
        targets: list[Path] = []
        names: dict[str, set[str]] = {}  # result file → names of its pictures
        for path, subfolder in files:
            folder = path.parent if output is None else output / subfolder
            stem = path.name if path in whole_names else path.stem
            targets.append(file_name or folder / f"{stem}{ending}")
            names.setdefault(_same_file(targets[-1]), set()).add(path.name)
        clashing = {
            file.path for file, target in zip(files, targets, strict=True) if len(names[_same_file(target)]) > 1
        }
        clashing -= whole_names
        if not clashing:
            return targets, whole_names
        whole_names |= clashing


def _same_file(path: Path | str) -> str:
    """A key that two paths share if they are one file: on Windows and macOS whatever the case of their letters."""
    return str(path).casefold() if sys.platform in ("win32", "darwin") else str(path)


def _is_file_name(output: Path) -> bool:
    """True if the path names a picture file, False if a new folder. Raises UserError if it can be neither."""
    suffix = output.suffix.lower()
    if suffix.lstrip(".") in WRITABLE:
        return True
    if suffix in Image.registered_extensions() or suffix in pictures.UNREADABLE:
        raise UserError(f"{output}: can't write {suffix}; take {', '.join(pictures.FORMATS)}")
    if os.path.exists(output):
        raise UserError(f"{output}: neither a folder nor named as a picture ({', '.join(pictures.FORMATS)})")
    return False


def _find_pictures(name: str, recursive: bool, failures: list[str]) -> list[PictureFile]:
    """The pictures that a file, folder or pattern names. Raises UserError if there are none.

    Adds a line to `failures` for each subfolder that can't be read.
    """
    if not name.strip():
        raise UserError("an empty path was given (is a variable of the shell not set?); name a file or folder")
    try:
        is_folder = stat.S_ISDIR(os.stat(name).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"{name}: can't be read ({error.strerror})") from error
    else:
        return _pictures_in(Path(name), recursive, failures) if is_folder else [PictureFile(Path(name), Path())]
    matches = [Path(match) for match in expand(name)]
    if not matches:
        raise UserError(f"{name}: no such file or folder")
    files = {match: PictureFile(match, Path()) for match in matches if match.is_file()}
    empty: list[UserError] = []
    reported = len(failures)
    for folder in (match for match in matches if match.is_dir() and not is_hidden(match.name)):
        try:
            files = {file.path: file for file in _pictures_in(folder, recursive, failures)} | files
        except UserError as error:
            empty.append(error)
    closed = len(failures) > reported  # which is said already
    if not files and not closed:
        hidden = any(match.is_dir() for match in matches)
        found = "no pictures, only hidden folders or those of systems" if hidden else "no such file or folder"
        raise empty[0] if empty else UserError(f"{name}: {found}")
    return [*files.values()]


def _pictures_in(folder: Path, recursive: bool, failures: list[str]) -> list[PictureFile]:
    """The pictures in a folder, except hidden ones. Links to folders are followed, but no folder is visited twice."""

    def report(error: OSError) -> None:
        failures.append(f"{error.filename}: can't be read ({error.strerror})")

    known, failed = {*pictures.suffixes(), *pictures.UNREADABLE}, len(failures)
    files: list[PictureFile] = []
    searched, linked = Path(os.path.realpath(folder)), set[Path]()
    for parent, folders, names in os.walk(folder, onerror=report, followlinks=True):
        below = [name for name in sorted(folders) if recursive and not is_hidden(name)]
        folders[:] = [name for name in below if not _is_visited(Path(parent, name), searched, linked)]
        for path in (Path(parent, name) for name in sorted(names) if not is_hidden(name)):
            regular = os.path.isfile(path) or not os.path.exists(path)  # what can't be examined fails later, by name
            if path.suffix.lower() in known and regular:
                files.append(PictureFile(path, Path(parent).relative_to(folder)))
    if not files and len(failures) == failed:
        deeper = "" if recursive else "; --recursive looks in its folders, too"
        raise UserError(f"{folder}: no pictures (.jpg, .png, .tif and what else Pillow reads) in this folder{deeper}")
    return files


def _is_visited(folder: Path, searched: Path, linked: set[Path]) -> bool:
    """True for a link into the searched folder, or to what another link, noted in `linked`, leads to."""
    if not folder.is_symlink():
        return False
    real = Path(os.path.realpath(folder))
    visited = any(real.is_relative_to(other) or other.is_relative_to(real) for other in (searched, *linked))
    linked.add(real)
    return visited


# --- upscaling --------------------------------------------------------------------------------------------------------


def upscale_file(
    upscaler: Upscaler, job: Job, quality: int, max_megapixels: float, bar: "tqdm[Job] | None" = None
) -> None:
    """Upscale one file. Raises UserError if it can't be read or written, or if the result doesn't fit into memory."""

    def progress(done: int, total: int) -> None:
        if bar is not None and total > 1:
            bar.set_postfix_str(f"{job.source.name}: tile {done}/{total}")

    try:
        picture = pictures.read(job.source, max_megapixels)
        height, width, channels = picture.pixels.shape
        enlarged_shape = (height * upscaler.scale, width * upscaler.scale, channels)
        pictures.check_target(job.target, enlarged_shape, picture.pixels.dtype)  # before the work
        enlarged = upscaler.enlarge(picture.pixels, progress)
        pictures.write(picture._replace(pixels=enlarged), job.target, quality)
    except MemoryError as error:
        raise UserError(f"{job.source}: the enlarged picture doesn't fit into memory") from error


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def upscale(options: argparse.Namespace) -> int:
    """Upscale what the command line names and return the exit code. Raises UserError only before the first picture."""
    if options.weights is None:
        weights = default_weights(options.scale or 4)
    else:
        weights = str(given(options.weights, "--weights"))
    output = None if options.output is None else given(options.output, "--output")
    if not options.max_megapixels > 0:
        raise UserError(f"--max-megapixels {options.max_megapixels:g}: expected more than 0")
    upscaler = load_generator(weights, options.device, options.precision, options.tile)
    if options.scale not in (None, upscaler.scale):
        raise UserError(f"--scale {options.scale}, but the weights {weights} enlarge ×{upscaler.scale}")
    plan = make_plan(options.pictures, output, upscaler.scale, options.format, options.recursive)
    failed = done = skipped = 0
    written: dict[tuple[int, int], Path] = {}  # by device and inode, since some disks ignore the case of letters

    def fail(text: str) -> None:
        nonlocal failed
        failed += 1
        with tqdm.external_write_mode(sys.stderr):  # above the bar
            cli.fail(text)

    for failure in plan.failures:
        fail(failure)
    with tqdm(plan.jobs, unit="picture", disable=None, dynamic_ncols=True) as bar:
        try:
            for job in bar:
                try:
                    if job.target.exists():
                        if (first := written.get(_identity(job.target))) is not None:
                            fail(f"{job.source}: would be written to {job.target}, as {first} is; use another folder")
                            continue
                        if not options.overwrite:
                            skipped += 1
                            continue
                    upscale_file(upscaler, job, options.quality, options.max_megapixels, bar)
                    written[_identity(job.target)] = job.source
                    done += 1
                except UserError as error:
                    fail(str(error))
                except OSError as error:  # the target's name is too long or its folder isn't accessible
                    fail(f"{job.target}: can't be written ({error.strerror})")
                except Exception as error:  # even an error of this program doesn't stop the other pictures
                    fail(f"{job.source}: {type(error).__name__}: {error}")
        except KeyboardInterrupt:
            bar.close()
            counts = f"{done} done, {skipped} skipped, {failed} failed"
            again = "" if options.overwrite else "; the same command goes on"
            print(f"interrupted: {counts}{again}", file=sys.stderr)
            return cli.INTERRUPTED
    if plan.renamed:
        listed = ", ".join(f"{job.source} → {job.target.name}" for job in plan.renamed[:3])
        print(f"same name but for the suffix: {listed}{' …' * (len(plan.renamed) > 3)}")
    if plan.results:
        print(f"left out: {', '.join(map(str, plan.results[:3]))}{' …' * (len(plan.results) > 3)}, earlier results")
    exist = " (they exist; --overwrite replaces them)" if skipped else ""
    print(f"{done} done, {skipped} skipped{exist}, {failed} failed")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(
        "upscale",
        "Upscale pictures. EXIF orientation is applied; colour profile, transparency, grey and 16 bits are kept. "
        "Files that exist are skipped.",
        "holiday/ -o sharp/ --recursive",
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, folders, patterns")
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="a folder, or a file for one picture (default: NAME_x4.png)"
    )
    parser.add_argument(
        "-w",
        "--weights",
        metavar="WEIGHTS",
        help=f"a checkpoint, exported weights, a BasicSR .pth, or one of: {', '.join(packaged.names()) or 'none'}",
    )
    parser.add_argument("-s", "--scale", type=int, metavar="N", help="choose the weights by their scale (default: 4)")
    parser.add_argument("-f", "--format", choices=WRITABLE, help="format of the results (default: png)")
    parser.add_argument(
        "-q", "--quality", type=int, default=95, choices=range(1, 101), metavar="1-100", help="quality of jpg and webp"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="also search subfolders")
    parser.add_argument("--overwrite", action="store_true", help="overwrite results that exist")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: auto)")
    parser.add_argument("--precision", default="auto", choices=["auto", *PRECISIONS], help="(default: auto)")
    parser.add_argument(
        "--tile",
        type=int,
        default=TILE,
        metavar="N",
        help=f"side of the largest square computed at once ({TILE} pixels)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=pictures.MAX_MEGAPIXELS,
        metavar="N",
        help="largest picture that is read (default: %(default)g)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    cli.run(lambda: upscale(options))


if __name__ == "__main__":
    main()
