"""mPLUG-Owl3-7B-240728: crops are named to the model as running counts per token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.conversation import IMAGE
from owl_stream.layouts.owl3.offsets import NO_IMAGE, OffsetReport, check_counts
from owl_stream.layouts.owl3.release import Owl3Layout
from owl_stream.layouts.types import EncodedRow, tensor
from owl_stream.wire import SchemaEntry


class Owl3Layout240728(Owl3Layout):
    """`media_offset`: int64 [B, L, 2], (crops of earlier rows, that + crops that start strictly before the token)."""

    name: ClassVar[str] = "owl3-240728"
    released: ClassVar[str] = "mPLUG/mPLUG-Owl3-7B-240728"
    released_side: ClassVar[int] = 384

    def check_offsets(self, tensors: Mapping[str, Any], crops: int) -> OffsetReport:
        """Reads `media_offset` and, where present, `attention_mask`."""
        return check_counts(tensors["media_offset"], crops, tensors.get("attention_mask"))

    def _cut_prompt(self, rows: int, cols: int) -> str:
        lines = (" ".join(f"subimg({i},{j}){IMAGE}" for j in range(cols)) for i in range(rows))
        return "\n".join(
            [f"Cut to {rows} rows {cols} columns with a global view", *lines, f"global_view{IMAGE}"],
        )

    def _video_prompt(self, frames: int) -> str:
        return IMAGE * frames

    def _offset_tensors(self) -> tuple[SchemaEntry, ...]:
        return (tensor("media_offset", "int64", "B", "L", 2),)

    def _collate_offsets(self, rows: Sequence[EncodedRow], out: Mapping[str, NDArray[Any]]) -> None:
        offsets, first = out["media_offset"], 0
        for b, row in enumerate(rows):
            offsets[b, :, 0] = first
            seen = offsets[b, :, 1]
            seen[:] = first if row.image_units else NO_IMAGE
            edges = [start + 1 for start in row.unit_starts.tolist()] + [seen.size]
            for crops, (begin, end) in enumerate(pairwise(edges), first + 1):
                seen[begin:end] = crops
            first += row.image_units

    def _look_rows(
        self, tensors: Mapping[str, NDArray[Any]]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Sequence[str]]]:
        for row in tensors["media_offset"]:
            sees = np.maximum(row[:, 1] - row[:, 0], 0)
            says = {cell: f"media_offset [{cell[0]}, {cell[1]}]" for cell in set(map(tuple, row.tolist()))}
            yield sees, np.flatnonzero(np.diff(sees)), [says[cell] for cell in map(tuple, row.tolist())]
