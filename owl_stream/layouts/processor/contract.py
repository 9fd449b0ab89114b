"""What a batch of a form must hold, and what people see of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ContractError
from owl_stream.layouts.processor.batches import cut_name
from owl_stream.layouts.processor.form import Form
from owl_stream.layouts.text import attended_lengths
from owl_stream.layouts.types import BatchReport, RowLook


def check(form: Form, tensors: Mapping[str, Any]) -> BatchReport:
    """Hold a batch against its form; pixels are as on the wire, or as the processor returns them.

    Raises:
        ContractError: naming tensor or row, expected and got.
    """
    lengths = attended_lengths(tensors["attention_mask"])
    rows = [np.asarray(ids)[:length] for ids, length in zip(tensors["input_ids"], lengths, strict=True)]
    placeholders = [int(np.count_nonzero(ids == form.token_id)) for ids in rows]
    full = sum(count > 0 for count in placeholders)
    if (tensors.get(form.pixels) is not None) != (full > 0):
        raise ContractError(
            f"{form.pixels}: expected it where rows have {form.token}, {full} of them do, got "
            f"{'none' if full else 'it'}"
        )
    pictures = _check_pictures(form, tensors, full)
    tiles = None if form.tile_run is None else [_tiles(form, b, count) for b, count in enumerate(placeholders)]
    if full and tiles is not None:
        _check_tiles(form, tensors, tiles)
    units = sum(tiles or ()) if form.by_tile else pictures
    if units is None:
        units = sum(len(_runs(ids, form.token_id)) for ids in rows)
    return BatchReport(full, len(rows) - full, units)


def _tiles(form: Form, row: int, placeholders: int) -> int:
    assert form.tile_run is not None, "asked for such forms only"
    if placeholders % form.tile_run:
        raise ContractError(
            f"row {row}: expected {form.token} in whole tiles of {form.tile_run}, got {placeholders} of them"
        )
    return placeholders // form.tile_run


def _check_tiles(form: Form, tensors: Mapping[str, Any], expected: Sequence[int]) -> None:
    """`expected`: tiles of each row."""
    shape, cut = tuple(tensors[form.pixels].shape), tensors.get(cut_name(form))
    if cut is not None and form.structure == "row":
        _equal(cut_name(form), expected, np.asarray(cut).tolist())
    padded = cut is None and form.structure == "row"
    if padded:
        _equal(f"{form.pixels}, rows and tiles", [len(expected), max(expected)], list(shape[:2]))
    elif form.structure != "picture" or cut is not None:
        _equal(f"{form.pixels}, tiles", [sum(expected)], [shape[0]])
    for extra in form.of_kind("ones") if form.structure == "row" else ():
        mask = np.asarray(tensors[extra.name]) if extra.name in tensors else None
        if mask is None:
            raise ContractError(f"{extra.name}: expected it beside {form.pixels}, got none")
        first = mask.reshape(*mask.shape[:2], -1)[:, :, 0] != 0
        _equal(f"{extra.name}, tiles of each row", expected, first.sum(axis=1).tolist())


def _check_pictures(form: Form, tensors: Mapping[str, Any], full: int) -> int | None:
    """How many pictures there are, where a tensor tells; all that do must agree."""
    told: dict[str, int] = {}
    if full and form.structure == "picture":
        cut = tensors.get(cut_name(form))
        told[form.pixels] = len(tensors[form.pixels] if cut is None else cut)
    for extra in (*form.of_kind("picture"), *form.of_kind("count")):
        values = tensors.get(extra.name)
        if (values is None) == (full > 0):
            raise ContractError(f"{extra.name}: expected it beside {form.pixels}, and nowhere else")
        if values is None:
            continue
        if extra.kind == "count":
            _equal(f"{extra.name}, rows with pictures", [full], [len(values)])
        told[extra.name] = int(np.asarray(values).sum()) if extra.kind == "count" else len(values)
    if len({*told.values()}) > 1:
        raise ContractError(f"pictures: expected one number of them in all tensors, got {told}")
    return next(iter(told.values()), None if full else 0)


def _equal(what: str, expected: Sequence[int], got: Sequence[int]) -> None:
    if list(expected) != list(got):
        raise ContractError(f"{what}: expected {list(expected)}, as rows have placeholders, got {list(got)}")


def look(form: Form, tensors: Mapping[str, NDArray[Any]]) -> Sequence[RowLook]:
    """What each token stands for and sees: attention is taken for causal, as is common."""
    runs = [_runs(ids, form.token_id) for ids in tensors["input_ids"]]
    pictures = _pictures(form, tensors, sum(map(len, runs)))
    looks, first = [], 0
    for ids, found in zip(tensors["input_ids"], runs, strict=True):
        unit = np.full(len(ids), -1, dtype=np.int64)
        if form.by_tile:
            places = np.flatnonzero(ids == form.token_id)
            unit[places] = np.arange(len(places)) // (form.tile_run or 1)
        else:
            for number, (begin, end) in enumerate(found):
                unit[begin:end] = number
        sees = np.maximum.accumulate(unit) + 1
        count = int(sees[-1])
        says = [f"position {place}" + (f", unit {number}" if number >= 0 else "") for place, number in enumerate(unit)]
        looks.append(RowLook(unit, sees, says, pictures[first : first + count]))
        first += count
    return looks


def _runs(ids: NDArray[np.int64], token_id: int) -> list[tuple[int, int]]:
    """[begin, end) of each run of placeholders."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (ids == token_id).astype(np.int8), [0]])))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _pictures(form: Form, tensors: Mapping[str, NDArray[Any]], runs: int) -> list[NDArray[np.uint8]]:
    """One for each unit; none where tiles are no pictures, or where it cannot be told which are whose."""
    tiles = tensors.get(form.pixels)
    if tiles is None or len(form.tile) != 3:
        return []
    shown = np.moveaxis(tiles, form.axis, -1)
    if form.by_tile:
        return list(shown)
    counts = tensors[cut_name(form)].tolist() if form.structure == "picture" else [1] * len(shown)
    if len(counts) != runs:
        return []
    edges = np.cumsum([0, *counts]).tolist()
    return [_side_by_side(shown[edges[at] : edges[at + 1]]) for at in range(len(counts))]


def _side_by_side(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tiles [n, height, width, 3] in a square of them; what is left over is white."""
    count, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(count))
    lines = math.ceil(count / columns)
    canvas = np.full((lines * columns, height, width, 3), 255, np.uint8)
    canvas[:count] = tiles
    square = canvas.reshape(lines, columns, height, width, 3).swapaxes(1, 2)
    return square.reshape(lines * height, columns * width, 3)
