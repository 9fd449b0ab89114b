"""Resizing: a decoded picture -> the same at another size.

`pillow` is bit-exact with the released processors. `simd` is the same filters (bicubic with a = -0.5, and others; all
antialiased) in other arithmetic, several times faster and at least 50 dB PSNR from Pillow's on pictures, though single
pixels at sharp edges differ more (docs/layouts.md). Which one made a batch is part of `assembly`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from cykooz_resizer import FilterType, ResizeAlg, ResizeOptions, Resizer
from PIL import Image

from owl_stream.layouts import Filter, Pixels, Resize

MAX_KEPT_BYTES = 16 << 20
"""Of what the resizer has between its two directions, for the next picture: `src_width * height * 4` bytes."""

_MOST_TARGETS = 64
"""Sizes that are remembered: a layout with a fixed size has few, one of native resolution any number."""

_FILTERS: dict[Filter, tuple[Image.Resampling, FilterType]] = {
    "bicubic": (Image.Resampling.BICUBIC, FilterType.catmull_rom),
    "bilinear": (Image.Resampling.BILINEAR, FilterType.bilinear),
    "lanczos": (Image.Resampling.LANCZOS, FilterType.lanczos3),
}


def make_resizer(kind: Literal["simd", "pillow"]) -> Resize:
    """A resizer. Not for use by two threads at once."""
    return SimdResizer() if kind == "simd" else resize_with_pillow


def resize_with_pillow(pixels: Pixels, width: int, height: int, /, filter: Filter = "bicubic") -> Pixels:
    """See `Resize`: as the released processors resize."""
    image = Image.frombuffer("RGBX", pixels.shape[1::-1], pixels, "raw", "RGBX", 0, 1)
    return np.asarray(image.resize((width, height), _FILTERS[filter][0]))


class SimdResizer:
    """Resizes between numpy arrays without a copy, by showing them to the resizer as Pillow images.

    Pillow maps only four-channel modes onto foreign memory, and of these the resizer takes CMYK for four plain
    channels (RGBA it would premultiply).
    """

    def __init__(self) -> None:
        self._resizer = Resizer()
        self._options = {
            name: ResizeOptions(resize_alg=ResizeAlg.convolution(filter_type), use_alpha=False)
            for name, (_, filter_type) in _FILTERS.items()
        }
        self._scratch = np.empty(0, np.uint8)
        self._targets: dict[tuple[int, int], tuple[Pixels, Image.Image]] = {}

    def __call__(self, pixels: Pixels, width: int, height: int, /, filter: Filter = "bicubic") -> Pixels:
        """See `Resize`."""
        resized, target = self._targets.get((width, height)) or self._target(width, height)
        self._resizer.resize_pil(_mapped(pixels), target, self._options[filter])
        if 4 * pixels.shape[1] * height > MAX_KEPT_BYTES:
            self._resizer = Resizer()  # the old one would keep its memory
        return resized

    def _target(self, width: int, height: int) -> tuple[Pixels, Image.Image]:
        """Where pixels of a size go: as an array and as an image. All sizes share memory."""
        nbytes = width * height * 4
        if len(self._targets) >= _MOST_TARGETS:
            self._targets.clear()
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
