"""`python -m srgan.upscale`: upscale picture files."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from srgan import cli
from srgan import weights as packaged
from srgan.errors import UserError
from srgan.files import expand, is_hidden
from srgan.inference import pictures
from srgan.inference.tiles import TILE
from srgan.inference.upscaler import PRECISIONS, Upscaler, load_generator

WRITABLE = (*pictures.FORMATS, "jpeg", "tiff")  # suffixes
RESULT_STEM = re.compile(r"(.+)_x\d")  # name of a result without suffix: that of its original and the scale


class Job(NamedTuple):
    """A file to upscale and the file to write."""

    source: Path
    target: Path


class Plan(NamedTuple):
    """The jobs, a line for each input that can't be done, and the results of earlier runs among the inputs."""

    jobs: list[Job]
    failures: list[str]
    results: list[Path]


class PictureFile(NamedTuple):
    """A picture that was asked for, and the folder below the output folder into which its result goes."""

    path: Path
    subfolder: Path


def default_weights(scale: int) -> str:
    """The packaged weights for a scale: sharp ones before those with the highest PSNR."""
    names = [name for name in (f"srgan_x{scale}", f"srresnet_x{scale}") if name in packaged.names()]
    if not names:
        raise UserError(f"no weights for scale {scale} come with the package ({', '.join(packaged.names()) or 'none'})")
    return names[0]


# --- which files ------------------------------------------------------------------------------------------------------


def make_plan(inputs: Sequence[str], output: Path | None, scale: int, suffix: str | None, recursive: bool) -> Plan:
    """Decide which files are upscaled and where the results go.

    Args:
        inputs: files, folders (the pictures in them, with `recursive` also those in their folders) and patterns. A
            file is taken for an earlier run's result, and left out, if its original is there, too.
        output: a folder, or for a single file also a file name; None writes beside the originals.
        scale: part of the names of results.
        suffix: suffix of the files to write, without a dot; None is png, or what a single file's name says.

    Raises UserError if inputs and output contradict each other.
    """
    files: list[PictureFile] = []
    failures: list[str] = []
    for name in inputs:
        try:
            files += _find_pictures(name, recursive)
        except UserError as error:
            failures.append(str(error))
    file_name = output if output is not None and not output.is_dir() and _is_file_name(output) else None
    if file_name and (len(inputs) > 1 or Path(inputs[0]).is_dir() or len(files) > 1):
        raise UserError(f"{output} is the name of one file; give a folder for several pictures")
    if file_name and suffix:
        raise UserError(f"-o {output} says the format already; leave out --format")
    originals = {(file.path.parent.resolve(), file.path.stem) for file in files}
    jobs: dict[Path, Job] = {}
    results: list[Path] = []
    for source, subfolder in files:
        match = RESULT_STEM.fullmatch(source.stem)
        if match and (source.parent.resolve(), match[1]) in originals:
            results.append(source)
            continue
        folder = source.parent if output is None else output / subfolder
        target = file_name or folder / f"{source.stem}_x{scale}.{suffix or 'png'}"
        earlier = jobs.get(target)
        if target.resolve() == source.resolve():
            failures.append(f"{source}: would be overwritten by the result; give -o another name")
        elif earlier is None:
            jobs[target] = Job(source, target)
        elif earlier.source != source:
            failures.append(f"{source}: would be written to {target}, as {earlier.source} is; use another folder")
    return Plan([*jobs.values()], failures, results)


def _is_file_name(output: Path) -> bool:
    """True if the path, which is no folder, names a picture. Raises UserError if it can't be a folder either."""
    suffix = output.suffix.lower()
    if suffix.lstrip(".") in WRITABLE:
        return True
    if suffix in Image.registered_extensions():
        raise UserError(f"{output}: can't write {suffix}; take {', '.join(pictures.FORMATS)}")
    if output.exists():
        raise UserError(f"{output}: neither a folder nor named as a picture ({', '.join(pictures.FORMATS)})")
    return False


def _find_pictures(name: str, recursive: bool) -> list[PictureFile]:
    """The pictures that a file, folder or pattern stands for. Raises UserError if there are none."""
    path = Path(name)
    if not name.strip():
        raise UserError("an empty path was given (is a variable of the shell not set?); name a file or folder")
    if path.is_dir():
        return _pictures_in(path, recursive)
    if path.exists():
        return [PictureFile(path, Path())]
    matches = [Path(match) for match in expand(name)]
    if files := [match for match in matches if match.is_file()]:
        return [PictureFile(file, Path()) for file in files]
    if folders := [match for match in matches if match.is_dir()]:
        return [file for folder in folders for file in _pictures_in(folder, recursive)]
    raise UserError(f"{name}: no such file or folder")


def _pictures_in(folder: Path, recursive: bool) -> list[PictureFile]:
    candidates = sorted(folder.rglob("*") if recursive else folder.iterdir())
    files = [file for file in candidates if file.suffix.lower() in pictures.SUFFIXES and file.is_file()]
    files = [file for file in files if not any(map(is_hidden, file.relative_to(folder).parts))]
    if not files:
        deeper = "" if recursive else "; --recursive looks in its folders, too"
        raise UserError(f"{folder}: no pictures ({' '.join(pictures.SUFFIXES)}) in this folder{deeper}")
    return [PictureFile(file, file.parent.relative_to(folder)) for file in files]


# --- upscaling --------------------------------------------------------------------------------------------------------


def upscale_file(upscaler: Upscaler, job: Job, quality: int, bar: "tqdm[Job] | None" = None) -> None:
    """Upscale one file. Raises UserError if it can't be read or written, or if the result doesn't fit into memory."""

    def progress(done: int, total: int) -> None:
        if bar is not None and total > 1:
            bar.set_postfix_str(f"{job.source.name}: tile {done}/{total}")

    try:
        picture = pictures.read(job.source)
        enlarged = upscaler.enlarge(picture.pixels, progress)
        pictures.write(picture._replace(pixels=enlarged), job.target, quality)
    except MemoryError as error:
        raise UserError(f"{job.source}: the enlarged picture doesn't fit into memory") from error


def upscale(options: argparse.Namespace) -> int:
    """Upscale what the command line names and return the exit code. Raises UserError before anything is upscaled."""
    weights: str = options.weights or default_weights(options.scale or 4)
    upscaler = load_generator(weights, options.device, options.precision, options.tile)
    if options.scale not in (None, upscaler.scale):
        raise UserError(f"--scale {options.scale}, but the weights {weights} enlarge ×{upscaler.scale}")
    plan = make_plan(options.pictures, options.output, upscaler.scale, options.format, options.recursive)
    failures, done, skipped = plan.failures, 0, 0
    with tqdm(plan.jobs, unit="picture", disable=None, dynamic_ncols=True) as bar:
        try:
            for job in bar:
                if job.target.exists() and not options.overwrite:
                    skipped += 1
                    continue
                try:
                    upscale_file(upscaler, job, options.quality, bar)
                    done += 1
                except UserError as error:
                    failures.append(str(error))
                except Exception as error:  # a fault of ours doesn't stop the other pictures either
                    failures.append(f"{job.source}: {type(error).__name__}: {error}")
        except KeyboardInterrupt:
            bar.close()
            print(f"interrupted: {done} done, {skipped} skipped; the same command goes on", file=sys.stderr)
            return cli.INTERRUPTED
    code = 0
    for failure in failures:
        code = cli.fail(failure)
    if plan.results:
        print(f"left out: {', '.join(map(str, plan.results[:3]))}{' …' * (len(plan.results) > 3)}, earlier results")
    exist = " (they exist; --overwrite writes them anew)" if skipped else ""
    print(f"{done} done, {skipped} skipped{exist}, {len(failures)} failed")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = cli.new_parser(
        "upscale",
        "Upscale pictures. EXIF orientation is applied; colour profile, transparency, grey and 16 bits are kept. "
        "Files that exist are skipped.",
        "holiday/ -o sharp/ --recursive",
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, folders, patterns")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="a folder, or a file for one picture (default: NAME_x4.png)"
    )
    parser.add_argument(
        "-w",
        "--weights",
        metavar="WEIGHTS",
        help=f"a checkpoint, exported weights, a BasicSR .pth, or one of: {', '.join(packaged.names()) or 'none'}",
    )
    parser.add_argument("-s", "--scale", type=int, metavar="N", help="choose the weights by their scale (default: 4)")
    parser.add_argument("-f", "--format", choices=WRITABLE, help="of the files to write (default: png)")
    parser.add_argument(
        "-q", "--quality", type=int, default=95, choices=range(1, 101), metavar="1-100", help="of jpg and webp"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="look in the folders of folders")
    parser.add_argument("--overwrite", action="store_true", help="write files that exist anew")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: auto)")
    parser.add_argument("--precision", default="auto", choices=["auto", *PRECISIONS], help="(default: auto)")
    parser.add_argument(
        "--tile", type=int, default=TILE, metavar="N", help=f"largest square that is computed at once ({TILE} pixels)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    cli.run(lambda: upscale(options))


if __name__ == "__main__":
    main()
