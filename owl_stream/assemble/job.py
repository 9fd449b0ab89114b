"""A job: everything that a worker must know to make one frame, small enough to send and to hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgpack

from owl_stream.assemble.payload import MAX_KEY_BYTES, header_bound, lay_out_payload
from owl_stream.layouts import Layout
from owl_stream.shards import RowSize
from owl_stream.wire import ALIGNMENT, frame_nbytes

FILLER_SIZE = RowSize(text_tokens=1, supervised_tokens=0)


class JobRow(NamedTuple):
    """One sample: where it lies (index of the shard, number among the shard's good samples, offset and length in
    bytes), its xxh3-64, and the size of its row.
    """

    shard: int
    number: int
    offset: int
    length: int
    digest: int
    size: RowSize

    @classmethod
    def of(cls, packed: Any) -> JobRow:
        """A row that was a tuple of tuples on its way."""
        shard, number, offset, length, digest, size = packed
        return cls(shard, number, offset, length, digest, RowSize(*size))


@dataclass(frozen=True)
class Job:
    """One micro-batch to assemble. Equal jobs make equal frames, whoever assembles them.

    `rows`: [m], None = filler. `spares`: the global step's rows in canonical order, of which the first good one is
    repeated where a micro-batch has none. `condemned`: digest -> reason, for samples whose decoder crashed or ran
    away: they are masked unseen. `on_bad_sample`: "fail" raises the SampleError instead of masking the row.
    """

    fingerprint: str
    epoch: int
    step: int
    micro: int
    rank: int
    world_size: int
    rows: tuple[JobRow | None, ...]
    spares: tuple[JobRow, ...]
    step_supervised_tokens: int
    condemned: Mapping[int, str] = field(default_factory=dict)
    on_bad_sample: Literal["mask", "fail"] = "mask"

    def __str__(self) -> str:
        return f"epoch {self.epoch}, step {self.step}, micro {self.micro}, rank {self.rank} of {self.world_size}"

    def row_at(self, progress: int) -> JobRow:
        """The sample that an assembler was at when it called `progress`: a row, or behind the rows a spare."""
        row = self.rows[progress] if progress < len(self.rows) else self.spares[progress - len(self.rows)]
        assert row is not None, "fillers make no progress"
        return row

    def payload_nbytes(self, layout: Layout) -> int:
        """Bytes of the payload when no row is repeated."""
        return lay_out_payload(layout, self._sizes())[1]

    def capacity(self, layout: Layout, max_shard_name_bytes: int) -> int:
        """Bytes that surely hold the frame, whichever rows turn out bad and whichever spare is repeated."""
        sizes = self._sizes()
        if self.spares:
            # One filler, else any one row, may give way to any one spare.
            gone = FILLER_SIZE if None in self.rows else RowSize(*map(min, zip(*sizes, strict=True)))
            most = RowSize(*map(max, zip(*(spare.size for spare in self.spares), strict=True)))
            media = [max(0, more - less) for more, less in zip(most[2:], gone[2:], strict=True)]
            sizes.append(RowSize(most.text_tokens, most.supervised_tokens, *media))
        payload = lay_out_payload(layout, sizes)[1]
        keys = [min(MAX_KEY_BYTES, row.length) for row in (*self.rows, *self.spares) if row is not None]
        header = header_bound([(max_shard_name_bytes + max(keys, default=0)) * 2] * len(self.rows))
        return frame_nbytes(header, payload) + ALIGNMENT

    def to_bytes(self) -> bytes:
        """The job as msgpack."""
        packed: bytes = msgpack.packb(
            (
                (self.fingerprint, self.epoch, self.step, self.micro, self.rank, self.world_size),
                self.rows,
                self.spares,
                self.step_supervised_tokens,
                sorted(self.condemned.items()),
                self.on_bad_sample,
            )
        )
        return packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Job:
        """The job that `to_bytes` wrote, in this program and version."""
        where, rows, spares, supervised, condemned, on_bad = msgpack.unpackb(data, use_list=False)
        fingerprint, epoch, step, micro, rank, world_size = where
        return cls(
            fingerprint,
            epoch,
            step,
            micro,
            rank,
            world_size,
            tuple(None if row is None else JobRow.of(row) for row in rows),
            tuple(JobRow.of(row) for row in spares),
            supervised,
            dict(condemned),
            on_bad,
        )

    def _sizes(self) -> list[RowSize]:
        """The size of each row; a filler is one token."""
        return [FILLER_SIZE if row is None else row.size for row in self.rows]
