"""The comparison as papers print it: each image by each method, a detail enlarged, the figures below."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from srgan.evaluation.score import Evaluation, Scored
from srgan.images import luma
from srgan.metrics.scores import Figures

CELL = 256  # pixels across
DETAIL = 64  # HR pixels across, enlarged to fill a cell
GAP = 8
LINE = 18
INK, FRAME = "#111111", "#d0021b"


def comparison(evaluation: Evaluation) -> Image.Image:
    """For each image that `evaluation` kept a row: LR, every method, HR; above whole with a frame, below the detail.

    The detail is where bicubic errs most (squared error of Y), the same for all methods.
    """
    titles = ["LR", *evaluation.labels.values(), "HR"]
    rows = [_row(scored, titles, evaluation.scale) for scored in evaluation.shown]
    width = max(row.width for row in rows)
    canvas = Image.new("RGB", (width, 2 * LINE + sum(row.height + GAP for row in rows)), "white")
    draw = ImageDraw.Draw(canvas)
    protocol = _protocol(evaluation.shown[0].figures["bicubic"])
    heading = f"{evaluation.benchmark} x{evaluation.scale}: PSNR / SSIM by the {protocol} protocol"
    draw.text((GAP, GAP), _fitting(heading, _font(15), width), fill=INK, font=_font(15))  # the font has no ×
    top = 2 * LINE
    for row in rows:
        canvas.paste(row, (0, top))
        top += row.height + GAP
    return canvas


def detail(sr: Tensor, hr: Tensor, scale: int, side: int = DETAIL) -> tuple[int, int, int]:
    """Top, left and side of the square, on the LR's grid, in which sr differs most from hr; (1, 3, H, W) uint8 both."""
    side = min(side, *hr.shape[-2:]) // scale * scale
    error = (luma(sr) - luma(hr)).square()
    sums = F.avg_pool2d(F.avg_pool2d(error, scale), side // scale, 1)
    top, left = divmod(int(sums.argmax()), sums.shape[-1])
    return top * scale, left * scale, side


def _row(scored: Scored, titles: Sequence[str], scale: int) -> Image.Image:
    image = scored.image
    enlarged = image.lr.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    wholes = [enlarged, *scored.sr.values(), image.hr]
    texts = ["", *(_caption(figures) for figures in scored.figures.values()), _fitting(image.name, _font(13))]
    top, left, side = detail(scored.sr["bicubic"], image.hr, scale)
    factor = min(1.0, CELL / max(image.hr.shape[-2:]))
    size = (round(image.hr.shape[-1] * factor), round(image.hr.shape[-2] * factor))
    zoom = CELL // side * side
    height = size[1] + zoom + GAP + 3 * LINE + GAP
    row = Image.new("RGB", (GAP + len(wholes) * (CELL + GAP), height), "white")
    draw = ImageDraw.Draw(row)
    for index, (whole, title, text) in enumerate(zip(wholes, titles, texts, strict=True)):
        x = GAP + index * (CELL + GAP)
        picture = _pillow(whole)
        x_whole = x + (CELL - size[0]) // 2
        row.paste(picture.resize(size, Image.Resampling.LANCZOS) if factor < 1 else picture, (x_whole, 0))
        box = [x_whole + left * factor, top * factor, x_whole + (left + side) * factor - 1, (top + side) * factor - 1]
        draw.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline="white")
        draw.rectangle(box, outline=FRAME, width=2)
        cut = picture.crop((left, top, left + side, top + side)).resize((zoom, zoom), Image.Resampling.NEAREST)
        row.paste(cut, (x + (CELL - zoom) // 2, size[1] + GAP))
        below = size[1] + GAP + zoom + 4
        draw.text((x, below), _fitting(title, _font(15)), fill=INK, font=_font(15))
        draw.multiline_text((x, below + LINE), text, fill=INK, font=_font(13))
    return row


def _caption(figures: Figures) -> str:
    scores = figures[_protocol(figures)]
    lines = f"{scores['psnr']:.2f} dB / {scores['ssim']:.4f}"
    return lines if figures["lpips"] is None else f"{lines}\nLPIPS {figures['lpips']:.4f}"


def _protocol(figures: Figures) -> str:
    return "matlab" if "matlab" in figures else next(iter(figures))


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int = CELL) -> str:
    """The end of a text that is too long."""
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
