"""`python -m srgan.upscale`: upscale picture files."""

import argparse
import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from srgan import pictures
from srgan import weights as packaged
from srgan.errors import UserError
from srgan.upscaler import PRECISIONS, TILE, Upscaler, load_generator

INTERRUPTED = 130  # exit code of a program that Ctrl-C ended


class Job(NamedTuple):
    """A file to upscale and the file to write."""

    source: Path
    target: Path


def default_weights(scale: int) -> str:
    """The weights that come with the package for a scale: sharp ones before those of the highest PSNR."""
    names = [name for name in (f"srgan_x{scale}", f"srresnet_x{scale}") if name in packaged.names()]
    if not names:
        raise UserError(f"no weights for scale {scale} come with the package ({', '.join(packaged.names()) or 'none'})")
    return names[0]


def find_jobs(
    inputs: Sequence[str], output: Path | None, scale: int, suffix: str | None, recursive: bool
) -> tuple[list[Job], list[str]]:
    """What to do, and a line for each input that can't be done.

    Args:
        inputs: files, folders (the pictures in them, with `recursive` in their folders, too) and patterns.
        output: a folder, or for a single file also a file name; None writes beside the originals.
        suffix: of the files to write, without a dot; None is png, or what a single file's name says.
    """
    found: list[tuple[Path, Path]] = []  # files, and where below the output folder they go
    failures: list[str] = []
    for name in inputs:
        try:
            found += _expanded(name, recursive)
        except UserError as error:
            failures.append(str(error))
    named = output is not None and not output.is_dir() and output.suffix.lower().lstrip(".") in _KNOWN
    if named and (len(inputs) > 1 or Path(inputs[0]).is_dir() or len(found) > 1):
        raise UserError(f"{output} is the name of one file; give a folder for several pictures")
    if named and suffix:
        raise UserError(f"-o {output} says the format already; leave out --format")
    jobs: dict[Path, Job] = {}
    for source, below in found:
        folder = source.parent if output is None else output / below
        target = output if named and output else folder / f"{source.stem}_x{scale}.{suffix or 'png'}"
        earlier = jobs.get(target)
        if earlier is None:
            jobs[target] = Job(source, target)
        elif earlier.source != source:
            failures.append(f"{source}: would be written to {target}, as {earlier.source} is; use another folder")
    # An earlier run's results beside the originals are no originals.
    return [job for job in jobs.values() if job.source not in jobs], failures


_KNOWN = (*pictures.FORMATS, "jpeg", "tiff")


def _expanded(name: str, recursive: bool) -> list[tuple[Path, Path]]:
    path = Path(name)
    if path.is_dir():
        candidates = sorted(path.rglob("*") if recursive else path.iterdir())
        inside = [file for file in candidates if file.suffix.lower() in pictures.SUFFIXES and file.is_file()]
        inside = [file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not inside:
            deeper = "" if recursive else "; --recursive looks in its folders, too"
            raise UserError(f"{path}: no pictures ({' '.join(pictures.SUFFIXES)}) in this folder{deeper}")
        return [(file, file.parent.relative_to(path)) for file in inside]
    if path.exists():
        return [(path, Path())]
    matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 -- Path.glob takes no absolute pattern
    if not matches:
        raise UserError(f"{name}: no such file or folder")
    return [(Path(match), Path()) for match in matches if Path(match).is_file()]


def upscale_file(upscaler: Upscaler, job: Job, quality: int, bar: "tqdm[Job] | None" = None) -> None:
    """Upscale one file. Raises UserError."""
    picture = pictures.read(job.source)

    def progress(done: int, total: int) -> None:
        if bar is not None and total > 1:
            bar.set_postfix_str(f"{job.source.name}: tile {done}/{total}")

    try:
        enlarged = upscaler.enlarge(picture.pixels, progress)
    except MemoryError as error:
        raise UserError(f"{job.source}: the enlarged picture doesn't fit into memory") from error
    pictures.write(picture._replace(pixels=enlarged), job.target, quality)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m srgan.upscale",
        description="Upscale pictures. EXIF orientation is applied; colour profile, transparency, grey and 16 bits "
        "are kept. Files that exist are skipped.",
        epilog="Example: python -m srgan.upscale holiday/ -o sharp/ --recursive",
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="files, folders, patterns")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="a folder, or a file for one picture (default: NAME_x4.png)"
    )
    parser.add_argument(
        "-w",
        "--weights",
        metavar="WEIGHTS",
        help=f"a file (checkpoint or exported weights) or one of: {', '.join(packaged.names()) or 'none'}",
    )
    parser.add_argument("-s", "--scale", type=int, metavar="N", help="choose the weights by their scale (default: 4)")
    parser.add_argument("-f", "--format", choices=[*_KNOWN], help="of the files to write (default: png)")
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
    output: Path | None = options.output
    try:
        weights: str = options.weights or default_weights(options.scale or 4)
        upscaler = load_generator(weights, options.device, options.precision, options.tile)
        if options.scale not in (None, upscaler.scale):
            raise UserError(f"--scale {options.scale}, but the weights {weights} enlarge ×{upscaler.scale}")
        jobs, failures = find_jobs(options.pictures, output, upscaler.scale, options.format, options.recursive)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    done, skipped = 0, 0
    with tqdm(jobs, unit="picture", disable=None, dynamic_ncols=True) as bar:
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
        except KeyboardInterrupt:
            bar.close()
            print(f"interrupted: {done} done, {skipped} skipped; the same command goes on", file=sys.stderr)
            sys.exit(INTERRUPTED)
    for failure in failures:
        print(f"error: {failure}", file=sys.stderr)
    exist = " (they exist; --overwrite writes them anew)" if skipped else ""
    print(f"{done} done, {skipped} skipped{exist}, {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
