"""mPLUG-Owl3-7B-241101: crops are named to the model by the positions at which they start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.conversation import IMAGE
from owl_stream.layouts.owl3.offsets import OffsetReport, check_positions
from owl_stream.layouts.owl3.release import Owl3Layout
from owl_stream.layouts.types import EncodedRow, tensor
from owl_stream.wire import SchemaEntry

_LENGTHS = "media_offset_lengths"


class Owl3Layout241101(Owl3Layout):
    """`media_offset`: int64 [crops], each crop's start within its own row; `media_offset_lengths`: int64 [B].

    A token sees the crops that start at it or before it, so a row without images simply has none.
    """

    name: ClassVar[str] = "owl3-241101"
    released: ClassVar[str] = "mPLUG/mPLUG-Owl3-7B-241101"
    released_side: ClassVar[int] = 378

    def check_offsets(self, tensors: Mapping[str, Any], crops: int) -> OffsetReport:
        """Reads `media_offset`, `media_offset_lengths` and, where present, `attention_mask`."""
        return check_positions(tensors["media_offset"], crops, tensors.get(_LENGTHS), tensors.get("attention_mask"))

    def _cut_prompt(self, rows: int, cols: int) -> str:
        line = " ".join([IMAGE] * cols)
        return "\n".join([f"<|start_cut|>{rows}*{cols}", *[line] * rows, f"{IMAGE}<|end_cut|>"])

    def _video_prompt(self, frames: int) -> str:
        return f"<|start_video_frame|>{IMAGE * frames}<|end_video_frame|>"

    def _offset_tensors(self) -> tuple[SchemaEntry, ...]:
        return (tensor("media_offset", "int64", "C", lengths=_LENGTHS), tensor(_LENGTHS, "int64", "B"))

    def _collate_offsets(self, rows: Sequence[EncodedRow], out: Mapping[str, NDArray[Any]]) -> None:
        out["media_offset"][:] = np.concatenate([row.unit_starts for row in rows])
        out[_LENGTHS][:] = [row.image_units for row in rows]

    def _look_rows(
        self, tensors: Mapping[str, NDArray[Any]]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Sequence[str]]]:
        positions = np.arange(tensors["input_ids"].shape[1])
        ends = [0, *np.cumsum(tensors[_LENGTHS]).tolist()]
        for first, last in pairwise(ends):
            starts = tensors["media_offset"][first:last]
            sees = np.searchsorted(starts, positions, side="right")
            says = [f"media_offset {starts[:count].tolist()}" for count in range(len(starts) + 1)]
            yield sees, starts, [says[count] for count in sees.tolist()]
