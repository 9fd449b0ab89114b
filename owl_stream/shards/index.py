"""The index as the plan and the server see it: which samples there are, where they lie, what they cost.

Holds numbers per shard, and per sample two bits (up to four where there are videos): a hundred million samples with
images and without cost 25 MB of memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import DataChangedError, RequestError
from owl_stream.shards.columns import Columns, gather, read_findings, read_flags
from owl_stream.shards.cost import PACKED, Costs, Pool, Spans
from owl_stream.shards.quarantine import Quarantined
from owl_stream.shards.sample import split_name
from owl_stream.shards.source import Shard, open_shard
from owl_stream.shards.tables import SPAN
from owl_stream.shards.tar import BLOCK, FileTape, TarDamage, read_entry

_HEADER_CHUNK = 4 * BLOCK


class Index:
    """Immutable. Sample ids are 0 .. samples - 1 in manifest order: shard by shard, as they lie in the tars.

    Safe to read from several threads; whoever built it closes it. Arrays of ids and positions are int64 [n], in any
    order, repeats allowed; one that is out of range raises `RequestError`. Any method that reads may raise `ReadError`
    (try again) or `DataChangedError` (index again).
    """

    def __init__(self, shards: Sequence[Shard], columns: Columns) -> None:
        footer = columns.footer
        self.shards = tuple(shards)
        self.samples = footer.samples
        self.quarantined = footer.findings
        """Findings in `quarantine()`, damage of whole shards included."""
        self.notes = footer.notes
        """What is worth telling about good samples: how many there are of each note."""
        self.manifest_digest = footer.manifest_digest
        """32 hex digits over the good samples' bytes, in order; never over names, paths or times."""
        self.cost_digest = footer.cost_digest
        """32 hex digits over their costs."""
        self._columns = columns
        self._by_shard = np.array(footer.samples_by_shard, dtype=np.int64)
        by_pool: dict[Pool, list[int]] = {**footer.pools_by_shard, "all": footer.samples_by_shard}
        self._by_pool = {pool: np.array(counts, dtype=np.int64) for pool, counts in by_pool.items()}
        self._sizes = {pool: int(counts.sum()) for pool, counts in self._by_pool.items()}
        self._ends = np.cumsum(self._by_shard)
        self._flags = read_flags(columns)
        self._closed = False

    def pool_size(self, pool: Pool) -> int:
        """Samples of a pool."""
        return self._sizes[pool]

    def pool_ids(self, pool: Pool, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids of the samples at these positions of the pool."""
        positions = _within(positions, self.pool_size(pool), f"position in pool {pool}")
        if pool == "all":
            return positions
        return self._flags.ids(pool, positions)

    def pool_counts_by_shard(self, pool: Pool) -> NDArray[np.int64]:
        """How many samples of the pool each shard has, [shards]."""
        return self._by_pool[pool].copy()

    def costs(self, ids: NDArray[np.int64]) -> Costs:
        """What these samples cost."""
        return Costs.unpack(gather(self._file(), self._columns.regions.costs, PACKED, self._ids(ids)))

    def spans(self, ids: NDArray[np.int64]) -> Spans:
        """Where these samples lie."""
        ids = self._ids(ids)
        rows = gather(self._file(), self._columns.regions.spans, SPAN, ids)
        shard = np.searchsorted(self._ends, ids, side="right")
        return Spans(
            shard,
            ids - (self._ends - self._by_shard)[shard],
            rows["block"].astype(np.int64) * BLOCK,
            rows["length"].astype(np.int64),
            rows["digest"].astype(np.uint64),
        )

    def keys(self, ids: NDArray[np.int64]) -> list[str]:
        """Their keys, read from the headers in the tars: no table holds them.

        Raises:
            ShardError: a shard has gone.
        """
        spans = self.spans(ids)
        keys = [""] * len(spans.shard)
        for number in np.unique(spans.shard).tolist():
            shard = self.shards[number]
            file = open_shard(shard)
            try:
                for at in np.flatnonzero(spans.shard == number).tolist():
                    keys[at] = _key(file, shard, int(spans.offset[at]), int(spans.length[at]))
            finally:
                os.close(file)
        return keys

    def quarantine(self) -> Iterator[Quarantined]:
        """Every finding, by shard and offset."""
        for number, key, member, offset, reason, detail in read_findings(self._file(), self._columns):
            yield Quarantined(self.shards[number].name, key, member, offset, reason, detail)

    def close(self) -> None:
        """Close the file of columns; closing twice is fine."""
        if not self._closed:
            self._closed = True
            os.close(self._columns.file)

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _file(self) -> int:
        if self._closed:
            raise RequestError("the index is closed; build it again to read from it")
        return self._columns.file

    def _ids(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        return _within(ids, self.samples, "sample id")


def _within(numbers: NDArray[np.int64], size: int, what: str) -> NDArray[np.int64]:
    numbers = np.asarray(numbers, dtype=np.int64)
    outside = numbers[(numbers < 0) | (numbers >= size)]
    if len(outside):
        raise RequestError(f"{what}: expected 0 <= n < {size}, got {outside[0]}")
    return numbers


def _key(file: int, shard: Shard, offset: int, length: int) -> str:
    tape = FileTape(file, offset + length, shard.name, start=offset, chunk_bytes=_HEADER_CHUNK)
    try:
        entry = read_entry(tape, offset)
    except TarDamage as damage:
        raise DataChangedError(f"shard {shard.name} @ {offset}: {damage.detail}; index again") from damage
    named = split_name(entry.name) if entry is not None else None
    if named is None:
        raise DataChangedError(f"shard {shard.name} @ {offset}: expected a member of a sample; index again")
    return named[0]
