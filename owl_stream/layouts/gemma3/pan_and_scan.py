"""Pan and scan: which crops a long picture gets beside the whole of it, and how pixels get there.

The rule is that of transformers 5.23, `Gemma3ImageProcessor.pan_and_scan`. Names there:
`pan_and_scan_min_crop_size`, `pan_and_scan_max_num_crops`, `pan_and_scan_min_ratio_to_activate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError
from owl_stream.layouts.pixels import planes
from owl_stream.layouts.types import Pixels, ResizeTo


@dataclass(frozen=True)
class PanAndScan:
    """When pictures are cropped. The defaults are `Gemma3Processor`'s; without pan and scan there is no such object.

    `min_crop_size`: pixels that each side of a crop has at least. `max_crops`: without the whole picture.
    `min_ratio`: long side to short side from which a picture is cropped.

    Raises:
        ConfigError: the numbers would make a crop of no pixels.
    """

    min_crop_size: int = 256
    max_crops: int = 4
    min_ratio: float = 1.2

    def __post_init__(self) -> None:
        if not 1 <= self.max_crops <= self.min_crop_size:
            raise ConfigError(
                "pan and scan: expected at least 1 crop, and min_crop_size at least as large as max_crops so that no "
                f"crop is empty, got max_crops {self.max_crops} and min_crop_size {self.min_crop_size}"
            )


class Box(NamedTuple):
    """A part of a picture in pixels; right and bottom are the first ones behind it."""

    left: int
    top: int
    right: int
    bottom: int


def choose_crops(width: int, height: int, settings: PanAndScan | None) -> tuple[Box, ...]:
    """Return the crops of a picture of `width` x `height` pixels, from the left or from the top; mostly none.

    They divide the longer side: as many as it is times the shorter one (rounded half up), at most as many as have
    `min_crop_size`, but at least 2, and at most `max_crops`. All are equally long; the last one has what is left.
    There are none below `min_ratio`, or where a side of a crop would be below `min_crop_size`. A square counts as wide.
    """
    if settings is None:
        return ()
    long, short = max(width, height), min(width, height)
    if long / short < settings.min_ratio:
        return ()
    wished = min(math.floor(long / short + 0.5), long // settings.min_crop_size)
    count = min(max(wished, 2), settings.max_crops)
    step = -(-long // count)
    if min(step, short) < settings.min_crop_size:
        return ()
    edges = [(start, min(start + step, long)) for start in range(0, count * step, step)]
    if width >= height:
        return tuple(Box(start, 0, end, height) for start, end in edges)
    return tuple(Box(0, start, width, end) for start, end in edges)


def draw(pixels: Pixels, crops: Sequence[Box], out: NDArray[np.uint8], resize: ResizeTo) -> None:
    """Write the whole picture and then its crops to `out`: uint8 [1 + crops, 3, S, S], RGB.

    Each is resized to S x S regardless of its shape. A crop is copied first: a resizer that is told of a box in the
    whole picture would mix the pixels beside it into its edges. With Pillow's bilinear filter the pixels equal the
    processor's.
    """
    side = out.shape[-1]
    out[0] = planes(resize(pixels, side, side))
    for place, box in zip(out[1:], crops, strict=True):
        crop = np.ascontiguousarray(pixels[box.top : box.bottom, box.left : box.right])
        place[...] = planes(resize(crop, side, side))
