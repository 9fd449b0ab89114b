"""What is written in a conversation in place of a medium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from owl_stream.layouts.conversation import IMAGE


class View(NamedTuple):
    """One picture and the crops that it yields. `medium` and `frame` name the picture (frame 0 of an image).

    `grid` None is the whole picture as one crop; (rows, cols) are rows * cols crops, row by row, and the whole picture
    behind them.
    """

    medium: int
    frame: int
    grid: tuple[int, int] | None

    @property
    def crops(self) -> int:
        """How many crops."""
        return 1 if self.grid is None else self.grid[0] * self.grid[1] + 1


class Prompt(NamedTuple):
    """What replaces one medium's marker: a text with one `<|image|>` per crop, and the views behind those crops."""

    text: str
    views: tuple[View, ...]


def split_at_images(text: str) -> Iterator[tuple[int, str]]:
    """Split at every `<|image|>`, which is a chunk of its own; yields (first character, chunk)."""
    start = 0
    while (found := text.find(IMAGE, start)) >= 0:
        if found > start:
            yield start, text[start:found]
        yield found, IMAGE
        start = found + len(IMAGE)
    yield start, text[start:]
