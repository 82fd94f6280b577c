from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ImageColor
from torch import Tensor

from srgan.evaluation.benchmarks import Benchmark
from srgan.evaluation.comparison import CELL, FRAME, GAP, comparison, details
from srgan.evaluation.methods import Bicubic, Method, Nearest
from srgan.evaluation.score import Evaluation, evaluate
from srgan.metrics.protocol import MATLAB, RGB, Protocol

Make = Callable[..., Benchmark]
LONG = "outputs/sweeps/2024-01-01/everything/that/was/changed=in,this=run,and=more"


@pytest.mark.parametrize("scale", [2, 3, 8])
@pytest.mark.parametrize("shape", [(23, 23), (24, 120), (66, 81), (200, 128)])
def test_the_detail_lies_on_the_lr_grid_and_holds_a_planted_error(shape: tuple[int, int], scale: int) -> None:
    height, width = (side - side % scale for side in shape)
    hr = torch.full((1, 3, height, width), 100, dtype=torch.uint8)
    for down, across in ((0.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.0, 1.0)):
        row, column = round(down * (height - 4)), round(across * (width - 4))
        sr = hr.clone()
        sr[..., row : row + 4, column : column + 4] = 200
        ((top, left, side),) = details(sr, hr, scale)
        assert all(value % scale == 0 for value in (top, left, side))
        assert 0 <= top <= top + side <= height and 0 <= left <= left + side <= width
        assert side == min(64, height, width) // scale * scale
        assert sr[..., top : top + side, left : left + side].gt(100).sum() == 3 * 16


def test_the_detail_is_where_most_is_wrong_and_not_where_it_is_most_coloured() -> None:
    hr = torch.full((1, 3, 160, 160), 100, dtype=torch.uint8)
    sr = hr.clone()
    sr[:, 2, :64, :64] += 60  # blue weighs little in Y
    sr[:, 1, 96:, 96:] += 30
    assert details(sr, hr, 4) == [(96, 96, 64)]


def test_more_details_are_the_next_worst_and_do_not_overlap() -> None:
    hr = torch.full((1, 3, 160, 160), 100, dtype=torch.uint8)
    sr = hr.clone()
    sr[..., 96:, 96:] += 30
    sr[..., 80:144, :64] += 20
    found = details(sr, hr, 4, count=9)
    assert found[:2] == [(96, 96, 64), (80, 0, 64)] and 3 <= len(found) <= 4
    covered = torch.zeros(160, 160)
    for top, left, side in found:
        covered[top : top + side, left : left + side] += 1
    assert covered.max() == 1


def evaluated(benchmark: Benchmark, *labels: str, protocol: Protocol = MATLAB) -> Evaluation:
    methods: dict[str, Method] = {"bicubic": Bicubic(benchmark.scale)}
    for label in labels:
        methods[label] = Nearest(benchmark.scale)
        methods[label].label = label
    return evaluate(methods, benchmark, torch.device("cpu"), [protocol], shown=8)


def pixels(evaluation: Evaluation) -> Tensor:
    return torch.from_numpy(np.array(comparison(evaluation))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("scale", "shape", "labels"),
    [
        (2, (40, 40), []),
        (2, (22, 24), ["one", "two", LONG]),
        (3, (90, 33), [LONG, "nearest"]),
        (4, (64, 300), ["nearest"]),
        (2, (600, 40), ["nearest"]),
    ],
)
def test_there_is_a_row_for_each_image_and_a_column_for_lr_hr_and_each_method_that_holds_any_picture_and_text(
    made: Make, picture: Callable[..., Tensor], scale: int, shape: tuple[int, int], labels: list[str]
) -> None:
    benchmark: Any = made(scale, count=2)
    benchmark.names[1] = f"{LONG}.png"
    benchmark._images[f"{LONG}.png"] = picture(0, *shape)
    image = pixels(evaluated(benchmark, *labels))
    assert image.shape[-1] == GAP + (3 + len(labels)) * (CELL + GAP)
    ink = image[:, 40:].ne(255)  # below the heading
    assert not ink[..., :GAP].any()
    frame = torch.tensor(ImageColor.getrgb(FRAME))[:, None, None]
    for left in range(GAP, image.shape[-1], CELL + GAP):
        assert not ink[..., left + CELL : left + CELL + GAP].any()
        framed = image[..., left : left + CELL].eq(frame).all(0).any(1).int()
        assert framed.diff().eq(1).sum() == 2


def test_the_detail_is_enlarged_pixel_by_pixel(made: Make) -> None:
    result = evaluated(made(4, count=1))
    hr = result.shown[0].image.hr
    ((top, left, side),) = details(result.shown[0].sr["bicubic"], hr, 4)
    zoom = CELL // side
    enlarged = hr[0, :, top : top + side, left : left + side].repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    column = pixels(result)[..., -GAP - CELL : -GAP]
    inset = (CELL - zoom * side) // 2
    rows = range(column.shape[1] - enlarged.shape[1])
    strips = (column[:, row : row + enlarged.shape[1], inset : inset + enlarged.shape[2]] for row in rows)
    assert sum(torch.equal(strip, enlarged) for strip in strips) == 1


def test_rows_grow_with_the_number_of_details(made: Make) -> None:
    result = evaluated(made(4, count=1))
    none, one, two = (comparison(result, count).height for count in range(3))
    assert none < one <= two  # these pictures may have room for one only


def test_lpips_and_any_protocol_are_printed(made: Make) -> None:
    plain = evaluated(made(count=1))
    before = pixels(plain)
    assert before.ne(pixels(evaluated(made(count=1), protocol=RGB))).any()
    plain.shown[0].figures["bicubic"]["lpips_alex"] = 0.1234
    assert before.ne(pixels(plain)).any()
