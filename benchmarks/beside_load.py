"""Training steps a second alone and beside other work: by how OpenMP's threads wait, and by the loader's workers.

    python benchmarks/beside_load.py waiting [SECONDS]
    python benchmarks/beside_load.py workers [SECONDS]

Each figure is from a process of its own, since the policy is read when torch is imported; the variants take turns
within a round. "Beside" are processes that compute without a pause, as many as named. With `waiting`, batches lie in
memory; with `workers`, they come from the loader, out of the embedded photographs' files. Writes beside_load_*.json.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

POLICIES = {
    "libgomp's own": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
}
WORKERS = {"0 workers": 0, "1 worker": 1, "2 workers": 2}
NETWORKS = {  # overrides of conf/train.yaml, and the phase that is timed
    "tiny": (["experiment=demo", "trainer.precision=32-true"], "gan"),
    "paper's": (["loss=srresnet_mse", "trainer.precision=32-true"], "content"),
}
BESIDE = (0, 1, 2)
ROUNDS = 3


def child(network: str, seconds: float, workers: int | None) -> None:
    """Print the steps a second of one network in this process; workers: None for batches that lie in memory."""
    from srgan import config  # before torch: it sets how threads wait, unless the environment does

    # isort: split
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from srgan.measure import steps
    from srgan.training.build import build_module

    config.register()
    overrides, name = NETWORKS[network]
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        cfg = compose("train", [*overrides, "data.cache=none", "run_dir=."])
    torch.manual_seed(1)
    module = build_module(cfg)
    data = instantiate(cfg.data, _convert_="all")
    device = torch.device("cpu")
    phase = next(phase for phase in module.phases if phase.name == name)
    step = steps.fast_step(module, phase, device, "32-true")
    if workers is None:
        pairs = itertools.cycle(steps.random_pairs(data.degradation, data.crop, cfg.batch_size, device))
    else:
        data.setup("fit")
        pairs = (data.pair(*batch) for batch in data.batches(workers))
    step(next(pairs))
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or count < 2:
        step(next(pairs))
        count += 1
    print(count / (time.perf_counter() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["waiting", "workers"])
    parser.add_argument("seconds", type=float, nargs="?", default=4)
    options = parser.parse_args()
    what, seconds = options.what, options.seconds
    variants = POLICIES if what == "waiting" else WORKERS
    rates: dict[str, list[float]] = {}
    for network in NETWORKS:
        for beside in BESIDE:
            for _ in range(ROUNDS):
                for variant, value in variants.items():
                    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(beside)]
                    try:
                        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
                        variables, workers = (value, "") if isinstance(value, dict) else ({}, str(value))
                        result = subprocess.run(
                            [sys.executable, __file__, "--child", network, str(seconds), workers],
                            env=clean | variables, capture_output=True, text=True, check=True,
                        )  # fmt: skip
                    finally:
                        for process in busy:
                            process.kill()
                    rates.setdefault(f"{network} | {beside} | {variant}", []).append(float(result.stdout.split()[-1]))
    found = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "steps_per_s": rates}
    Path(f"beside_load_{what}.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    first = next(iter(variants))
    for key, values in rates.items():
        network, beside, _ = key.split(" | ")
        ratio = statistics.median(values) / statistics.median(rates[f"{network} | {beside} | {first}"])
        print(f"{key:32} {statistics.median(values):8.3f} steps/s, {ratio:5.2f} × {first}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]) if sys.argv[4] else None)
    else:
        main()
