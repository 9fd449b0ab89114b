"""Which tiles a picture is cut into, and how its pixels get there.

The rule is that of transformers 5.23, `GotOcr2ImageProcessor` (`get_optimal_tiled_canvas`, `crop_image_to_patches`),
which InternVL's processor uses with `crop_to_patches` on. Names there: `min_patches`, `max_patches`, `size`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.pixels import planes
from owl_stream.layouts.types import Pixels, ResizeTo

Grid = tuple[int, int]
"""(rows, cols) of tiles; (1, 1) is the whole picture as one tile."""


@lru_cache(maxsize=4096)
def choose_tiles(width: int, height: int, side: int, min_tiles: int, max_tiles: int) -> Grid:
    """Return (rows, cols) for a picture of `width` x `height` pixels and tiles of `side` x `side`.

    The grid has min_tiles to max_tiles tiles and the aspect ratio closest to the picture's. Of two grids that are
    equally close the one with more tiles wins, if the picture has more than half of its pixels. Ratios are compared as
    floating-point numbers, there and here. Where no grid has so few and so many tiles, it is (1, 1).
    """
    ratio, area = width / height, width * height
    best, smallest = (1, 1), math.inf
    for rows, cols in _grids(min_tiles, max_tiles):
        difference = abs(ratio - cols / rows)
        if difference < smallest or (difference == smallest and 2 * area > rows * cols * side * side):
            best, smallest = (rows, cols), difference
    return best


def count_tiles(grid: Grid) -> int:
    """How many tiles a picture yields: those of its grid, and the thumbnail if it is cut at all."""
    tiles = grid[0] * grid[1]
    return tiles + 1 if tiles > 1 else 1


def draw(pixels: Pixels, grid: Grid, out: NDArray[np.uint8], resize: ResizeTo) -> None:
    """Write the tiles of one picture to `out`: uint8 [count_tiles(grid), 3, S, S], RGB.

    The picture is resized to the whole grid, regardless of its shape, and cut row by row. The thumbnail comes last and
    is made from the picture itself. A frame of a video is a picture of grid (1, 1). With Pillow's bicubic filter the
    pixels equal the processor's.
    """
    (rows, cols), side = grid, out.shape[-1]
    if rows * cols > 1:
        canvas = resize(pixels, cols * side, rows * side)
        for tile in range(rows * cols):
            top, left = (place * side for place in divmod(tile, cols))
            out[tile] = planes(canvas[top : top + side, left : left + side])
    out[-1] = planes(resize(pixels, side, side))


@lru_cache(maxsize=64)
def _grids(min_tiles: int, max_tiles: int) -> tuple[Grid, ...]:
    """All grids of min_tiles to max_tiles tiles; fewer tiles first, then fewer columns."""
    sides = range(1, max_tiles + 1)
    grids = [(rows, cols) for cols in sides for rows in sides if min_tiles <= rows * cols <= max_tiles]
    return tuple(sorted(grids, key=math.prod))
