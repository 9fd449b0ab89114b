"""Which grid an image is cut into: the shape-first anchor rule of mPLUG-Owl3."""

from __future__ import annotations

import math
from functools import lru_cache

GRIDS = ((2, 2), (1, 3), (1, 4), (3, 1), (4, 1), (2, 3), (3, 2))
"""(rows, cols) that the released models were trained with, in the order in which the first maximum wins."""

_EPSILON = 1e-5


@lru_cache(maxsize=4096)
def choose_grid(width: int, height: int, image_size: int) -> tuple[int, int]:
    """Return (rows, cols) for an image of `width` x `height` pixels and crops of `image_size` x `image_size`.

    The best grid's box resembles the image most in shape (weight 100), then in size. Shape is compared against a box
    as wide as the grid's and as high as the image would be at that width, truncated to whole pixels: the released
    processors keep boxes in integers.
    """

    def score(grid: tuple[int, int]) -> float:
        wide, high = grid[1] * image_size, grid[0] * image_size
        shape = _overlap(wide, high, wide, math.trunc(height / width * wide))
        return 100 * shape + _overlap(wide, high, width, height)

    return max(GRIDS, key=score)


def _overlap(wide: int, high: int, other_wide: int, other_high: int) -> float:
    """Intersection over union of two boxes that share their upper left corner."""
    intersection = min(wide, other_wide) * min(high, other_high)
    return intersection / (wide * high + other_wide * other_high - intersection + _EPSILON)
