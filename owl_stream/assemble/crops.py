"""Resizing and cutting: pixels -> crops, written where the batch wants them.

`pillow` is bit-exact with the released processor. `simd` is the same bicubic filter (a = -0.5, antialiased) in other
arithmetic, several times faster and at least 50 dB PSNR from Pillow's on pictures, though single pixels at sharp edges
differ more (docs/layouts.md). Which one made a batch is part of `assembly`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from cykooz_resizer import FilterType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

from owl_stream.assemble.images import Pixels

MASKED_LEVEL = 128
"""What a masked row's crops are filled with: mid-grey, next to 0 after (x / 255 - 0.5) / 0.5."""

MAX_KEPT_BYTES = 16 << 20
"""Of what the resizer has between its two directions, for the next picture: `src_width * height * 4` bytes."""

Resize = Callable[[Pixels, int, int], Pixels]
"""(pixels, width, height) -> pixels of that size, valid until the next call."""


class Cutter:
    """Turns one decoded image into its crops of `size` x `size`. Not for use by two threads at once."""

    def __init__(self, size: int, resize: Literal["simd", "pillow"]) -> None:
        self._size = size
        self._resize: Resize = SimdResizer() if resize == "simd" else _pillow

    def cut(self, pixels: Pixels, grid: tuple[int, int] | None, out: NDArray[np.uint8]) -> None:
        """Write the crops of one image to `out`: uint8 [crops, 3, S, S], RGB.

        With a grid (rows, cols) they are its cells in row-major order, then the global view; without, that alone.
        """
        size = self._size
        if grid is not None:
            rows, cols = grid
            resized = self._resize(pixels, cols * size, rows * size)
            cells = resized[..., :3].reshape(rows, size, cols, size, 3).transpose(0, 2, 4, 1, 3)
            out[:-1].reshape(rows, cols, 3, size, size)[...] = cells
        out[-1] = self._resize(pixels, size, size)[..., :3].transpose(2, 0, 1)


def _pillow(pixels: Pixels, width: int, height: int) -> Pixels:
    image = Image.frombuffer("RGBX", pixels.shape[1::-1], pixels, "raw", "RGBX", 0, 1)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


class SimdResizer:
    """Resizes between numpy arrays without a copy, by showing them to the resizer as Pillow images.

    Pillow maps only four-channel modes onto foreign memory, and of these the resizer takes CMYK for four plain
    channels (RGBA it would premultiply).
    """

    def __init__(self) -> None:
        self._resizer = Resizer()
        self._options = ResizeOptions(resize_alg=ResizeAlg.convolution(FilterType.catmull_rom), use_alpha=False)
        self._scratch = np.empty(0, np.uint8)
        self._targets: dict[tuple[int, int], tuple[Pixels, Image.Image]] = {}

    def __call__(self, pixels: Pixels, width: int, height: int) -> Pixels:
        """The pixels at another size, valid until the next call."""
        resized, target = self._targets.get((width, height)) or self._target(width, height)
        self._resizer.resize_pil(_mapped(pixels), target, self._options)
        if 4 * pixels.shape[1] * height > MAX_KEPT_BYTES:
            self._resizer = Resizer()  # the old one would keep its memory
        return resized

    def _target(self, width: int, height: int) -> tuple[Pixels, Image.Image]:
        """Where pixels of a size go: as an array and as an image. All sizes share memory; a recipe has few of them."""
        nbytes = width * height * 4
        if self._scratch.nbytes < nbytes:
            self._scratch = np.empty(nbytes, np.uint8)
            self._targets.clear()
        resized = self._scratch[:nbytes].reshape(height, width, 4)
        target = _mapped(resized)
        target.readonly = 0  # else the resizer would write to a private copy
        self._targets[width, height] = (resized, target)
        return resized, target


def _mapped(pixels: Pixels) -> Image.Image:
    return Image.frombuffer("CMYK", pixels.shape[1::-1], pixels, "raw", "CMYK", 0, 1)
