"""Batches of a form: their schema and lengths, and how rows become tensors.

On the wire pixels are bytes, one tile after the other; the client pads where the processor's own tensor is padded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.image_settings import Colours
from owl_stream.layouts.processor.form import Extra, Form
from owl_stream.layouts.templated import lengths_of
from owl_stream.layouts.text import TEXT_TENSORS, collate_text
from owl_stream.layouts.types import EncodedRow, drawn, tensor
from owl_stream.shards import RowSize
from owl_stream.wire import SchemaEntry

TILES, PICTURES, ROWS_WITH_PICTURES, MOST_TILES = "T", "N", "R", "M"
"""Letters; the last one is for tiles of the row that has most."""


def cut_name(form: Form) -> str:
    """The tensor that says how many tiles each row, or each picture, has."""
    return f"{form.pixels}_lengths"


def schema_of(form: Form, colours: Colours) -> tuple[SchemaEntry, ...]:
    """A line for each tensor, pixels last."""
    entries = [*TEXT_TENSORS, *(_entry(form, extra) for extra in form.extras)]
    cut = None if form.structure == "flat" else cut_name(form)
    if cut is not None:
        by_row = form.structure == "row"
        entries.append(tensor(cut, "int64", "B" if by_row else PICTURES, optional=not by_row))
    normalise = colours.normalise(axis=form.axis)
    return (*entries, drawn(form.pixels, TILES, *form.tile, normalise=normalise, lengths=cut))


def _entry(form: Form, extra: Extra) -> SchemaEntry:
    leading: tuple[str, ...] = ("B", MOST_TILES) if form.structure == "row" else (TILES,)
    by_kind: dict[str, tuple[str | int, ...]] = {
        "tokens": ("B", "L"),
        "count": (ROWS_WITH_PICTURES,),
        "picture": (PICTURES, *extra.dims),
        "ones": (*leading, *extra.dims),
    }
    dims = by_kind[extra.kind]
    return tensor(extra.name, extra.dtype, *dims, optional=extra.kind != "tokens")


def lengths_of_rows(form: Form, sizes: Sequence[RowSize]) -> dict[str, int]:
    """What the letters are."""
    tiles = [size.image_tokens // form.tile_tokens for size in sizes]
    letters = {
        TILES: sum(tiles),
        MOST_TILES: max(tiles),
        PICTURES: sum(size.image_units for size in sizes),
        ROWS_WITH_PICTURES: sum(size.image_units > 0 for size in sizes),
    }
    used = {dim for entry in schema_of(form, _ANY) for dim in entry.dims}
    return {**lengths_of(sizes), **{letter: number for letter, number in letters.items() if letter in used}}


_ANY = Colours((0.0,) * 3, (1.0,) * 3)


def starts_of_tiles(runs: Sequence[int], tiles: int) -> tuple[tuple[int, int], ...]:
    """For each tile of a picture the run in which it begins, and how many placeholders in."""
    each, ends = sum(runs) // tiles, list(accumulate(runs))
    found = []
    for first in range(0, tiles * each, each):
        run = next(at for at, end in enumerate(ends) if first < end)
        found.append((run, first - ends[run] + runs[run]))
    return tuple(found)


def collate(form: Form, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
    """Write all tensors that are not drawn."""
    collate_text(rows, pad_id, out)
    numbers_before = 1  # a visual's form begins with its context
    for extra in form.extras:
        written = out.get(extra.name)
        if extra.kind == "tokens":
            _write_tokens(form, extra, rows, out[extra.name])
        elif written is None:
            continue
        elif extra.kind == "count":
            written[:] = [len(row.visuals) for row in rows if row.visuals]
        elif extra.kind == "picture":
            numbers = slice(numbers_before, numbers_before + math.prod(extra.dims))
            values = [visual.form[numbers] for row in rows for visual in row.visuals]
            written[...] = np.array(values).reshape(written.shape)
        else:
            _write_ones(form, rows, written)
        numbers_before += math.prod(extra.dims) if extra.kind == "picture" else 0
    cut = out.get(cut_name(form))
    if cut is not None:
        by_row = [[visual.rows for visual in row.visuals] for row in rows]
        cut[:] = [sum(row) for row in by_row] if form.structure == "row" else [tiles for row in by_row for tiles in row]


def _write_tokens(form: Form, extra: Extra, rows: Sequence[EncodedRow], out: NDArray[Any]) -> None:
    placeholder, other, padding = extra.values
    out[...] = padding
    for b, row in enumerate(rows):
        out[b, : len(row.input_ids)] = np.where(row.input_ids == form.token_id, placeholder, other)


def _write_ones(form: Form, rows: Sequence[EncodedRow], out: NDArray[Any]) -> None:
    if form.structure == "flat":
        out[...] = 1
        return
    for b, row in enumerate(rows):
        tiles = sum(visual.rows for visual in row.visuals)
        out[b, :tiles] = 1
        out[b, tiles:] = 0
