"""Which columns file belongs to these shards, known without reading their tables: a start must not read gigabytes.

A shortcut is a small file named by a digest over the shards' sizes and times and over the checksums in which their
tables end. What changes a table, or a shard, so leads to no shortcut or another one; a table that rots in the middle
does not, and need not: its content is in the columns file, which has a checksum of its own.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import xxhash

from owl_stream.errors import ConfigError
from owl_stream.shards.source import Shard, open_regular, read_regular
from owl_stream.shards.tables import CHECK_BYTES, IndexPlace, replaced, write_all

_MAGIC = b"OWLSHORT\x01"
_ADDRESS_BYTES = 16
_BODY = struct.Struct(f"<{len(_MAGIC)}s{_ADDRESS_BYTES}s{_ADDRESS_BYTES}s")
_CHECK = struct.Struct("<Q")
_STAMP = struct.Struct("<Qq")
_log = logging.getLogger("owl_stream.shards")


class Shortcut:
    """From shards as they are now, with their tables, to the address of a columns file."""

    def __init__(
        self, place: IndexPlace, shards: Sequence[Shard], recipe_digest: str, *, with_rows: bool = False
    ) -> None:
        self._path: Path | None = None
        self._place, self._shards = place, shards
        seen = _seen(place, shards, recipe_digest, with_rows=with_rows)
        if seen is not None:
            self._seen = seen
            self._path = place.directory(shards[0]) / f"manifest.{seen.hex()}.shortcut"

    def follow(self) -> str | None:
        """The address; None where no whole shortcut is. Damage is said once in the log of `owl_stream.shards`."""
        if self._path is None:
            return None
        try:
            raw = read_regular(self._path)
        except OSError:
            return None
        body, check = raw[: _BODY.size], raw[_BODY.size :]
        if len(body) != _BODY.size or check != _CHECK.pack(xxhash.xxh3_64_intdigest(body)):
            _log.warning("index file %s is damaged (%d bytes): it is made again", self._path, len(raw))
            return None
        magic, seen, address = _BODY.unpack(body)
        return address.hex() if (magic, seen) == (_MAGIC, self._seen) else None

    def save(self, address: str) -> None:
        """Remember where the shards' columns lie. Where nothing can be written the next start reads the tables."""
        if self._path is None:
            return
        body = _BODY.pack(_MAGIC, self._seen, bytes.fromhex(address))
        try:
            readers = self._place.readers(self._path.parent, self._shards)
            with replaced(self._path, readers) as file:
                write_all(file, body + _CHECK.pack(xxhash.xxh3_64_intdigest(body)), 0)
        except ConfigError as exc:
            _log.info("the next start will read all tables again: %s", exc)


def _seen(place: IndexPlace, shards: Sequence[Shard], recipe_digest: str, *, with_rows: bool) -> bytes | None:
    """A digest over what can be told of shards and tables at a glance; None where a table is missing."""
    digest = xxhash.xxh3_128()
    try:
        for shard in shards:
            digest.update(_STAMP.pack(shard.size, shard.mtime_ns))
            digest.update(_end(place.scan_file(shard)))
            digest.update(_end(place.cost_file(shard, recipe_digest)))
            if with_rows:
                digest.update(_end(place.row_file(shard, recipe_digest)))
    except OSError:
        return None
    return digest.digest()


def _end(path: Path) -> bytes:
    """The checksum in which a table ends, and the table's size."""
    file = open_regular(path)
    try:
        size = os.fstat(file).st_size
        return size.to_bytes(8, "little") + os.pread(file, CHECK_BYTES, max(0, size - CHECK_BYTES))
    finally:
        os.close(file)
