"""A job: everything that a worker must know to make one frame, small enough to send and to hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgpack

from owl_stream.assemble.payload import MAX_KEY_BYTES, header_bound, lay_out_payload
from owl_stream.config import Recipe
from owl_stream.wire import ALIGNMENT, frame_nbytes


class JobRow(NamedTuple):
    """One sample: where it lies (index of the shard, number among the shard's good samples, offset and length in
    bytes), its xxh3-64, and its cost.
    """

    shard: int
    number: int
    offset: int
    length: int
    digest: int
    text_tokens: int
    supervised_tokens: int
    crops: int


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

    def payload_nbytes(self, recipe: Recipe) -> int:
        """Bytes of the payload when no row is repeated."""
        lengths, crops = self._sizes()
        return lay_out_payload(recipe, lengths, crops)[1]

    def capacity(self, recipe: Recipe, max_shard_name_bytes: int) -> int:
        """Bytes that surely hold the frame, whichever rows turn out bad and whichever spare is repeated."""
        lengths, crops = self._sizes()
        if self.spares:
            # One filler, else any one row, may give way to any one spare.
            gone = 0 if None in self.rows else min(crops)
            crops.append(max(0, max(spare.crops for spare in self.spares) - gone))
            lengths.append(max(spare.text_tokens for spare in self.spares))
        payload = lay_out_payload(recipe, lengths, crops)[1]
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
            tuple(None if row is None else JobRow(*row) for row in rows),
            tuple(JobRow(*row) for row in spares),
            supervised,
            dict(condemned),
            on_bad,
        )

    def _sizes(self) -> tuple[list[int], list[int]]:
        """Text tokens and crops of each row; a filler is one token."""
        lengths = [1 if row is None else row.text_tokens for row in self.rows]
        return lengths, [0 if row is None else row.crops for row in self.rows]
