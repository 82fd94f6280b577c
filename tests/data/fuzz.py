"""Reads damaged files as the commands do, in a process with little memory: `python fuzz.py FOLDER COUNT SEED`.

Each file must give a picture, weights, or a UserError. Anything else ends the process: an exception by its traceback, a
crash by its signal, a hang by the time limit of a single file. The file at fault is left in FOLDER.
"""

import faulthandler
import io
import logging
import random
import resource
import signal
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from srgan import serve, upscale
from srgan.data.celeba import celeba_splits
from srgan.data.crops import RandomCrops, WholeImages
from srgan.data.sources import MOST_BYTES, FolderSource
from srgan.errors import UserError
from srgan.models import checkpoints
from srgan.models.generators import Compact, MSRResNet

MEMORY = 2**31  # bytes beyond what the process has when it begins
PATIENCE = 20.0  # seconds of computing for one file, which takes milliseconds: libraries are loaded before
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 131112)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pictures() -> list[tuple[str, bytes]]:
    """One small file of each kind, with its suffix."""
    rng = np.random.default_rng(1)
    rgb = Image.fromarray(rng.integers(0, 256, (36, 48, 3), np.uint8))
    grey16 = Image.fromarray(rng.integers(0, 65536, (36, 48), np.uint16))
    exif = Image.Exif()
    exif[274], exif[315] = 6, "someone"
    return [
        (".jpg", encoded(rgb, "JPEG", quality=90)),
        (".jpg", encoded(rgb.convert("L"), "JPEG", progressive=True, exif=exif)),
        (".jpg", encoded(rgb.convert("CMYK"), "JPEG")),
        (".png", encoded(rgb, "PNG")),
        (".png", encoded(rgb.convert("RGBA"), "PNG", exif=exif)),
        (".png", encoded(rgb.quantize(16), "PNG", transparency=3)),
        (".png", encoded(grey16, "PNG")),
        (".webp", encoded(rgb, "WEBP")),
        (".webp", encoded(rgb.convert("RGBA"), "WEBP", lossless=True)),
        (".tif", encoded(rgb, "TIFF")),
        (".tif", encoded(rgb, "TIFF", compression="tiff_lzw", exif=exif)),
        (".tif", encoded(grey16, "TIFF", compression="tiff_adobe_deflate")),
    ]


def archive(image: bytes) -> bytes:
    """A zip of three faces and their partition."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for number in range(1, 4):
            zipped.writestr(f"img_align_celeba/{number:06d}.jpg", image)
        zipped.writestr("list_eval_partition.txt", "".join(f"{n + 1:06d}.jpg {n}\n" for n in range(3)))
    return file.getvalue()


def weights(folder: Path) -> list[tuple[str, bytes]]:
    """Exported weights, a run's checkpoint without its checksum, and a file of BasicSR."""
    generator = Compact(scale=4, channels=4, blocks=1)
    config = {"_target_": "srgan.models.generators.Compact", "scale": 4, "channels": 4, "blocks": 1}
    checkpoints.save_weights(folder / "weights", generator, config)
    state = {f"ema.{name}": value for name, value in generator.state_dict().items()}
    torch.save({"state_dict": state, "config": {"generator": config}}, folder / "checkpoint")
    torch.save({"params": MSRResNet(scale=4, channels=4, blocks=1).state_dict()}, folder / "basicsr")
    files = ((".safetensors", "weights"), (".ckpt", "checkpoint"), (".pth", "basicsr"))
    return [(suffix, (folder / name).read_bytes()) for suffix, name in files]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to three random changes, with PNG's checksums made right again half of the time."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        size = max(1, len(content))
        start, length = rng.randrange(size), rng.randint(1, max(1, size // 4))
        kind = rng.randrange(6)
        if kind == 0:  # bits
            for _ in range(rng.randint(1, 8)):
                at = rng.randrange(size)
                content[at : at + 1] = bytes(x ^ 1 << rng.randrange(8) for x in content[at : at + 1])
        elif kind == 1:
            del content[start:]
        elif kind == 2:  # a field, in the header more often than not
            at = rng.randrange(min(size, rng.choice((64, 256, size))))
            field = struct.pack(rng.choice("<>") + "I", rng.choice(EXTREMES))
            content[at : at + 4] = field if rng.random() < 0.5 else field[-2:]
        elif kind == 3:
            content[start:start] = content[start : start + length]
        elif kind == 4:
            del content[start : start + length]
        else:
            content[start : start + length] = rng.randbytes(length)
    if content.startswith(b"\x89PNG") and rng.random() < 0.5:
        at = 8
        while at + 12 <= len(content):
            end = at + 8 + int.from_bytes(content[at : at + 4], "big")
            if end + 4 > len(content):
                break
            content[end : end + 4] = zlib.crc32(content[at + 4 : end]).to_bytes(4, "big")
            at = end + 4
    return bytes(content)


def bombs() -> list[tuple[str, bytes]]:
    """Files that claim much more than they hold."""
    png = pictures()[3][1]
    header = b"IHDR" + struct.pack(">II", 20000, 20000) + png[24:29]
    huge = png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]
    tif = encoded(Image.fromarray(np.zeros((36, 48), np.uint8)), "TIFF", compression="packbits")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("img_align_celeba/000001.jpg", bytes(MOST_BYTES + 1))
        for number in (162_771, 182_638):
            zipped.writestr(f"../../img_align_celeba/{number}.jpg", pictures()[0][1])
    return [
        (".png", huge),
        (".tif", tif.replace(struct.pack("<HHIHH", 256, 3, 1, 48, 0), struct.pack("<HHII", 256, 4, 1, 131112))),
        (".zip", file.getvalue()),
        (".safetensors", struct.pack("<Q", 2**40) + b"{}"),
    ]


def read(path: Path) -> int:
    """Read a file by every way that takes its kind. Returns how many took it."""
    if path.suffix == ".zip":
        ways = [lambda: [crops(part)[0, 0] for part in vars(celeba_splits(path)).values()]]
    elif path.suffix in (".safetensors", ".ckpt", ".pth"):
        ways = [lambda: checkpoints.load(path)]
    else:
        source = FolderSource(path.parent, np.array([path.name.encode()]))
        as_it_is: Any = SimpleNamespace(enlarge=lambda pixels, progress: pixels, scale=1)
        job = upscale.Job(path, path.parent / "result.png")
        ways = [
            lambda: crops(source)[0, 0],
            lambda: WholeImages(source, 4)[0],
            lambda: upscale.upscale_file(as_it_is, job, 95, 179.0),
            lambda: serve.upscale(as_it_is, path, Path(tempfile.mkdtemp(), "page"), 25e6, lambda done, total: None),
        ]
    taken = 0
    for way in ways:
        try:
            way()
            taken += 1
        except UserError as error:
            if "weights_only" in str(error):
                raise RuntimeError("torch's advice to run a file's code is passed on") from error
    return taken


def crops(source: Any) -> RandomCrops:
    return RandomCrops(source, crop=16, seed=1, augment="none")


def main(folder: Path, count: int, seed: int) -> None:
    warnings.simplefilter("ignore")
    logging.disable()
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # says where it was, and ends the process
    seeds = pictures()
    seeds += [(".zip", archive(seeds[0][1])), *weights(folder)]
    whole = [*seeds, *bombs()]  # read as they are
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    kinds: dict[str, list[int]] = {}
    for number in range(-len(whole), count):
        rng = random.Random(f"{seed} {number}")
        suffix, data = whole[number] if number < 0 else rng.choice(seeds)
        if number >= 0:
            data = damaged(data, rng)
        path = folder / f"fault{suffix}"
        path.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, PATIENCE if number >= len(seeds) - len(whole) else 0.0)
        taken = read(path)
        if number < len(seeds) - len(whole):
            assert taken, f"an undamaged {suffix} is refused"
        kinds.setdefault(suffix, []).append(taken)
    print("; ".join(f"{suffix}: {len(each)} read, {sum(map(bool, each))} taken" for suffix, each in kinds.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
