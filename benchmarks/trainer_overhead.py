"""What loader, degradation, Lightning and logging cost over the training step itself, measured in one run on a CPU.

    python benchmarks/trainer_overhead.py [overrides of srgan.train]

Time inside `training_step` against the time between the starts of consecutive steps; the median over the steps.
"""

import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from srgan import config, train
from srgan.data.datamodule import Pair
from srgan.training.module import SRGAN

DEFAULTS = ["trainer=cpu", "trainer.max_steps=30", "trainer.limit_val_batches=0", "trainer.log_every_n_steps=50"]


def main() -> None:
    starts: list[float] = []
    inside: list[float] = []
    step = SRGAN.training_step

    def timed(module: SRGAN, batch: Pair, batch_idx: int) -> None:
        starts.append(time.perf_counter())
        step(module, batch, batch_idx)
        inside.append(time.perf_counter() - starts[-1])

    SRGAN.training_step = timed
    train._finish = lambda *_: {}  # no test at the end
    config.register()
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(config.CONF), version_base="1.3"):
        train.train(compose("train", overrides=[*DEFAULTS, *sys.argv[1:], f"run_dir={Path(folder)}"]))
    whole = [after - before for before, after in pairwise(starts[3:])]
    figures: dict[str, Any] = {
        "step": statistics.median(inside[3:-1]),
        "with everything around it": statistics.median(whole),
    }
    for name, seconds in figures.items():
        print(f"{name:26} {1000 * seconds:8.1f} ms")
    print(f"{'overhead':26} {statistics.median(w / i - 1 for w, i in zip(whole, inside[3:], strict=False)):8.1%}")


if __name__ == "__main__":
    main()
