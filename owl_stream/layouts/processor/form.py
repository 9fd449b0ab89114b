"""The form of a processor's batches: which tensors there are, and what their dimensions and values go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Structure = Literal["flat", "row", "picture"]
"""How tiles, of which a picture becomes one or several, are put together.

`flat`: [tiles, ...], one after the other. `row`: [rows, most tiles of a row, ...]. `picture`: [pictures, most tiles of
a picture, ...]. What is missing are zeros.
"""

Kind = Literal["tokens", "count", "picture", "ones"]
"""What a tensor beside those of text and pixels holds.

`tokens`: [rows, tokens], three numbers: of a placeholder, of another token, of padding. `count`: of the rows that have
pictures, how many. `picture`: [pictures, ...], whole numbers that go by a picture's size. `ones`: 1 where pixels are
tiles, 0 where they are padding.
"""


class Extra(NamedTuple):
    """A tensor beside those of text and pixels. `dims`: its last dimensions, which are the same in all batches."""

    name: str
    kind: Kind
    dtype: str
    dims: tuple[int, ...] = ()
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Form:
    """What a model's batches are like; found by asking its processor (`probing.py`).

    Attributes:
        pixels: name of the tensor of pixels. `tile`: dimensions of one tile, and `axis` that of its colours in a flat
            tensor of tiles.
        placeholder: what the chat template writes for a picture. `token`: what is repeated in the text of one, with
            the id `token_id`.
        tile_run: how many of them each tile has, where that is one number. None: it goes by the picture's size.
        contexts: 1 where a picture becomes the same whatever is beside it in its row; 2 where it matters whether
            another is.
        most_tiles: the most that a picture became. `tile_tokens`: vision tokens of one.
    """

    pixels: str
    structure: Structure
    tile: tuple[int, ...]
    axis: int
    placeholder: str
    token: str
    token_id: int
    tile_run: int | None
    contexts: int
    most_tiles: int
    tile_tokens: int
    extras: tuple[Extra, ...]

    @property
    def by_tile(self) -> bool:
        """Whether a unit is a tile, so that tokens tell which; else it is a picture."""
        return self.tile_run is not None and self.structure != "picture" and not self.of_kind("picture")

    def of_kind(self, kind: Kind) -> tuple[Extra, ...]:
        """The tensors of a kind."""
        return tuple(extra for extra in self.extras if extra.kind == kind)


class Becoming(NamedTuple):
    """What a picture of some size becomes.

    `text`: what stands for it, with one placeholder a run, and `runs`: how many each run has. `tiles`: how many.
    `values`: its numbers in each tensor of the kind `picture`, in the form's order.
    """

    text: str
    runs: tuple[int, ...]
    tiles: int
    values: tuple[tuple[int, ...], ...]
