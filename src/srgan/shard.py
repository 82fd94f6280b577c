"""`python -m srgan.shard`: writes the images of a data set, in its splits, as shards for `data=shards`."""

import logging
from pathlib import Path
from typing import cast

from hydra.utils import instantiate
from omegaconf import DictConfig

from srgan import config, config_checks
from srgan.data import shards
from srgan.data.datamodule import ImageDataModule
from srgan.data.sources import PairSource
from srgan.errors import UserError

log = logging.getLogger(__name__)


def shard(cfg: DictConfig) -> Path:
    """Write the shards into the run's folder and return it. Raises UserError for pairs of HR and LR."""
    config_checks.check(cfg)
    if cfg.megabytes < 1:
        raise UserError(f"megabytes={cfg.megabytes}: expected at least 1")
    splits = cast(ImageDataModule, instantiate(cfg.data, _convert_="all")).splits
    if isinstance(splits.train, PairSource):
        raise UserError("shards hold HR alone, of which training makes LR; data=pairs reads files")
    folder = Path(cfg.run_dir).absolute()
    for split in shards.SPLITS:
        if any((folder / split).glob("*")):
            raise UserError(f"{folder / split} isn't empty; take another folder by hydra.run.dir=PATH")
    for split in shards.SPLITS:
        shards.write(getattr(splits, split), str(folder / split), cfg.megabytes)
    log.info("To train on them: data=shards %s", config.as_override("data.root", str(folder)))
    return folder


def main() -> None:
    config.run(shard, "shard")


if __name__ == "__main__":
    main()
