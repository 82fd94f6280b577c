"""The comparison picture as in papers: each image by each method, an enlarged detail, the scores below."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from srgan.evaluation.score import Evaluation, Scored
from srgan.images import luma
from srgan.metrics import names
from srgan.metrics.scores import Figures

CELL = 256  # pixels across
DETAIL = 64  # HR pixels across; enlarged to fill a cell
GAP = 8
LINE = 18
INK, FRAME = "#111111", "#d0021b"


class Square(NamedTuple):
    """A part of an image, in HR pixels."""

    top: int
    left: int
    side: int


def comparison(evaluation: Evaluation, count: int = 1) -> Image.Image:
    """Draw a row for each image that `evaluation` kept: LR, every method, HR; the framed whole above its details.

    count: the number of details. They are where bicubic errs most (squared error of Y), the same for all methods.
    """
    titles = ["LR", *evaluation.labels.values(), "HR"]
    rows = [_row(scored, titles, evaluation.scale, count) for scored in evaluation.shown]
    width = max(row.width for row in rows)
    canvas = Image.new("RGB", (width, 2 * LINE + sum(row.height + GAP for row in rows)), "white")
    draw = ImageDraw.Draw(canvas)
    protocol = _protocol(evaluation.shown[0].figures["bicubic"])
    heading = f"{evaluation.benchmark} x{evaluation.scale}: PSNR / SSIM by the {protocol} protocol"
    draw.text((GAP, GAP), _shortened(heading, _font(15), width), fill=INK, font=_font(15))  # the font has no ×
    top = 2 * LINE
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height + GAP
    return canvas


def details(sr: Tensor, hr: Tensor, scale: int, count: int = 1, side: int = DETAIL) -> list[Square]:
    """Find the squares in which sr differs most from hr; their coordinates are multiples of the scale.

    sr, hr: (1, 3, H, W) uint8. Returns at most `count` squares, none of which overlap, the worst first.
    """
    side = min(side, *hr.shape[-2:]) // scale * scale
    error = (luma(sr) - luma(hr)).square()
    sums = F.avg_pool2d(F.avg_pool2d(error, scale), side // scale, 1)[0, 0]
    squares: list[Square] = []
    while len(squares) < count and sums.max() >= 0:
        top, left = divmod(int(sums.argmax()), sums.shape[-1])
        squares.append(Square(top * scale, left * scale, side))
        reach = side // scale - 1
        sums[max(0, top - reach) : top + reach + 1, max(0, left - reach) : left + reach + 1] = -1
    return squares


def _row(scored: Scored, titles: Sequence[str], scale: int, count: int) -> Image.Image:
    """Draw one image as LR, by each method and as HR: each whole, its details, its title and a caption."""
    image = scored.image
    enlarged = image.lr.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    wholes = [enlarged, *scored.sr.values(), image.hr]
    captions = ["", *(_caption(figures) for figures in scored.figures.values()), _shortened(image.name, _font(13))]
    squares = details(scored.sr["bicubic"], image.hr, scale, count)
    cells = [
        _cell(_pillow(whole), squares, _shortened(title, _font(15)), caption)
        for whole, title, caption in zip(wholes, titles, captions, strict=True)
    ]
    row = Image.new("RGB", (GAP + len(cells) * (CELL + GAP), cells[0].height), "white")
    for index, cell in enumerate(cells):
        row.paste(cell, (GAP + index * (CELL + GAP), 0))
    return row


def _cell(picture: Image.Image, squares: Sequence[Square], title: str, caption: str) -> Image.Image:
    """Draw one picture, made to fit and with a frame around each detail, above the details enlarged and the texts."""
    factor = min(1.0, CELL / max(picture.size))
    width, height = (round(length * factor) for length in picture.size)
    zoomed = [CELL // square.side * square.side for square in squares]
    below = height + sum(GAP + side for side in zoomed)
    cell = Image.new("RGB", (CELL, below + 3 * LINE + GAP), "white")
    draw = ImageDraw.Draw(cell)
    inset = (CELL - width) // 2
    cell.paste(picture.resize((width, height), Image.Resampling.LANCZOS) if factor < 1 else picture, (inset, 0))
    beneath = height
    for (top, left, side), to in zip(squares, zoomed, strict=True):
        box = [inset + left * factor, top * factor, inset + (left + side) * factor - 1, (top + side) * factor - 1]
        draw.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline="white")
        draw.rectangle(box, outline=FRAME, width=2)
        part = picture.crop((left, top, left + side, top + side)).resize((to, to), Image.Resampling.NEAREST)
        cell.paste(part, ((CELL - to) // 2, beneath + GAP))
        beneath += GAP + to
    draw.text((0, below + 4), title, fill=INK, font=_font(15))
    draw.multiline_text((0, below + 4 + LINE), caption, fill=INK, font=_font(13))
    return cell


def _caption(figures: Figures) -> str:
    scores = figures[_protocol(figures)]
    networks = [name for name in map(names.lpips, names.LPIPS_NETWORKS) if name in figures]
    shown = [(name, ".4f") for name in networks[:1]] + [(names.NIQE, ".2f")]  # there is no room for more
    measured = [(name, pattern) for name, pattern in shown if figures.get(name) is not None]
    line = ", ".join(f"{names.TITLES[name]} {figures[name]:{pattern}}" for name, pattern in measured)
    return f"{scores['psnr']:.2f} dB / {scores['ssim']:.4f}\n{line}".rstrip()


def _protocol(figures: Figures) -> str:
    return "matlab" if "matlab" in figures else next(iter(figures))


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int = CELL) -> str:
    """Cut off the beginning of a text that is too long."""
    if font.getlength(text) <= width:
        return text
    while font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[0].permute(1, 2, 0).to(torch.uint8).numpy()))
