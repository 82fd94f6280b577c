"""Turns a trained generator into a function that upscales pictures of any size and kind.

from srgan import load_generator

upscale = load_generator("srresnet_x4")
sr = upscale(image)  # a Pillow image, a NumPy array or a tensor
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from srgan import weights as packaged
from srgan.errors import UserError, is_out_of_memory
from srgan.imresize import imresize
from srgan.inference import pictures
from srgan.inference.tiles import MAX_OVERLAP, TILE, fits, in_tiles
from srgan.machine import choose_device, has_bf16, tf32
from srgan.models import checkpoints
from srgan.models.folding import fold
from srgan.models.generators import Generator

log = logging.getLogger(__name__)

Progress = Callable[[int, int], object]  # finished tiles, all tiles
Kind = TypeVar("Kind", Image.Image, NDArray[Any], Tensor)

SPREAD_RADIUS = 4  # LR pixels: how far visible colours are spread into transparent pixels
MAX_VALUE = {torch.uint8: 255, torch.uint16: 65535}  # 1 for floating point
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_generator(weights: str | Path, device: str = "auto", precision: str = "auto", tile: int = TILE) -> "Upscaler":
    """Load a trained generator, ready to upscale.

    Args:
        weights: the name of packaged weights (`srgan.weights.names()`), or the path of exported weights or of a run's
            checkpoint.
        device, precision, tile: see `Upscaler`.

    Raises UserError if there is no such file or if it holds anything else. No code in the file is executed.
    """
    path = packaged.find(weights)
    return Upscaler(checkpoints.load(path), device, precision, tile, name=path.stem)


class Upscaler:
    """Enlarges pictures by `scale`.

    Args:
        generator: a trained generator.
        device: auto (CUDA if available, else the CPU) or a device of torch; see `machine.choose_device`.
        precision: auto, fp32, bf16 or fp16; auto is fp16 on CUDA, bf16 on a CPU with bf16 arithmetic, else fp32.
            Pictures of more than 8 bits are then computed in fp32 anywhere, since 8 or 11 bits would show.
        tile: side in LR pixels of the largest square computed in one pass. Tiles overlap by the radius of the
            receptive field, so the result is that of one pass; a radius above MAX_OVERLAP is cut to it with a warning.
            The side is halved when memory runs out.
        name: name of the weights, shown to users.
    """

    def __init__(
        self,
        generator: Generator,
        device: str | torch.device = "auto",
        precision: str = "auto",
        tile: int = TILE,
        name: str = "",
    ) -> None:
        self.device = choose_device(str(device))
        self._auto = precision == "auto"
        if precision == "auto":
            precision = "fp16" if self.device.type == "cuda" else "bf16" if has_bf16(self.device.type) else "fp32"
        if precision not in PRECISIONS:
            raise UserError(f"precision {precision!r}: expected auto, {', '.join(PRECISIONS)}")
        self.precision, self.name = precision, name
        self.generator = fold(generator).to(self.device).to(memory_format=torch.channels_last)
        self.scale = generator.scale
        self.overlap = min(generator.receptive_field, MAX_OVERLAP) + SPREAD_RADIUS
        self.receptive_field, self.multiple = generator.receptive_field, generator.multiple
        self.smallest_tile = 2 * self.overlap + self.multiple
        if tile < self.smallest_tile:
            raise UserError(
                f"tiles of {tile} pixels are too small for this network; take more than {self.smallest_tile - 1}"
            )
        self.tile = tile

    def __call__(self, image: Kind, progress: Progress | None = None) -> Kind:
        """Enlarge a picture `scale` times. The result has the same kind, type and channels.

        Grey stays grey, also if stored as RGB with equal channels. Alpha is enlarged by bicubic interpolation;
        transparent pixels take the colours around them.

        Args:
            image: a Pillow image (see `pictures.from_pil` for its modes; its EXIF orientation is applied and its ICC
                profile kept); an array (H, W) or
                (H, W, C); or a tensor (C, H, W) or (B, C, H, W) on any device. C = 1 grey, 2 grey and alpha, 3 RGB,
                4 RGBA. uint8, uint16, or floating point in [0, 1] (the result is clamped to it).
            progress: called after each tile with the number of finished tiles and the total.

        Raises UserError for anything else, MemoryError if there is no room for the result.
        """
        if isinstance(image, Image.Image):
            pixels, profile = pictures.from_pil(ImageOps.exif_transpose(image))
            result = pictures.to_pil(self.enlarge(pixels, progress))
            if profile:
                result.info["icc_profile"] = profile
            return cast(Kind, result)
        if isinstance(image, np.ndarray):
            if image.ndim not in (2, 3):
                raise UserError(f"an array of shape {image.shape}; expected (H, W) or (H, W, C)")
            enlarged = self.enlarge(image[..., None] if image.ndim == 2 else image, progress)
            return cast(Kind, enlarged[..., 0] if image.ndim == 2 else enlarged)
        if not isinstance(image, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance] -- callers may not check types
            raise UserError(f"a {type(image).__name__}; expected a Pillow image, a NumPy array or a tensor")
        if image.ndim not in (3, 4):
            raise UserError(f"a tensor of shape {tuple(image.shape)}; expected (C, H, W) or (B, C, H, W)")
        batch = image if image.ndim == 4 else image[None]
        if not len(batch):
            return cast(Kind, image.new_empty(0, *image.shape[1:-2], *(self.scale * side for side in image.shape[-2:])))
        enlarged = torch.cat([self._enlarge_planes(picture[None], progress) for picture in batch])
        return cast(Kind, enlarged if image.ndim == 4 else enlarged[0])

    def enlarge(self, pixels: NDArray[Any], progress: Progress | None = None) -> NDArray[Any]:
        """(H, W, C) → (scale · H, scale · W, C), of the same type; see `__call__`."""
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)  # torch has the machine's byte order alone
        writable = pixels if pixels.flags.writeable else pixels.copy()  # torch warns about read-only arrays
        planes = torch.from_numpy(np.ascontiguousarray(writable)).permute(2, 0, 1)[None]  # (1, C, H, W)
        return self._enlarge_planes(planes, progress)[0].permute(1, 2, 0).contiguous().numpy()

    def _enlarge_planes(self, planes: Tensor, progress: Progress | None) -> Tensor:
        """(1, C, h, w) → (1, C, scale · h, scale · w). Raises UserError for another type or number of channels."""
        channels, height, width = planes.shape[1:]
        if channels not in range(1, 5) or not height or not width:
            raise UserError(f"{width}×{height} pixels with {channels} channels; expected 1 to 4 channels")
        if planes.dtype not in MAX_VALUE and not planes.is_floating_point():
            raise UserError(f"pixels of type {planes.dtype}; expected uint8, uint16 or floating point in [0, 1]")
        if self.receptive_field > MAX_OVERLAP and not fits(planes, self.tile):
            log.warning(
                "SR pixels depend on LR up to %d pixels away, tiles overlap by %d: the result may differ a little from"
                " that of larger tiles",
                self.receptive_field,
                MAX_OVERLAP,
            )
        with torch.inference_mode():
            if not _is_grey_in_colour(planes):
                return self._in_tiles(planes, progress)
            sr = self._in_tiles(planes[:, ::3], progress)  # grey, and alpha if there is any
            return torch.cat([sr[:, :1].expand(-1, 3, -1, -1), sr[:, 1:]], 1)

    def _in_tiles(self, planes: Tensor, progress: Progress | None = None) -> Tensor:
        """(1, C, h, w) → (1, C, scale · h, scale · w), with smaller tiles if memory runs out.

        The result has the type and the device of `planes`.
        """
        if not fits(planes, self.tile):
            return in_tiles(self._in_tiles, planes, self.scale, self.tile, self.overlap, progress, self.multiple)
        try:
            return in_tiles(self._in_one_pass, planes, self.scale, self.tile, self.overlap, progress)
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
        # Outside the except clause, since the error keeps the memory alive.
        height, width = planes.shape[-2:]
        side = min(self.tile, math.isqrt(height * width)) // 2
        if side < self.smallest_tile:
            raise UserError(f"not enough memory on {self.device} for {width}×{height} pixels; close other programs")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("Out of memory: continuing with tiles of %d pixels", side)
        self.tile = side
        return self._in_tiles(planes, progress)

    def _in_one_pass(self, planes: Tensor) -> Tensor:
        max_value = MAX_VALUE.get(planes.dtype, 1)
        x = planes.to(self.device).float().div(max_value)
        colour, alpha = (x[:, :-1], x[:, -1:]) if x.shape[1] in (2, 4) else (x, None)
        if alpha is not None:
            colour = _spread_visible_colours(colour, alpha)
        grey = colour.shape[1] == 1
        lr = colour.expand(-1, 3, -1, -1) if grey else colour  # (1, 3, h, w)
        dtype = None if self._auto and planes.dtype != torch.uint8 else PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None), tf32(dtype is not None):
            sr = self.generator(lr.contiguous(memory_format=torch.channels_last))
        sr = sr.mean(1, keepdim=True) if grey else sr
        if alpha is not None:
            sr = torch.cat([sr, imresize(alpha, self.scale)], 1)
        sr = sr.clamp(0, 1)
        if planes.is_floating_point():
            return sr.to(planes.device, planes.dtype)
        return sr.mul(max_value).round().to(planes.dtype).to(planes.device)


def _is_grey_in_colour(planes: Tensor) -> bool:
    """True if red, green and blue of (1, C, h, w) are equal everywhere."""
    if planes.shape[1] < 3 or planes.stride(1) == 0:  # all channels are the same memory
        return planes.shape[1] == 3
    return all(torch.equal(planes[:, 0], planes[:, channel]) for channel in (1, 2))


def _spread_visible_colours(colour: Tensor, alpha: Tensor) -> Tensor:
    """Give transparent pixels the mean colour of nearby visible ones, so that hidden colours don't bleed in."""
    visible = F.avg_pool2d(alpha, 2 * SPREAD_RADIUS + 1, 1, SPREAD_RADIUS)
    mean = F.avg_pool2d(colour * alpha, 2 * SPREAD_RADIUS + 1, 1, SPREAD_RADIUS) / visible.clamp(min=1e-6)
    return torch.where((alpha == 0) & (visible > 0), mean, colour)
