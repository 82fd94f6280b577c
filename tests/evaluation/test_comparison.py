from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from srgan.evaluation.benchmarks import Benchmark
from srgan.evaluation.comparison import CELL, FRAME, GAP, comparison, detail
from srgan.evaluation.methods import Bicubic, Method, Nearest
from srgan.evaluation.score import Evaluation, evaluate
from srgan.metrics.protocol import MATLAB, RGB

CPU = torch.device("cpu")
Make = Callable[..., Benchmark]
SHAPES = [(23, 23), (24, 120), (66, 81), (200, 128)]


def cut(height: int, width: int, scale: int) -> tuple[int, int]:
    return height - height % scale, width - width % scale


@pytest.mark.parametrize("scale", [2, 3, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_detail_lies_on_the_lr_grid_and_holds_a_planted_error(shape: tuple[int, int], scale: int) -> None:
    height, width = cut(*shape, scale)
    hr = torch.full((1, 3, height, width), 100, dtype=torch.uint8)
    for down, across in ((0.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.0, 1.0)):
        row, column = round(down * (height - 4)), round(across * (width - 4))
        sr = hr.clone()
        sr[..., row : row + 4, column : column + 4] = 200
        top, left, side = detail(sr, hr, scale)
        assert all(value % scale == 0 for value in (top, left, side))
        assert 0 <= top <= top + side <= height and 0 <= left <= left + side <= width
        assert side == min(64, height, width) // scale * scale
        assert sr[..., top : top + side, left : left + side].gt(100).sum() == 3 * 16


def test_the_detail_is_where_most_is_wrong_and_not_where_it_is_most_coloured() -> None:
    hr = torch.full((1, 3, 160, 160), 100, dtype=torch.uint8)
    sr = hr.clone()
    sr[:, 2, :64, :64] += 60  # blue weighs little in Y
    sr[:, 1, 96:, 96:] += 30
    assert detail(sr, hr, 4) == (96, 96, 64)


def evaluated(benchmark: Benchmark, *labels: str, shown: int = 8, **options: object) -> Evaluation:
    methods: dict[str, Method] = {"bicubic": Bicubic(benchmark.scale)}
    for label in labels:
        methods[label] = Nearest(benchmark.scale)
        methods[label].label = label
    return evaluate(methods, benchmark, CPU, [MATLAB], shown=shown, **options)


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def blank(part: Tensor) -> bool:
    return bool(part.eq(255).all())


@pytest.mark.parametrize("count", [0, 3])
def test_there_is_a_column_for_lr_hr_and_each_method(made: Make, count: int) -> None:
    image = comparison(evaluated(made(), *(f"method {index}" for index in range(count))))
    assert image.width == GAP + (count + 3) * (CELL + GAP)
    below = pixels(image)[:, 40:]
    for index in range(count + 3):
        left = GAP + index * (CELL + GAP)
        assert not blank(below[..., left : left + CELL])
        assert blank(below[..., left + CELL : left + CELL + GAP])


def test_there_is_a_row_for_each_image_shown(made: Make) -> None:
    heights = [comparison(evaluated(made(count=5), shown=count)).height for count in (1, 2, 5)]
    assert heights[0] < heights[1] < heights[2]
    image = pixels(comparison(evaluated(made(count=5))))
    frame = torch.tensor([int(FRAME[i : i + 2], 16) for i in (1, 3, 5)], dtype=torch.uint8)[:, None, None]
    framed = (image == frame).all(0)[:, GAP : GAP + CELL].any(1).int()
    assert int(framed.diff().eq(1).sum()) == 5


def test_the_detail_is_enlarged_pixel_by_pixel(made: Make) -> None:
    result = evaluated(made(4, count=1))
    hr = result.shown[0].image.hr
    top, left, side = detail(result.shown[0].sr["bicubic"], hr, 4)
    zoom = CELL // side
    enlarged = hr[0, :, top : top + side, left : left + side].repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    column = pixels(comparison(result))[..., -GAP - CELL : -GAP]
    inset = (CELL - zoom * side) // 2
    rows = range(column.shape[1] - enlarged.shape[1])
    strips = (column[:, row : row + enlarged.shape[1], inset : inset + enlarged.shape[2]] for row in rows)
    assert sum(torch.equal(strip, enlarged) for strip in strips) == 1


@pytest.mark.parametrize(("scale", "shape"), [(2, (23, 24)), (3, (90, 33)), (4, (67, 301)), (2, (600, 41))])
def test_images_of_any_shape_fit(
    made: Make, picture: Callable[..., Tensor], scale: int, shape: tuple[int, int]
) -> None:
    benchmark = made(scale, count=2)
    benchmark._images["b"] = picture(0, *cut(*shape, scale))
    image = pixels(comparison(evaluated(benchmark, "nearest")))
    for index in range(5):
        assert blank(image[:, 40:, GAP + index * (CELL + GAP) - GAP : GAP + index * (CELL + GAP)])


def test_long_labels_and_names_stay_in_their_column(made: Make, picture: Callable[..., Tensor]) -> None:
    benchmark = made(count=1, name="a benchmark")
    benchmark.names = ["an/image/whose/name/is/far/too/long/for/a/column/of/this/picture/by/any/measure"]
    benchmark._images = {benchmark.names[0]: picture(0, 40, 40)}
    result = evaluated(benchmark, "outputs/sweeps/2024-01-01/everything/that/was/changed=in,this=run,and=more", "short")
    image = comparison(result)
    below = pixels(image)[:, 40:]
    for index in range(6):
        assert blank(below[..., index * (CELL + GAP) : index * (CELL + GAP) + GAP])
    assert blank(below[..., -GAP:])


def test_lpips_and_any_protocol_are_printed(made: Make) -> None:
    plain = evaluated(made(count=1))
    other = evaluate({"bicubic": Bicubic(2)}, made(count=1), CPU, [RGB], shown=8)
    assert pixels(comparison(plain)).ne(pixels(comparison(other))).any()
    figures = plain.shown[0].figures["bicubic"]
    before = pixels(comparison(plain))
    figures["lpips_alex"] = 0.1234
    assert pixels(comparison(plain)).ne(before).any()
