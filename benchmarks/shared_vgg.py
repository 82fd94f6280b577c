"""What sharing VGG19's passes saves: GAN steps with discriminator=projected and VGG losses, with and without it.

python benchmarks/shared_vgg.py [overrides of srgan.speed]

Pairs of steps in turn, each timed by the CPU time of the process (by the clock on a GPU). Prints one line of JSON.
"""

import json
import statistics
import sys
import time

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from srgan import config, machine
from srgan.measure import steps
from srgan.models.vgg import VGG19
from srgan.training.build import build_module

EXPERIMENT = ["experiment=photos_projected_x4", "vgg=random", "data.root=unused"]
PAIRS = 8


class Forgetful(dict[object, object]):
    """Keeps nothing, so that every loss and the discriminator pass VGG19 on their own."""

    def __setitem__(self, key: object, value: object) -> None:
        pass


def main() -> None:
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("speed", overrides=[*EXPERIMENT, *sys.argv[1:], "run_dir=unused"])
    accelerator, precision = machine.choose(str(cfg.trainer.accelerator), str(cfg.trainer.precision))
    device = torch.device("cpu" if accelerator == "cpu" else "cuda")
    module = build_module(cfg)
    (pair,) = steps.random_pairs(instantiate(cfg.data.degradation), cfg.data.crop, cfg.batch_size, device, count=1)
    step = steps.fast_step(module, module.phases[-1], device, precision, graphed=False)
    (network,) = {part for part in module.modules() if isinstance(part, VGG19)}
    seconds: dict[str, list[float]] = {"shared": [], "each its own": []}
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for index in range(PAIRS + 1):
        for name, passes in (("shared", {}), ("each its own", Forgetful())):
            network._passes = passes
            begun = clock()
            step(pair)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if index:  # the first warms up
                seconds[name].append(clock() - begun)
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    medians = {name: round(statistics.median(values), 3) for name, values in seconds.items()}
    print(json.dumps({"seconds": medians, "ratio": round(ratio, 3), "batch": cfg.batch_size, "crop": cfg.data.crop}))


if __name__ == "__main__":
    main()
