"""Batches of text tensors as a worker would make them: arrays full of rubbish, then collated into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts import EncodedRow, Layout, Visual

RUBBISH = -77
PAD = 151643


def collated(layout: Layout, rows: Sequence[EncodedRow], pad_id: int = PAD) -> dict[str, NDArray[np.int64]]:
    """Allocate what the schema announces but pixels, filled with rubbish, and collate into it."""
    lengths = layout.lengths([row.size for row in rows])
    out = {
        entry.name: np.full([lengths[d] if isinstance(d, str) else d for d in entry.dims], RUBBISH, dtype=entry.dtype)
        for entry in layout.schema
        if entry.normalise is None
    }
    layout.collate(rows, pad_id, out)
    return out


def row(length: int, *crop_starts: int) -> EncodedRow:
    """A row of `length` tokens, the last one supervised, with crops at these positions."""
    ids = np.arange(length, dtype=np.int64)
    visuals = tuple(Visual(i, 0, "pixel_values", i, 1) for i in range(len(crop_starts)))
    starts = np.array(crop_starts, dtype=np.int64)
    return EncodedRow(ids, ((length - 1, length),), starts, visuals, len(crop_starts), 729 * len(crop_starts))
