"""Batches of text tensors as a worker would make them: arrays full of rubbish, then collated into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts import EncodedRow, Layout, View

RUBBISH = -77
PAD = 151643


def collated(layout: Layout, rows: Sequence[EncodedRow], pad_id: int = PAD) -> dict[str, NDArray[np.int64]]:
    """Allocate what `tensors` announces, filled with rubbish, and collate into it."""
    shapes = layout.tensors([row.text_tokens for row in rows], [row.crops for row in rows])
    out = {t.name: np.full(t.shape, RUBBISH, dtype=t.dtype) for t in shapes}
    layout.collate(rows, pad_id, out)
    return out


def row(length: int, *crop_starts: int) -> EncodedRow:
    """A row of `length` tokens, the last one supervised, with crops at these positions."""
    ids = np.arange(length, dtype=np.int64)
    views = tuple(View(i, 0, None, 1) for i in range(len(crop_starts)))
    return EncodedRow(ids, ((length - 1, length),), np.array(crop_starts, dtype=np.int64), views)
