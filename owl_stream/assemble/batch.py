"""A batch in the making: rows laid out in the memory of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.assemble.encode import Picture
from owl_stream.assemble.job import Job
from owl_stream.assemble.payload import MAX_REASON_BYTES, drawn_rows, header_bound, lay_out_payload
from owl_stream.errors import FrameError
from owl_stream.layouts import BatchReport, EncodedRow, Layout, Visual
from owl_stream.wire import ALIGNMENT, BatchHeader, PlacedFrame, RowInfo, frame_nbytes, tensor_views

_MASKED = "; the row was masked"

MASKED_LEVEL = 128
"""What a masked row's pictures are filled with: mid-grey, next to 0 once it is normalised."""

Blocks = Mapping[str, NDArray[np.uint8]]
"""A row's part of each drawn tensor, by the tensor's name: uint8 [rows, ...]."""


@dataclass(frozen=True, eq=False)
class Row:
    """A row of tokens, where it came from, its pictures, and what a cache calls them."""

    encoded: EncodedRow
    info: RowInfo
    pictures: tuple[tuple[Visual, Picture], ...] = ()
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

    def __init__(self, layout: Layout, job: Job, rows: Sequence[Row], buffer: memoryview) -> None:
        self._layout, self._job, self._buffer = layout, job, buffer
        sizes = [row.encoded.size for row in rows]
        self._lengths = layout.lengths(sizes)
        self._specs, self._nbytes = lay_out_payload(layout, sizes)
        self._start = -(-header_bound([_names(row.info) for row in rows]) // ALIGNMENT) * ALIGNMENT
        needed = self._start + frame_nbytes(0, self._nbytes)
        if needed > buffer.nbytes:
            raise FrameError(f"{job}: the frame needs a buffer of {needed} bytes, got {buffer.nbytes}")
        payload = buffer[self._start : self._start + self._nbytes]
        self._tensors: dict[str, NDArray[Any]] = tensor_views(payload, self._specs)
        parts = [drawn_rows(layout, size) for size in sizes]
        self._edges = {name: list(accumulate((part[name] for part in parts), initial=0)) for name in parts[0]}
        self._first_drawn = next((spec for spec in self._specs if spec.name in self._edges), None)
        self._frame: PlacedFrame | None = None

    def pixels(self, row: int) -> Blocks:
        """Where the pictures of a row go: its part of each drawn tensor, those that it has no part of left out."""
        return {
            name: self._tensors[name][edges[row] : edges[row + 1]]
            for name, edges in self._edges.items()
            if edges[row] < edges[row + 1]
        }

    def blank(self, row: int) -> None:
        """Make the pictures of a row mid-grey."""
        for block in self.pixels(row).values():
            block[...] = MASKED_LEVEL

    def collate(self, rows: Sequence[Row], pad_id: int) -> BatchReport:
        """Write the tensors that are not drawn and hold them against the layout's contract.

        Raises:
            ContractError: the batch must not be sent.
        """
        self._clear_gaps()
        self._layout.collate([row.encoded for row in rows], pad_id, self._tensors)
        return self._layout.check(self._tensors)

    def open(self, rows: Sequence[Row]) -> None:
        """Lay the header before the payload, whose text is written, in the hope that these rows stay as they are."""
        self._frame = PlacedFrame(self._buffer, self._start, self._nbytes, self._header(rows))

    def drawn(self, row: int) -> None:
        """The pictures of a row, and of all before it, are there: they are digested while they are in a cache.

        That goes for the first drawn tensor; another one lies behind it, and is digested at the end.
        """
        spec = self._first_drawn
        if self._frame is not None and spec is not None:
            self._frame.advance(spec.offset + self._edges[spec.name][row + 1] * (spec.nbytes // spec.shape[0]))

    def close(self) -> slice:
        """Lay the digest behind the payload of the frame that was opened last; returns where in the buffer it is."""
        assert self._frame is not None, "a frame is opened first"
        return self._frame.finish()

    def _header(self, rows: Sequence[Row]) -> BatchHeader:
        job, sizes = self._job, [row.encoded.size for row in rows]
        return BatchHeader(
            fingerprint=job.fingerprint,
            epoch=job.epoch,
            step=job.step,
            micro=job.micro,
            rank=job.rank,
            world_size=job.world_size,
            tensors=self._specs,
            rows=tuple(row.info for row in rows),
            attended_tokens=sum(size.text_tokens for size in sizes),
            supervised_tokens=sum(
                size.supervised_tokens for size, row in zip(sizes, rows, strict=True) if row.info.status == "ok"
            ),
            step_supervised_tokens=job.step_supervised_tokens,
            vision_tokens=sum(size.vision_tokens for size in sizes),
            units=sum(size.units for size in sizes),
            lengths=self._lengths,
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
