"""CelebA's faces as square crops of 128², for super-resolution ×8 as FSRNet, DIC and SPARNet do it.

Their crops were drawn by hand and are lost. These follow from CelebA's landmarks by a formula, `face_boxes`.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from srgan.data.celeba import CelebAFiles, find_celeba, landmarks_of, split_indices
from srgan.data.datamodule import ImageDataModule
from srgan.data.sources import Source, Splits
from srgan.errors import UserError
from srgan.files import given
from srgan.images import decode
from srgan.imresize import imresize
from srgan.pilresize import pil_resize

SIDE = 128  # of a crop, in HR pixels
WIDTH, HEIGHT = 178, 218  # of CelebA's aligned images
ENLARGED = 4  # the crop's side over the larger of two distances: between the eyes, and from the eyes to the mouth
LEAST = 64  # pixels; a few landmarks lie together by mistake
# The mean over CelebA's list: left eye, right eye, nose, left and right corner of the mouth.
MEAN_LANDMARKS = np.array([[69, 111], [108, 111], [88, 136], [72, 152], [105, 152]])

Resampling = Literal["pillow", "matlab"]


def face_boxes(landmarks: NDArray[np.int64]) -> NDArray[np.int64]:
    """The square around each face, (N, 3): left, top, side in pixels, inside of the aligned image.

    landmarks: (N, 5, 2), as `landmarks_of` gives them. With E the middle of the eyes and M that of the mouth's corners,
    the square's middle is that of E and M and its side 4 · max(distance of the eyes, |M − E|), rounded half up, from 64
    to 178. A square that would leave the image is moved to its edge.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.moveaxis(landmarks.astype(np.float64), 1, 0)
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    distance = np.maximum(np.hypot(*(right_eye - left_eye).T), np.hypot(*(mouth - eyes).T))
    side = np.floor(ENLARGED * distance + 0.5).clip(LEAST, WIDTH)
    corner = np.floor((eyes + mouth) / 2 - side[:, None] / 2 + 0.5)
    left, top = (axis.clip(0, size - side) for axis, size in zip(corner.T, (WIDTH, HEIGHT), strict=True))
    return np.stack([left, top, side], axis=1).astype(np.int64)


@dataclass(frozen=True)
class FaceSource:
    """The crops of some images as BMP files of 128², made as they are read.

    boxes: (N, 3), as `face_boxes` gives them. resampling: whose bicubic brings the squares to 128².
    """

    images: Source
    boxes: NDArray[np.int64]
    resampling: Resampling

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def read(self, index: int) -> bytes:
        image = decode(self.images.read(index), self.name(index))
        if image.shape[-2:] != (HEIGHT, WIDTH):
            size = f"{image.shape[-1]}×{image.shape[-2]}"
            raise UserError(f"{self.name(index)} is {size}, CelebA's aligned images are {WIDTH}×{HEIGHT}; remove it")
        left, top, side = self.boxes[index].tolist()
        square = image[:, top : top + side, left : left + side]
        crop = pil_resize(square, SIDE, SIDE) if self.resampling == "pillow" else imresize(square, SIDE / side)
        file = io.BytesIO()
        Image.fromarray(crop.permute(1, 2, 0).numpy()).save(file, "BMP")
        return file.getvalue()


def face_splits(root: Path, landmarks: Literal["file", "mean"], resampling: Resampling) -> Splits:
    """The official splits of CelebA, cropped to faces. See `Faces` for the arguments.

    Raises UserError for other values, without CelebA's images, and if landmarks are wanted and there are none.
    """
    if landmarks not in ("file", "mean"):
        raise UserError(f"data.landmarks={landmarks}: expected file or mean")
    if resampling not in ("pillow", "matlab"):
        raise UserError(f"data.resampling={resampling}: expected pillow or matlab")
    files = find_celeba(root)
    boxes = face_boxes(_landmarks(files, root) if landmarks == "file" else MEAN_LANDMARKS[None])
    boxes = np.broadcast_to(boxes, (len(files.images), 3))
    train, validation, test = (
        FaceSource(files.images.select(indices), boxes[indices], resampling) for indices in split_indices(files, root)
    )
    return Splits(train, validation, test)


def _landmarks(files: CelebAFiles, root: Path) -> NDArray[np.int64]:
    """The landmarks of all images. Raises UserError if there is no file of them."""
    content = files.lists.get("landmarks")
    if content is None:
        raise UserError(
            f"CelebA at {root.absolute()} comes without list_landmarks_align_celeba.txt (in Anno/, on CelebA's page);"
            " put it beside the images, or crop every face alike, at the mean landmarks, by data.landmarks=mean"
        )
    return landmarks_of(files.numbers(), content)


@dataclass(kw_only=True, eq=False)
class Faces(ImageDataModule):
    """CelebA's faces, cropped to squares of 128².

    Args:
        root: where CelebA is; `celeba_splits` says which layouts are read.
        landmarks: `file` crops each face by its landmarks, `mean` all alike, by the mean of all landmarks.
        resampling: `pillow` or `matlab`, whose bicubic brings the squares to 128².
    """

    root: str
    landmarks: Literal["file", "mean"]
    resampling: Resampling

    def find_splits(self) -> Splits:
        return face_splits(given(self.root, "data.root"), self.landmarks, self.resampling)
