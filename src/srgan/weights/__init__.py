"""The packaged weights: each a safetensors file with a model card beside it."""

from pathlib import Path

from srgan.errors import UserError
from srgan.files import at_home

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Names of the packaged weights."""
    return sorted(file.stem for file in FOLDER.glob("*.safetensors"))


def find(weights: str | Path) -> Path:
    """Find packaged weights by name, or any file by path. Raises UserError if there is no such file."""
    if str(weights) in names():
        return FOLDER / f"{weights}.safetensors"
    path = Path(at_home(str(weights)))
    inside = [path / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    if there := [file for file in inside if file.is_file()]:
        raise UserError(f"{path} is a run's folder; give one of its checkpoints, such as {there[0]}")
    if not path.is_file():
        raise UserError(f"no weights {str(weights)!r}: expected a file, or one of {', '.join(names()) or 'none'}")
    return path
