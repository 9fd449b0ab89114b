"""Pictures in a terminal: each character shows two pixels, one above the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text


def side_by_side(crops: NDArray[np.uint8], columns: int, width: int) -> Iterator[Text]:
    """Lines that show the crops, uint8 [n, 3, S, S], each `columns` characters wide, as many abreast as fit `width`."""
    abreast = max(1, (width + 1) // (columns + 1))
    for first in range(0, len(crops), abreast):
        pictures = [_lines(crop, columns) for crop in crops[first : first + abreast]]
        for parts in zip(*pictures, strict=True):
            yield Text(" ", no_wrap=True).join(parts)


def _lines(crop: NDArray[np.uint8], columns: int) -> list[Text]:
    pixels = _shrunk(crop, columns, columns // 2 * 2)
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        line = Text()
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            line.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        lines.append(line)
    return lines


def _shrunk(crop: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """[3, S, S] -> [height, width, 3], each pixel the mean of those it stands for."""
    rows = _edges(crop.shape[1], height)
    cols = _edges(crop.shape[2], width)
    sums = np.add.reduceat(np.add.reduceat(crop.astype(np.int64), rows[:-1], axis=1), cols[:-1], axis=2)
    areas = np.diff(rows)[:, None] * np.diff(cols)[None, :]
    means: NDArray[np.uint8] = (sums // np.maximum(areas, 1)).clip(0, 255).astype(np.uint8)
    return means.transpose(1, 2, 0)


def _edges(size: int, parts: int) -> NDArray[np.int64]:
    edges: NDArray[np.int64] = np.arange(parts + 1, dtype=np.int64) * size // parts
    return edges
