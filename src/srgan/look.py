"""`python -m srgan.look`: shows the LR and HR that training sees, for any data set and degradation, in one picture."""

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import cast

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from srgan import config, config_checks
from srgan.data.datamodule import ImageDataModule
from srgan.errors import UserError
from srgan.images import comparison_grid, save_png
from srgan.runs import record

log = logging.getLogger(__name__)

PAIRS_IN_A_ROW = 4


def look(cfg: DictConfig) -> Path:
    """Write the sheet of the first training pairs into the run's folder and return its path."""
    config_checks.check(cfg)
    if cfg.pairs < 1:
        raise UserError(f"pairs={cfg.pairs}: expected at least 1")
    data = cast(ImageDataModule, instantiate(cfg.data, _convert_="all"))
    data.setup("fit")
    path = Path(cfg.run_dir) / record.SHEET
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [picture for pair in islice(_pairs(data), cfg.pairs) for picture in pair]
    columns = 2 * min(PAIRS_IN_A_ROW, cfg.pairs)
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    save_png(comparison_grid(rows, ("LR", "HR") * (columns // 2)), path)
    log.info("%s ×%d, %d pairs: %s", type(data).__name__, data.degradation.scale, cfg.pairs, path)
    return path


def _pairs(data: ImageDataModule) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield LR (3, h, w) and HR (3, H, W) of training crops."""
    for batch in data.batches(workers=0):
        pair = data.pair(*batch)
        yield from zip(pair.lr, pair.hr, strict=True)


def main() -> None:
    config.run(look, "look")


if __name__ == "__main__":
    main()
