"""Pictures as the layouts of mPLUG-Owl3 draw them."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from owl_stream.assemble.resizers import make_resizer
from owl_stream.layouts import Pixels, Visual
from owl_stream.layouts.owl3 import Owl3Layout240728, Owl3Settings

Grid = tuple[int, int] | None
"""(rows, columns) that a picture is cut into; None for the whole picture alone."""


def visual_of(grid: Grid) -> Visual:
    """A picture that is cut so, as its row's only one."""
    return Visual(0, 0, "pixel_values", 0, math.prod(grid) + 1 if grid else 1, grid or ())


class Cutter:
    """A layout and a resizer, which makes one picture after the other."""

    def __init__(self, side: int, resize: Literal["simd", "pillow"]) -> None:
        self.layout = Owl3Layout240728(Owl3Settings(side, "all", "release"))
        self._side, self._resize = side, make_resizer(resize)

    def cut(self, pixels: Pixels, grid: Grid) -> NDArray[np.uint8]:
        """The crops of a picture, uint8 [crops, 3, S, S], written over rubbish."""
        visual = visual_of(grid)
        out = np.full((visual.rows, 3, self._side, self._side), 77, np.uint8)
        self.layout.draw(pixels, visual, out, self._resize)
        return out
