"""mPLUG-Owl3-7B-241101: crops are named to the model by the positions at which they start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.media import IMAGE
from owl_stream.layouts.offsets import check_positions
from owl_stream.layouts.owl3 import Owl3Layout
from owl_stream.layouts.types import EncodedRow, OffsetReport, TensorShape


class Owl3Layout241101(Owl3Layout):
    """`media_offset`: int64 [crops], each crop's start within its own row; `media_offset_lengths`: int64 [B].

    A token sees the crops that start at it or before it, so a row without images simply has none.
    """

    name: ClassVar[str] = "owl3-241101"

    def check(self, tensors: Mapping[str, Any], crops: int) -> OffsetReport:
        """Reads `media_offset`, `media_offset_lengths` and, where present, `attention_mask`."""
        return check_positions(
            tensors["media_offset"], crops, tensors.get("media_offset_lengths"), tensors.get("attention_mask")
        )

    def _cut_prompt(self, rows: int, cols: int) -> str:
        line = " ".join([IMAGE] * cols)
        return "\n".join([f"<|start_cut|>{rows}*{cols}", *[line] * rows, f"{IMAGE}<|end_cut|>"])

    def _video_prompt(self, frames: int) -> str:
        return f"<|start_video_frame|>{IMAGE * frames}<|end_video_frame|>"

    def _offset_tensors(self, shape: tuple[int, int], crops: int) -> tuple[TensorShape, ...]:
        return (
            TensorShape("media_offset", "int64", (crops,)),
            TensorShape("media_offset_lengths", "int64", (shape[0],)),
        )

    def _collate_offsets(self, rows: Sequence[EncodedRow], out: Mapping[str, NDArray[Any]]) -> None:
        out["media_offset"][:] = np.concatenate([row.crop_starts for row in rows])
        out["media_offset_lengths"][:] = [row.crops for row in rows]
