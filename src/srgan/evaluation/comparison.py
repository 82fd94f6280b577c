"""The comparison picture as papers print it: each image by each method, a detail enlarged, the figures below."""

from collections.abc import Sequence

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
DETAIL = 64  # HR pixels across, enlarged to fill a cell
GAP = 8
LINE = 18
INK, FRAME = "#111111", "#d0021b"


def comparison(evaluation: Evaluation) -> Image.Image:
    """Draw a row for each image that `evaluation` kept: LR, every method, HR; the framed whole above its detail.

    The detail is where bicubic errs most (squared error of Y); it is the same for all methods.
    """
    titles = ["LR", *evaluation.labels.values(), "HR"]
    rows = [_row(scored, titles, evaluation.scale) for scored in evaluation.shown]
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


def detail(sr: Tensor, hr: Tensor, scale: int, side: int = DETAIL) -> tuple[int, int, int]:
    """Find the square in which sr differs most from hr: its top, left and side, all multiples of the scale.

    sr, hr: (1, 3, H, W) uint8.
    """
    side = min(side, *hr.shape[-2:]) // scale * scale
    error = (luma(sr) - luma(hr)).square()
    sums = F.avg_pool2d(F.avg_pool2d(error, scale), side // scale, 1)
    top, left = divmod(int(sums.argmax()), sums.shape[-1])
    return top * scale, left * scale, side


def _row(scored: Scored, titles: Sequence[str], scale: int) -> Image.Image:
    """Draw one image as LR, by each method and as HR: each whole, its detail, its title and a caption."""
    image = scored.image
    enlarged = image.lr.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    wholes = [enlarged, *scored.sr.values(), image.hr]
    captions = ["", *(_caption(figures) for figures in scored.figures.values()), _shortened(image.name, _font(13))]
    square = detail(scored.sr["bicubic"], image.hr, scale)
    cells = [
        _cell(_pillow(whole), square, _shortened(title, _font(15)), caption)
        for whole, title, caption in zip(wholes, titles, captions, strict=True)
    ]
    row = Image.new("RGB", (GAP + len(cells) * (CELL + GAP), cells[0].height), "white")
    for index, cell in enumerate(cells):
        row.paste(cell, (GAP + index * (CELL + GAP), 0))
    return row


def _cell(picture: Image.Image, square: tuple[int, int, int], title: str, caption: str) -> Image.Image:
    """Draw one picture, made to fit and with a frame around the detail, above the detail enlarged and the texts."""
    top, left, side = square
    factor = min(1.0, CELL / max(picture.size))
    width, height = (round(length * factor) for length in picture.size)
    zoomed = CELL // side * side
    below = height + GAP + zoomed
    cell = Image.new("RGB", (CELL, below + 3 * LINE + GAP), "white")
    draw = ImageDraw.Draw(cell)
    inset = (CELL - width) // 2
    cell.paste(picture.resize((width, height), Image.Resampling.LANCZOS) if factor < 1 else picture, (inset, 0))
    box = [inset + left * factor, top * factor, inset + (left + side) * factor - 1, (top + side) * factor - 1]
    draw.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline="white")
    draw.rectangle(box, outline=FRAME, width=2)
    part = picture.crop((left, top, left + side, top + side))
    cell.paste(part.resize((zoomed, zoomed), Image.Resampling.NEAREST), ((CELL - zoomed) // 2, height + GAP))
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
