"""The contract of `media_offset` as functions: what the released models silently misread or die of, named.

Vectorised, because they run on every batch. In the errors, row and position -1 stand for the tensor as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import MediaOffsetError

NO_IMAGE = -1_000_000
"""What `media_offset[b, :, 1]` holds in a row without images (release 240728)."""


@dataclass(frozen=True)
class OffsetReport:
    """What the contract check saw. `query_rows`: rows whose tokens the model's cross-attention takes as queries."""

    rows_with_images: int
    text_only_rows: int
    crops: int
    query_rows: int


_Int = NDArray[np.int64]
_Bool = NDArray[np.bool_]


def check_counts(media_offset: Any, crops: int, attention_mask: Any = None) -> OffsetReport:
    """Release 240728: `media_offset` int64 [B, L, 2] of a batch with `crops` crops.

    The model's `select_query` takes the cells with [..., 1] >= 0 as whole rows of L, so a row is all >= 0 or all
    negative; its cross-attention reads `media_offset[b, L - 1]` as (first crop, last crop + 1) and demands that the
    counts along the row grow by exactly the crops so named.

    Raises:
        MediaOffsetError: at the first cell that breaks this.
    """
    offset = _int64(media_offset, "[B, L, 2]")
    if offset.ndim != 3 or offset.shape[2] != 2 or not offset.size:
        raise MediaOffsetError(-1, -1, "shape [B, L, 2], B and L at least 1", f"shape {list(offset.shape)}")
    first, seen = offset[:, :, 0], offset[:, :, 1]
    has_images = seen[:, 0] >= 0
    counts = np.where(has_images, seen[:, -1] - seen[:, 0], 0)
    if not _counts_hold(first, seen, has_images, counts, crops, attention_mask):
        _name_wrong_count(first, seen, has_images, crops, attention_mask)
    return _report(counts)


def _counts_hold(first: _Int, seen: _Int, has_images: _Bool, counts: _Int, crops: int, attention_mask: Any) -> bool:
    """All that `_name_wrong_count` demands, in few passes: where values grow by 0 or 1, a row's ends tell the rest."""
    starts = np.cumsum(counts) - counts
    text_only = ~has_images
    if not (
        ((seen[:, 1:] - seen[:, :-1]).view(np.uint64) <= 1).all()
        and (first == starts[:, None]).all()
        and (text_only | ((seen[:, 0] == starts) & (counts > 0))).all()
        and (has_images | ((seen[:, 0] == NO_IMAGE) & (seen[:, -1] == NO_IMAGE))).all()
        and counts.sum() == crops
    ):
        return False
    if attention_mask is None:
        return True
    lengths = _attended(attention_mask, (seen.shape[0], seen.shape[1]))
    return bool((seen[np.arange(len(seen)), lengths - 1] == seen[:, -1]).all())


def _name_wrong_count(first: _Int, seen: _Int, has_images: _Bool, crops: int, attention_mask: Any) -> None:
    """Find the first cell that breaks the contract.

    Raises:
        MediaOffsetError: with its place.
    """
    _demand_cells((seen >= 0) == has_images[:, None], seen, "a row all >= 0 or all negative, as at position 0")
    _demand_cells((seen == NO_IMAGE) | has_images[:, None], seen, f"{NO_IMAGE} all along a row without images")
    steps = np.diff(seen, axis=1)
    grows = np.concatenate([np.ones((len(seen), 1), dtype=bool), (steps == 0) | (steps == 1)], axis=1)
    _demand_cells(grows, seen, "the value before it, or that plus 1")
    counts = np.where(has_images, seen[:, -1] - seen[:, 0], 0)
    starts = np.cumsum(counts) - counts
    _demand_cells(first == starts[:, None], first, "the number of crops in earlier rows in [..., 0]", starts)
    _demand_rows(~has_images | (seen[:, 0] == starts), 0, seen[:, 0], "the number of crops in earlier rows", starts)
    _demand_rows(~has_images | (counts > 0), seen.shape[1] - 1, seen[:, -1], "at least one crop seen", starts + 1)
    _demand_total(counts, crops)
    if attention_mask is not None:
        lengths = _attended(attention_mask, (seen.shape[0], seen.shape[1]))
        last = seen[np.arange(len(seen)), lengths - 1]
        padding = np.arange(seen.shape[1]) >= lengths[:, None]
        _demand_cells(~padding | (seen == last[:, None]), seen, "padding to repeat the row's last value", last)
    raise AssertionError("a quick test refused what every single demand allows")


def check_positions(media_offset: Any, crops: int, lengths: Any = None, attention_mask: Any = None) -> OffsetReport:
    """Release 241101: start positions, flat int64 [crops] with `lengths` int64 [B], or a sequence of B int64 arrays.

    Raises:
        MediaOffsetError: at the first entry that breaks the contract; `position` counts entries within the row.
    """
    flat, counts = _flat(media_offset, lengths)
    if (negative := np.flatnonzero(counts < 0)).size:
        row = int(negative[0])
        raise MediaOffsetError(row, -1, "a length >= 0", str(counts[row]))
    if counts.sum() != len(flat):
        raise MediaOffsetError(-1, -1, f"lengths that sum to the {len(flat)} entries", f"a sum of {counts.sum()}")
    _demand_total(counts, crops)
    rows = np.repeat(np.arange(len(counts)), counts)
    entries = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    _demand_entries(flat >= 0, rows, entries, flat, "a position >= 0")
    rising = np.ones(len(flat), dtype=bool)
    rising[1:] = (np.diff(flat) > 0) | (rows[1:] != rows[:-1])
    _demand_entries(rising, rows, entries, flat, "a position behind the one before it")
    if attention_mask is not None:
        ends = _attended(attention_mask, (len(counts), -1))
        _demand_entries(flat < ends[rows], rows, entries, flat, "a position within the row's attended tokens")
    return _report(counts)


def _flat(media_offset: Any, lengths: Any) -> tuple[_Int, _Int]:
    if lengths is not None:
        flat, counts = _int64(media_offset, "[crops]"), _int64(lengths, "[B]")
    else:
        parts = [_int64(row, "[crops of the row]") for row in media_offset]
        if any(part.ndim != 1 for part in parts):
            raise MediaOffsetError(-1, -1, "one int64 array per row, or `lengths`", "entries of another shape")
        flat = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        counts = np.array([len(part) for part in parts], dtype=np.int64)
    if flat.ndim != 1 or counts.ndim != 1 or not len(counts):
        got = f"shapes {list(flat.shape)} and {list(counts.shape)}"
        raise MediaOffsetError(-1, -1, "shapes [crops] and [B], an entry for each of B >= 1 rows", got)
    return flat, counts


def _int64(values: Any, shape: str) -> _Int:
    array = np.asarray(values)
    if array.dtype != np.int64:
        raise MediaOffsetError(-1, -1, f"int64 {shape}", f"{array.dtype} {list(array.shape)}")
    return array


def _attended(attention_mask: Any, shape: tuple[int, int]) -> _Int:
    """Return the number of attended tokens of each row of a right-padded mask; -1 in `shape` is any length."""
    mask = np.asarray(attention_mask) != 0
    if mask.ndim != 2 or mask.shape[0] != shape[0] or shape[1] not in (-1, mask.shape[1]):
        raise MediaOffsetError(
            -1, -1, f"an attention_mask of {shape[0]} rows like media_offset", f"shape {list(mask.shape)}"
        )
    lengths: _Int = np.count_nonzero(mask, axis=1).astype(np.int64)
    expected = np.arange(mask.shape[1]) < np.maximum(lengths, 1)[:, None]
    _demand_cells(mask == expected, mask.astype(np.int64), "an attention_mask that starts with 1 and pads on the right")
    return lengths


def _demand_cells(holds: _Bool, values: _Int, expected: str, per_row: _Int | None = None) -> None:
    if holds.all():
        return
    row, position = (int(i) for i in np.argwhere(~holds)[0])
    exact = "" if per_row is None else f" ({per_row[row]})"
    raise MediaOffsetError(row, position, expected + exact, str(values[row, position]))


def _demand_rows(holds: _Bool, position: int, values: _Int, expected: str, per_row: _Int) -> None:
    if not holds.all():
        row = int(np.flatnonzero(~holds)[0])
        raise MediaOffsetError(row, position, f"{expected} ({per_row[row]})", str(values[row]))


def _demand_entries(holds: _Bool, rows: _Int, entries: _Int, values: _Int, expected: str) -> None:
    if not holds.all():
        at = int(np.flatnonzero(~holds)[0])
        raise MediaOffsetError(int(rows[at]), int(entries[at]), expected, str(values[at]))


def _demand_total(counts: Sequence[int] | _Int, crops: int) -> None:
    total = int(np.sum(counts))
    if total != crops:
        raise MediaOffsetError(-1, -1, f"the batch's {crops} crops", f"{total} crops named")


def _report(counts: _Int) -> OffsetReport:
    with_images = int(np.count_nonzero(counts))
    return OffsetReport(with_images, len(counts) - with_images, int(counts.sum()), query_rows=with_images)
