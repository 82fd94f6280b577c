"""The weights that come with the package: a safetensors file each, beside it its model card."""

from pathlib import Path

from srgan.errors import UserError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Of the weights that come with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def find(weights: str | Path) -> Path:
    """The file of weights that are given by their name or by a path. Raises UserError if there are none."""
    if str(weights) in names():
        return FOLDER / f"{weights}.safetensors"
    path = Path(weights)
    if not path.is_file():
        raise UserError(f"no weights {str(weights)!r}: expected a file, or one of {', '.join(names()) or 'none'}")
    return path
