"""Four pictures that networks for clean photographs fail on: HR and LR, to be scored and looked at.

python benchmarks/hard_pictures.py FOLDER    # --scale 2 for others than ×4
python -m srgan.evaluate 'models=[srresnet_x4]' benchmark.root=FOLDER    # → comparison.png

Grass and a printed page lose what the LR can't hold; an LR saved as a JPEG (quality 40) and one with noise (a deviation
of 10 grey levels) hold what shouldn't be enlarged. The photographs are scikit-image's.
"""

import argparse
import io
from pathlib import Path

import torch
from PIL import Image
from skimage import data
from torch import Tensor

from srgan.images import crop_to_multiple, decode, save_png
from srgan.imresize import imresize


def as_jpeg(lr: Tensor) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(lr.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=40)
    return decode(file.getvalue(), "jpeg")


def noisy(lr: Tensor) -> Tensor:
    noise = 10 * torch.randn(lr.shape, generator=torch.Generator().manual_seed(0))
    return (lr + noise).round().clamp(0, 255).byte()


def main(folder: Path, scale: int) -> None:
    for name, degrade in {"grass": None, "page": None, "coffee": as_jpeg, "chelsea": noisy}.items():
        file = Path(data.__file__).parent / f"{name}.png"
        hr = crop_to_multiple(decode(file.read_bytes(), file.name), scale)
        lr = imresize(hr[None], 1 / scale)[0]
        for part, image in {"HR": hr, "LR": degrade(lr) if degrade else lr}.items():
            (folder / part).mkdir(parents=True, exist_ok=True)
            save_png(image, folder / part / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--scale", type=int, default=4)
    options = parser.parse_args()
    main(options.folder, options.scale)
