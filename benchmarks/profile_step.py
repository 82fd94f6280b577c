"""Where the time of a bare training step goes: torch's profiler over a few steps of each phase, eager.

python benchmarks/profile_step.py FILE [overrides of srgan.speed]
"""

import argparse
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.profiler import ProfilerActivity, profile

from srgan import config, machine
from srgan.measure import steps
from srgan.training.build import build_module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", metavar="FILE", type=Path)
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*")
    options = parser.parse_args()
    output, overrides = options.output, options.overrides
    config.register()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("speed", overrides=[*overrides, "run_dir=unused"])
    accelerator, precision = machine.choose(str(cfg.trainer.accelerator), str(cfg.trainer.precision))
    device = torch.device("cpu" if accelerator == "cpu" else "cuda")
    torch.backends.cudnn.benchmark = bool(cfg.trainer.get("benchmark"))  # as the Trainer does
    module = build_module(cfg)
    data = instantiate(cfg.data, _convert_="all")
    (pair,) = steps.random_pairs(data.degradation, data.crop, cfg.batch_size, device, count=1)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    tables: list[str] = []
    for phase in module.phases:
        step = steps.fast_step(module, phase, device, precision, graphed=False)
        for _ in range(3):
            step(pair)
        with profile(activities=activities) as profiled:
            for _ in range(3):
                step(pair)
        order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        tables.append(f"{phase.name}\n{profiled.key_averages().table(sort_by=order, row_limit=25)}")
    Path(output).write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    print(Path(output))


if __name__ == "__main__":
    main()
