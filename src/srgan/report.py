"""`python -m srgan.report FOLDER …`: one self-contained HTML page about a sweep or a run."""

from collections.abc import Sequence
from pathlib import Path

from srgan import cli
from srgan.errors import UserError
from srgan.runs.page import page
from srgan.runs.read import find_runs


def report(folders: Sequence[Path], output: Path, images: int | None) -> None:
    """Write the page about the runs in `folders`, with at most `images` sample images, and print its path."""
    title = ", ".join(_name(folder.resolve()) for folder in folders)
    if images is not None and images < 0:
        raise UserError(f"--images {images}: expected 0 or more")
    html = page(find_runs(folders), title, images)
    try:
        output.write_text(html, encoding="utf-8", errors="backslashreplace")  # file names may be any bytes
    except OSError as error:
        raise UserError(f"{output}: can't be written ({error.strerror}); name another file by -o FILE") from error
    print(output)


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}" if folder.name.isdecimal() else folder.name


def main(arguments: Sequence[str] | None = None) -> None:
    parser = cli.new_parser(
        "report",
        "Make one HTML page about the runs of a sweep: tables over seeds, learning curves, perception against"
        " distortion, sample pictures to compare. The page is self-contained: it loads nothing.",
        "outputs/sweeps/2026-01-31_12-00-00",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="a sweep (outputs/sweeps/TIME), a run (outputs/NAME/TIME), or any folder of runs",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: report.html in the first FOLDER")
    parser.add_argument("--images", type=int, metavar="N", help="embed at most N sample images (default: all)")
    options = parser.parse_args(arguments)
    output: Path = options.output or options.folders[0] / "report.html"
    cli.run(lambda: report(options.folders, output, options.images))


if __name__ == "__main__":
    main()
