"""Data sets of images on the Hugging Face Hub, read by its library `datasets`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from srgan.data.sources import Splits, hold_out
from srgan.errors import UserError


@dataclass(frozen=True)
class HubSource:
    """Rows of one split, still encoded in the data set's Arrow files, which processes share."""

    rows: Any  # datasets.Dataset whose `column` is not decoded
    column: str
    indices: NDArray[np.int64]
    title: str

    @property
    def names(self) -> NDArray[np.bytes_]:
        return np.array([b"%d" % index for index in self.indices.tolist()])

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return f"{self.title}[{self.indices[index]}]"

    def read(self, index: int) -> bytes:
        image: dict[str, Any] | None = self.rows[int(self.indices[index])][self.column]
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise UserError(f"{self.name(index)}: there is no image in this row; remove it")
        if image["bytes"] is not None:
            return image["bytes"]
        try:
            return Path(image["path"]).read_bytes()  # an image folder's rows hold paths alone
        except OSError as error:
            raise UserError(f"{image['path']}: can't be read ({error.strerror}); repair or remove it") from error

    def select(self, indices: NDArray[np.int64]) -> Self:
        return type(self)(self.rows, self.column, self.indices[indices], self.title)


def hub_splits(path: str, column: str, revision: str | None, held_out: float) -> Splits:
    """Splits of a data set on the Hub, downloaded into the library's cache, or of a local folder in the same form.

    Its own splits `train`, `validation` and `test` are used. If it has only one of the latter two, that one is used for
    both; if it has only `train`, as CelebA, the share `held_out` is held out, selected by a hash of the row.

    Args:
        path: the name on the Hub, such as nielsr/CelebA-faces, or a folder of parquet files or images.
        column: the column that holds the images.
        revision: commit or tag on the Hub; None for the newest.

    Raises UserError if the library is not installed, or if there is no such data set, split or column.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("data=huggingface needs the library datasets: pip install 'srgan[huggingface]'") from error
    try:
        loaded = cast(dict[str, Any], datasets.load_dataset(path, revision=revision))
    except Exception as error:  # network, access, files in no known form: each raises its own kind
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"data.path={path} could not be loaded ({reason}); check the name, the folder or the network"
        ) from error
    if "train" not in loaded:
        raise UserError(f"data.path={path} has no split train; it has {', '.join(loaded)}")
    parts: dict[str, HubSource] = {}
    for split, rows in loaded.items():
        if not isinstance(rows.features.get(column), datasets.Image):
            images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
            raise UserError(
                f"data.column={column}: no column of images in {path}; there is {', '.join(images) or 'none'}"
            )
        encoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        parts[split] = HubSource(encoded, column, np.arange(len(rows)), f"{path} {split}")
    held = [parts[split] for split in ("validation", "test") if split in parts]
    if held:
        return Splits(parts["train"], held[0], held[-1])
    return hold_out(parts["train"], held_out, f"{path} holds", "choose another data set")
