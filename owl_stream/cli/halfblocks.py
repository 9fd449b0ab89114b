"""Pictures in a terminal: each character shows two pixels, one above the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text


def side_by_side(pictures: Sequence[NDArray[np.uint8]], columns: int, width: int) -> Iterator[Text]:
    """Lines that show pictures, uint8 [height, width, 3], each `columns` wide, as many abreast as fit `width`."""
    abreast = max(1, (width + 1) // (columns + 1))
    for first in range(0, len(pictures), abreast):
        shown = [_lines(picture, columns) for picture in pictures[first : first + abreast]]
        for parts in zip_longest(*shown, fillvalue=Text(" " * columns)):
            yield Text(" ", no_wrap=True).join(parts)


def _lines(picture: NDArray[np.uint8], columns: int) -> list[Text]:
    height, width, _ = picture.shape
    rows = min(columns, max(1, round(columns * height / width / 2)))
    pixels = _shrunk(picture, columns, 2 * rows)
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        line = Text()
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            line.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        lines.append(line)
    return lines


def _shrunk(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Another size, uint8 [height, width, 3], each pixel the mean of those it stands for."""
    rows = _edges(picture.shape[0], height)
    cols = _edges(picture.shape[1], width)
    sums = np.add.reduceat(np.add.reduceat(picture.astype(np.int64), rows[:-1], axis=0), cols[:-1], axis=1)
    areas = (np.diff(rows)[:, None] * np.diff(cols)[None, :])[:, :, None]
    means: NDArray[np.uint8] = (sums // np.maximum(areas, 1)).clip(0, 255).astype(np.uint8)
    return means


def _edges(size: int, parts: int) -> NDArray[np.int64]:
    edges: NDArray[np.int64] = np.arange(parts + 1, dtype=np.int64) * size // parts
    return edges
