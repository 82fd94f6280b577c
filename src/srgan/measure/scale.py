"""Measures memory and time to the first batch on generated data sets as large as CelebA."""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from srgan.errors import UserError

COUNTS = (2_000, 20_000, 202_599)
# Runs in a separate process, so that only the data set adds to a Python process with torch.
PROBE = """
import json, re, sys, time
from pathlib import Path
import torch
def memory(process="self"):
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1024
bare = memory()
from srgan.data.datamodule import CelebA
from srgan.data.degradation import BicubicDegradation
start = time.perf_counter()
data = CelebA(root=sys.argv[1], download=False, degradation=BicubicDegradation(4, 0.0), batch_size=16, seed=1,
              resize=None, multiscale=[], crop=96, augment="flip", cache="none", workers=None, validation_images=64,
              test_images=256)
data.setup("fit")
batches = iter(data.batches(workers=1))
next(batches)
seconds = time.perf_counter() - start
worker = batches._workers[0].pid
def worker_after(count):
    for _ in range(count):
        next(batches)
    return memory(worker)
count = int(sys.argv[2])
first = worker_after(count // 3)
last = worker_after(count)
print(json.dumps({"seconds_to_first_batch": seconds, "worker_mib_above_torch": first - bare,
                  "worker_mib_growth": last - first, "main_mib_above_torch": memory() - bare}))
"""


def measure(counts: tuple[int, ...] = COUNTS, batches: int = 600) -> dict[str, Any]:
    """Measure data sets with these numbers of images, as a folder and as a zip, each in a separate process.

    Returns {"folder": {"2000": {…}, …}, "zip": {…}}: seconds from the imports to the first batch, memory of the main
    process and of a loader's worker in MiB, and the worker's growth over `batches` batches.
    """
    results: dict[str, Any] = {"folder": {}, "zip": {}}
    for count in counts:
        for layout, by_count in results.items():
            with tempfile.TemporaryDirectory() as root:
                generate(Path(root), count, layout)
                by_count[str(count)] = _probe(root, batches)
    return results


def generate(root: Path, count: int, layout: str) -> None:
    """Write `count` noise images in CelebA's size and layout; a few different ones under many names."""
    generator = np.random.default_rng(1)
    files: list[bytes] = []
    for index in range(16):
        path = root / f"{index}.jpg"
        smooth = generator.integers(0, 256, (22, 18, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((178, 218), Image.Resampling.BICUBIC).save(path, quality=90)
        files.append(path.read_bytes())
        path.unlink()
    parts = [0] * (count - count // 5) + [1] * (count // 10) + [2] * (count // 5 - count // 10)
    lines = "".join(f"{index:06d}.jpg {part}\n" for index, part in enumerate(parts, start=1))
    (root / "list_eval_partition.txt").write_text(lines, encoding="utf-8")
    if layout == "zip":
        with zipfile.ZipFile(root / "img_align_celeba.zip", "w") as archive:
            for index in range(1, count + 1):
                archive.writestr(f"img_align_celeba/{index:06d}.jpg", files[index % 16])
        return
    folder = root / "img_align_celeba"
    folder.mkdir()
    paths = [folder / f"{index:06d}.jpg" for index in range(1, count + 1)]
    for index, path in enumerate(paths):
        if index < len(files):
            path.write_bytes(files[index])
        else:
            os.link(paths[index % len(files)], path)


def _probe(root: str, batches: int) -> dict[str, float]:
    command = [sys.executable, "-c", PROBE, root, str(batches)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise UserError(f"scale: the measuring process failed: {(result.stderr.splitlines() or ['killed'])[-1]}")
    return json.loads(result.stdout.splitlines()[-1])
