"""CelebA's faces cropped by a formula: which square, whose resize, the same pixels for everyone."""

import hashlib
import io
import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from srgan import config, evaluate, train
from srgan.data.celeba import find_celeba, landmarks_of
from srgan.data.faces import HEIGHT, MEAN_LANDMARKS, WIDTH, face_boxes, face_splits
from srgan.errors import UserError

LIST = "list_landmarks_align_celeba.txt"
HEADINGS = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
LANDMARKS = {  # the middles of eyes and mouth, and so the square, can be told by heart
    1: (70, 110, 110, 110, 90, 130, 75, 150, 105, 150),  # 40 and 40 apart: a side of 160 around (90, 130)
    2: (60, 100, 100, 100, 80, 110, 70, 130, 90, 130),  # the eyes' distance decides: 160 around (80, 115)
    3: (85, 100, 95, 100, 120, 110, 80, 131, 100, 131),  # seen from aside: 31 · 4 around (90, 115.5)
    4: (50, 170, 90, 170, 70, 180, 55, 210, 85, 210),  # at the lower left edge, where the square is moved inside
    5: (10, 20, 170, 20, 90, 90, 20, 200, 160, 200),  # larger than the image is wide
    6: (90, 100, 90, 100, 90, 100, 90, 100, 90, 100),  # all landmarks in one place
}
BOXES = {1: (10, 50, 160), 2: (0, 35, 160), 3: (28, 54, 124), 4: (0, 58, 160), 5: (0, 21, 178), 6: (58, 68, 64)}


def picture(number: int) -> Image.Image:
    """Noise of CelebA's size."""
    return Image.fromarray(np.random.default_rng(number).integers(256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8))


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """Six images in PNG, two of each split, with their landmarks in Anno/."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba_png").mkdir(parents=True)
    (root / "Anno").mkdir()
    for number in LANDMARKS:
        picture(number).save(root / "img_align_celeba_png" / f"{number:06d}.png")
    (root / "list_eval_partition.txt").write_text("".join(f"{n:06d}.jpg {(n - 1) // 2}\n" for n in LANDMARKS))
    rows = (f"{n:06d}.jpg " + "".join(f"{value:4d}" for value in values) for n, values in LANDMARKS.items())
    (root / "Anno" / LIST).write_text("\n".join([f"{len(LANDMARKS)}", HEADINGS, *rows, ""]))
    return root


def test_the_square_follows_from_the_landmarks() -> None:
    landmarks = np.array([*LANDMARKS.values()]).reshape(-1, 5, 2)
    assert dict(zip(LANDMARKS, map(tuple, face_boxes(landmarks).tolist()), strict=True)) == BOXES
    assert face_boxes(MEAN_LANDMARKS[None]).tolist() == [[7, 50, 164]]


def test_a_crop_is_pillows_or_matlabs_resize_of_its_square(celeba: Path) -> None:
    splits = face_splits(celeba, "file", "pillow")
    for source, numbers in ((splits.train, (1, 2)), (splits.validation, (3, 4)), (splits.test, (5, 6))):
        assert len(source) == 2
        for index, number in enumerate(numbers):
            left, top, side = BOXES[number]
            square = picture(number).crop((left, top, left + side, top + side))
            expected = square.resize((128, 128), Image.Resampling.BICUBIC)
            read = Image.open(io.BytesIO(pickle.loads(pickle.dumps(source)).read(index)))  # as a loader's process does
            assert np.array_equal(np.asarray(read), np.asarray(expected))
    pixels = [
        np.asarray(Image.open(io.BytesIO(face_splits(celeba, "file", resampling).train.read(0)))).astype(int)
        for resampling in ("pillow", "matlab")
    ]
    assert 0 < np.abs(pixels[0] - pixels[1]).mean() < 1  # alike, but other roundings


@pytest.mark.parametrize(
    ("line", "headings"),
    [
        ("{name} {values}", ["6", HEADINGS]),
        ("\ufeff{name},{values}", [f"image_id,{HEADINGS}".replace(" ", ",")]),
        ('"{row}";"{name}";{values}', []),
    ],
)
def test_landmarks_are_read_however_they_were_saved(line: str, headings: list[str]) -> None:
    separator = ";" if ";" in line else "," if "," in line else "  "
    lines = [
        line.format(row=n, name=f"{n:06d}.jpg", values=separator.join(map(str, values)))
        for n, values in reversed(LANDMARKS.items())
    ]
    lines = [lines[0], *(text.removeprefix("\ufeff") for text in lines[1:])] if not headings else [
        *headings, *(text.removeprefix("\ufeff") for text in lines)
    ]  # fmt: skip
    content = "\r\n".join(lines).encode("utf-8-sig")
    assert landmarks_of(np.array([3, 1]), content).reshape(2, 10).tolist() == [list(LANDMARKS[3]), list(LANDMARKS[1])]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "damaged"),
        ("000001.jpg 1 2 3 4 5 6 7 8 9", "damaged .'000001.jpg 1 2 3 4 5 6 7 8 9'"),
        ("000001.jpg 1 2 3 4 5 6 7 8 9 10\n000002.jpg", "damaged .'000002.jpg'"),
        ("000002.jpg 1 2 3 4 5 6 7 8 9 10", "lacks 1 images, such as 000001"),
    ],
)
def test_damaged_landmarks_are_refused(content: str, words: str) -> None:
    with pytest.raises(UserError, match=f"CelebA's landmarks file (is )?{words}"):
        landmarks_of(np.array([1]), content.encode())


def test_without_landmarks_the_message_names_the_option_that_needs_none(celeba: Path) -> None:
    (celeba / "Anno" / LIST).unlink()
    with pytest.raises(UserError, match=r"without list_landmarks_align_celeba\.txt.* data\.landmarks=mean"):
        face_splits(celeba, "file", "pillow")
    assert {tuple(box) for box in face_splits(celeba, "mean", "pillow").train.boxes} == {(7, 50, 164)}
    picture(1).resize((178, 178)).save(celeba / "img_align_celeba_png/000001.png")
    with pytest.raises(UserError, match=r"000001\.png is 178×178, CelebA's aligned images are 178×218"):
        face_splits(celeba, "mean", "pillow").train.read(0)


def evaluated(root: Path, run_dir: Path, *overrides: str) -> dict[str, object]:
    config.register()
    plain = ("lpips=null", "niqe=false", "dists=false", "device=cpu", f"run_dir={run_dir}")
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        chosen = compose("evaluate", overrides=["benchmark=faces_x8", f"data.root={root}", *plain, *overrides])
    return evaluate.evaluate(chosen)


def test_the_benchmark_says_which_pixels_it_scored(
    celeba: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    content = evaluated(celeba, tmp_path / "out")
    squares = (picture(n).crop((left, top, left + side, top + side)) for n, (left, top, side) in BOXES.items() if n > 4)
    crops = (np.asarray(square.resize((128, 128), Image.Resampling.BICUBIC)) for square in squares)
    digest = hashlib.sha256(b"".join(crop.tobytes() for crop in crops)).hexdigest()
    assert content["hr_sha256"] == digest and digest in caplog.text
    assert "bicubic (published)" in caplog.text and "SPARNet (published)   27.42  0.8036" in caplog.text
    assert content["degradation"] == "by Pillow's bicubic degradation"


def test_bicubic_on_celebas_own_faces_is_near_the_published_row(shared: Path, tmp_path: Path) -> None:
    """32 images of the test split at the mean landmarks; published for other crops: 23.58 dB and 0.6285."""
    root = shared / "data" / "celeba"
    assert len(find_celeba(root).images) > 32
    content = evaluated(root, tmp_path / "out", "data.landmarks=mean")
    mean = content["models"]["bicubic"]["mean"]  # pyright: ignore
    assert {name: f"{value:.4f}" for name, value in mean["faces"].items()} == {"psnr": "23.4613", "ssim": "0.6378"}
    assert content["hr_sha256"] == "e8b5c6a13586efcd1d7a604ebffb60c19d157d2013103bdff36ed95432aab65c"


def test_the_experiment_trains(celeba: Path, tmp_path: Path, compose_config: Callable[..., object]) -> None:
    small = ("generator.channels=4", "generator.blocks=1", "batch_size=2", "trainer=cpu", "trainer.precision=32-true")
    options = (*small, "trainer.max_steps=3", "trainer.enable_progress_bar=false", "lpips=null", "niqe=false")
    chosen = compose_config(
        "experiment=faces_x8", f"data.root={celeba}", "dists=false", *options, run_dir=tmp_path / "r"
    )
    metrics = train.train(chosen)  # pyright: ignore
    assert (metrics["scale"], metrics["benchmark"], metrics["steps_done"]) == (8, "Faces test", 3)
