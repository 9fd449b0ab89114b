"""The row table of one shard: what assembly would otherwise work out again for every sample of every epoch.

To this package a row is bytes that the measure made; they are read back by their number among the shard's good samples.

Layout, little endian: rows one behind the other; an entry for each good sample; a footer; an xxh3-64 of entries and
footer. A row's own check is seeded with the xxh3-64 of its sample, so that neither damage nor another sample's row is
ever taken for it. Nothing depends on a row table but time: what it cannot give is made from the sample.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType

import numpy as np
import xxhash

from owl_stream.shards.source import Shard, open_regular
from owl_stream.shards.tables import (
    CHECK_BYTES,
    CostTable,
    IndexPlace,
    ScanTable,
    recipe_id,
    replaced,
    write_all,
    writing,
)
from owl_stream.shards.tar import BLOCK

_MAGIC, _VERSION = b"OWLROWS\0", 1
_ENTRY = struct.Struct("<QIQ")
_ENTRIES = np.dtype([("offset", "<u8"), ("nbytes", "<u4"), ("check", "<u8")])
_FOOTER = struct.Struct("<8sIIQq16s16sQ")
_CHECK = struct.Struct("<Q")
_IN_MEMORY_BYTES = 16 << 20
_COPY_BYTES = 1 << 20
_MOST_ROW_BYTES = 64 << 20
"""No row that a recipe allows is as long; an entry that says so is damaged, and must not cost the memory."""


class RowWriter:
    """Rows of a shard while it is scanned: in memory, or past 16 MiB in a nameless file of the index directory, so
    that an indexing process which is killed while it scans leaves nothing behind.
    """

    def __init__(self, place: IndexPlace, shard: Shard) -> None:
        self._place, self._shard, self._directory = place, shard, place.directory(shard)
        self._file = SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(self._directory))  # noqa: SIM115 - see __exit__
        self._blocks, self._ends, self._checks = array("Q"), array("Q"), array("Q")
        self._nbytes = 0

    def add(self, offset: int, digest: int, row: bytes) -> None:
        """Keep the row of the sample at `offset`, whose xxh3-64 is `digest`. Samples come as they lie in the shard."""
        with writing(self._directory):
            self._file.write(row)
        self._nbytes += len(row)
        self._blocks.append(offset // BLOCK)
        self._ends.append(self._nbytes)
        self._checks.append(_check(row, digest))

    def save(self, recipe_digest: str, scan: ScanTable, cost: CostTable, tables_digest: bytes) -> None:
        """Write the file, with entries for the samples that turned out good. `tables_digest` is that of both tables.

        Raises:
            ConfigError: the directory cannot be written or is full.
        """
        ends = np.array(self._ends, dtype="<u8")
        entries = np.empty(len(ends), _ENTRIES)
        entries["offset"] = np.concatenate([np.zeros(1, "<u8"), ends])[:-1]
        entries["nbytes"], entries["check"] = ends - entries["offset"], self._checks
        good = np.searchsorted(np.array(self._blocks, dtype="<u8"), scan.spans["block"][cost.measured])
        tail = entries[good].tobytes() + _footer(self._shard, recipe_digest, tables_digest, len(good))
        readers = self._place.readers(self._directory, [self._shard])
        with replaced(self._place.row_file(self._shard, recipe_digest), readers) as file:
            self._file.seek(0)
            at = 0
            while piece := self._file.read(_COPY_BYTES):
                at = write_all(file, piece, at)
            write_all(file, tail + _CHECK.pack(xxhash.xxh3_64_intdigest(tail)), at)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self._directory):  # what is buffered may find the disk full once more
            self._file.close()


class RowTable:
    """An open row table, which belongs to the tables of digest `tables_digest`; whoever opened it closes it."""

    def __init__(self, file: int, rows: int, entries_at: int, tables_digest: bytes) -> None:
        self._file, self._rows, self._entries_at = file, rows, entries_at
        self.tables_digest = tables_digest

    def read(self, number: int, digest: int) -> bytes | None:
        """The row of the shard's good sample `number`, whose xxh3-64 is `digest`; None where it is not to be had."""
        if not 0 <= number < self._rows:
            return None
        try:
            raw = os.pread(self._file, _ENTRY.size, self._entries_at + number * _ENTRY.size)
            if len(raw) != _ENTRY.size:
                return None
            offset, nbytes, check = _ENTRY.unpack(raw)
            if offset + nbytes > self._entries_at or nbytes > _MOST_ROW_BYTES:
                return None
            row = os.pread(self._file, nbytes, offset)
        except OSError:
            return None
        return row if _check(row, digest) == check else None

    def entries_are_whole(self) -> bool:
        """Whether entries and footer are as they were written; rows are checked when they are read."""
        digest, at = xxhash.xxh3_64(), self._entries_at
        end = at + self._rows * _ENTRY.size + _FOOTER.size
        try:
            while piece := os.pread(self._file, min(_COPY_BYTES, end - at), at):
                digest.update(piece)
                at += len(piece)
            return at == end and os.pread(self._file, CHECK_BYTES, end) == _CHECK.pack(digest.intdigest())
        except OSError:
            return False

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@dataclass(frozen=True)
class RowTables:
    """Where the row tables of one recipe lie; picklable."""

    place: IndexPlace
    recipe_digest: str

    def path(self, shard: Shard) -> Path:
        """The row table of a shard."""
        return self.place.row_file(shard, self.recipe_digest)

    def open(self, shard: Shard) -> RowTable | None:
        """The row table of a shard as it is now; None where there is none, or one of another program."""
        try:
            file = open_regular(self.path(shard))
        except OSError:
            return None
        table = self._table(shard, file)
        if table is None:
            os.close(file)
        return table

    def is_whole(self, shard: Shard, tables_digest: bytes) -> bool:
        """Whether the row table of a shard is there, belongs to these tables, and its entries are as written."""
        table = self.open(shard)
        if table is None:
            return False
        try:
            return table.tables_digest == tables_digest and table.entries_are_whole()
        finally:
            table.close()

    def _table(self, shard: Shard, file: int) -> RowTable | None:
        try:
            end = os.fstat(file).st_size - CHECK_BYTES - _FOOTER.size
            footer = os.pread(file, _FOOTER.size, max(end, 0))
            *_, tables_digest, rows = _FOOTER.unpack(footer)
        except (OSError, struct.error):
            return None
        if footer != _footer(shard, self.recipe_digest, tables_digest, rows) or rows * _ENTRY.size > end:
            return None
        return RowTable(file, rows, end - rows * _ENTRY.size, tables_digest)


def _check(row: bytes, digest: int) -> int:
    return xxhash.xxh3_64_intdigest(row, seed=digest)


def _footer(shard: Shard, recipe_digest: str, tables_digest: bytes, rows: int) -> bytes:
    stamp = shard.size, shard.mtime_ns
    return _FOOTER.pack(_MAGIC, _VERSION, _FOOTER.size, *stamp, recipe_id(recipe_digest), tables_digest, rows)
