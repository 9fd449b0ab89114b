"""A batch in the making: rows laid out in the memory of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.assemble.crops import MASKED_LEVEL
from owl_stream.assemble.encode import Picture
from owl_stream.assemble.job import Job
from owl_stream.assemble.payload import MAX_REASON_BYTES, PIXELS, header_bound, lay_out_payload
from owl_stream.config import Recipe
from owl_stream.errors import FrameError
from owl_stream.layouts import EncodedRow, OffsetReport, View, get_layout
from owl_stream.wire import ALIGNMENT, BatchHeader, PlacedFrame, RowInfo, frame_nbytes, tensor_views

_MASKED = "; the row was masked"


@dataclass(frozen=True, eq=False)
class Row:
    """A row of text, where it came from, the pictures of its crops, and what a cache calls them."""

    encoded: EncodedRow
    info: RowInfo
    pictures: tuple[tuple[View, Picture], ...] = ()
    cache_key: bytes = b""

    def masked(self, fault: str) -> Row:
        """The same row with nothing to learn from; `fault` names place, expected and got."""
        room = MAX_REASON_BYTES - len(_MASKED)
        reason = fault.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + _MASKED
        return replace(self, encoded=self.encoded.masked(), info=replace(self.info, status="masked", reason=reason))

    def repeated(self, instead_of: Row) -> Row:
        """The same row where it stands in for a filler or a masked one."""
        gone = instead_of.info
        if gone.status == "filler":
            reason, replaces = "no row of this micro-batch is good; repeated in place of a filler", None
        else:
            reason, replaces = (
                gone.reason.removesuffix(_MASKED) + "; this row was repeated instead",
                (gone.shard, gone.key),
            )
        return replace(self, info=replace(self.info, status="repeated", reason=reason, replaces=replaces))


class Batch:
    """Rows of one micro-batch in `buffer`, whose bytes belong to the caller.

    The payload's place is chosen so that the longest header that these rows can get fits before it.
    """

    def __init__(self, recipe: Recipe, job: Job, rows: Sequence[Row], buffer: memoryview) -> None:
        self._layout, self._job, self._buffer = get_layout(recipe.layout), job, buffer
        crops = [row.encoded.crops for row in rows]
        self._first_crops = list(accumulate(crops, initial=0))
        self._specs, self._nbytes = lay_out_payload(recipe, [row.encoded.text_tokens for row in rows], crops)
        self._start = -(-header_bound([_names(row.info) for row in rows]) // ALIGNMENT) * ALIGNMENT
        needed = self._start + frame_nbytes(0, self._nbytes)
        if needed > buffer.nbytes:
            raise FrameError(f"{job}: the frame needs a buffer of {needed} bytes, got {buffer.nbytes}")
        payload = buffer[self._start : self._start + self._nbytes]
        self._tensors: dict[str, NDArray[Any]] = tensor_views(payload, self._specs)
        self._pixels = next((spec for spec in self._specs if spec.name == PIXELS), None)
        self._frame: PlacedFrame | None = None

    def crops(self, row: int) -> NDArray[np.uint8]:
        """Where the crops of a row go: uint8 [crops, 3, S, S]."""
        return self._tensors[PIXELS][self._first_crops[row] : self._first_crops[row + 1]]

    def blank(self, row: int) -> None:
        """Make the crops of a row mid-grey."""
        if self._first_crops[row] < self._first_crops[row + 1]:
            self.crops(row)[...] = MASKED_LEVEL

    def collate(self, rows: Sequence[Row], pad_id: int) -> OffsetReport:
        """Write the text tensors and hold them against the layout's contract.

        Raises:
            ContractError: the batch must not be sent.
        """
        self._clear_gaps()
        self._layout.collate([row.encoded for row in rows], pad_id, self._tensors)
        return self._layout.check(self._tensors, self._first_crops[-1])

    def open(self, rows: Sequence[Row]) -> None:
        """Lay the header before the payload, whose text is written, in the hope that these rows stay as they are."""
        self._frame = PlacedFrame(self._buffer, self._start, self._nbytes, self._header(rows))

    def drawn(self, row: int) -> None:
        """The crops of a row, and of all before it, are written: they are digested while they are in a cache."""
        if self._frame is not None and self._pixels is not None:
            crop_nbytes = self._pixels.nbytes // self._first_crops[-1]
            self._frame.advance(self._pixels.offset + self._first_crops[row + 1] * crop_nbytes)

    def close(self) -> slice:
        """Lay the digest behind the payload of the frame that was opened last; returns where in the buffer it is."""
        assert self._frame is not None, "a frame is opened first"
        return self._frame.finish()

    def _header(self, rows: Sequence[Row]) -> BatchHeader:
        job = self._job
        return BatchHeader(
            fingerprint=job.fingerprint,
            epoch=job.epoch,
            step=job.step,
            micro=job.micro,
            rank=job.rank,
            world_size=job.world_size,
            tensors=self._specs,
            rows=tuple(row.info for row in rows),
            attended_tokens=sum(row.encoded.text_tokens for row in rows),
            supervised_tokens=sum(row.encoded.supervised_tokens for row in rows if row.info.status == "ok"),
            step_supervised_tokens=job.step_supervised_tokens,
            crops=self._first_crops[-1],
        )

    def _clear_gaps(self) -> None:
        """Buffers are used again: what an earlier frame left between aligned tensors would make equal frames differ."""
        end = 0
        for spec in self._specs:
            self._buffer[self._start + end : self._start + spec.offset] = bytes(spec.offset - end)
            end = spec.offset + spec.nbytes


def _names(info: RowInfo) -> int:
    """Bytes of a row's names in the header."""
    return sum(len(name.encode()) for name in (info.shard, info.key, *(info.replaces or ())))
