"""The scan table and the cost table of one shard, as files that are either whole and right or made again.

A file is a header, rows, findings and notes (msgpack) and an xxh3-64 of everything before it; little endian. It is
written beside its final name, flushed and renamed, so a reader sees all of it or none. It says which shard file (size,
mtime), which recipe and, for costs, which scan it belongs to.
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from owl_stream.errors import ConfigError
from owl_stream.privacy import PRIVATE, Readers, create, make_directory, readers_of
from owl_stream.shards.cost import PACKED, UNMEASURED, Costs
from owl_stream.shards.quarantine import Quarantined
from owl_stream.shards.source import Shard, read_regular

SPAN = np.dtype([("block", "<u4"), ("length", "<u4"), ("digest", "<u8")])
"""16 bytes a sample: where its first header lies (in blocks of 512 bytes), bytes, xxh3-64."""

_NO_NOTES: Mapping[str, int] = MappingProxyType({})
_MAGIC = b"OWLTABLE"
_VERSION = 3
_HEADER = struct.Struct("<8sIIQq16s16sQQ")
_CHECK = struct.Struct("<Q")
CHECK_BYTES = _CHECK.size
"""A table ends with a checksum of all before it."""

_ABANDONED_S = 86400.0
"""A file is written within minutes; after this it is nobody's any more."""

_log = logging.getLogger("owl_stream.shards")


@dataclass(frozen=True)
class ScanTable:
    """Independent of any recipe: spans of the samples that are whole (SPAN [n]), and what is wrong with the others."""

    spans: NDArray[np.void]
    findings: tuple[Quarantined, ...]


@dataclass(frozen=True)
class CostTable:
    """Of one recipe: costs of the same samples, why it refused some, and notes about the others, counted."""

    costs: Costs
    findings: tuple[Quarantined, ...]
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """[n]: which samples are good under the recipe."""
        return np.asarray(self.costs.text_tokens != UNMEASURED.text_tokens)


@dataclass(frozen=True)
class IndexPlace:
    """Where index files lie: beside each shard in `.owl-index/`, or all in `index_dir`."""

    index_dir: Path | None

    def directory(self, shard: Shard) -> Path:
        """The directory of the shard's files."""
        return self.index_dir if self.index_dir is not None else shard.path.parent / ".owl-index"

    def by_directory(self, shards: Sequence[Shard]) -> dict[Path, list[Shard]]:
        """The shards by the directory of their files."""
        inside: dict[Path, list[Shard]] = {}
        for shard in shards:
            inside.setdefault(self.directory(shard), []).append(shard)
        return inside

    def scan_file(self, shard: Shard) -> Path:
        """The scan table of a shard."""
        return self.directory(shard) / f"{self.stem(shard)}.scan"

    def cost_file(self, shard: Shard, recipe_digest: str) -> Path:
        """The cost table of a shard under a recipe."""
        return self.directory(shard) / f"{self.stem(shard)}.{recipe_id(recipe_digest).hex()[:16]}.cost"

    def row_file(self, shard: Shard, recipe_digest: str) -> Path:
        """The row table of a shard under a recipe."""
        return self.cost_file(shard, recipe_digest).with_suffix(".rows")

    def stem(self, shard: Shard) -> str:
        """What the names of a shard's files begin with."""
        # Beside the shards a data set may be moved as a whole; in one directory equal base names must not meet.
        identity = shard.path.name if self.index_dir is None else os.path.abspath(shard.path)
        readable = "".join(letter if letter.isascii() and letter.isprintable() else "_" for letter in shard.path.name)
        return f"{readable[:80]}.{xxhash.xxh3_64_hexdigest(os.fsencode(identity))}"

    def readers(self, directory: Path, shards: Sequence[Shard]) -> Readers:
        """Who may read what is made of these shards and lies in one of their directories."""
        return readers_of((shard.path for shard in shards), directory)

    def prepare(self, directory: Path, shards: Sequence[Shard]) -> None:
        """Make a directory for files of these shards and see that it can be written, before hours are spent on reading.

        What an indexing process was writing when it was killed, a day ago or longer, is removed.

        Raises:
            ConfigError: it cannot.
        """
        with writing(directory):
            make_directory(directory, self.readers(directory, shards))
            probe = _unfinished(directory)
            os.close(create(probe, PRIVATE))
            now = probe.stat().st_mtime  # by the clock that the other files have their times from
            probe.unlink()
            _tidy(directory, now)


@dataclass(frozen=True)
class Tables:
    """Both tables of one shard, and a digest over the content of both (never over names or times)."""

    scan: ScanTable
    cost: CostTable
    digest: bytes


def save_tables(place: IndexPlace, shard: Shard, recipe_digest: str, scan: ScanTable, cost: CostTable) -> bytes:
    """Write both files; returns what `Tables.digest` will be. A scan that another recipe already wrote is written
    again with the same bytes.

    Raises:
        ConfigError: the directory cannot be written or is full; nothing half-written remains.
    """
    scan_body = _body(scan.spans, scan.findings)
    stamp = shard.size, shard.mtime_ns
    readers = place.readers(place.directory(shard), [shard])
    _write(place.scan_file(shard), readers, stamp, bytes(16), bytes(16), scan_body)
    cost_body = _body(cost.costs.pack(), cost.findings, cost.notes)
    scan_digest = _digest(scan_body)
    _write(place.cost_file(shard, recipe_digest), readers, stamp, recipe_id(recipe_digest), scan_digest, cost_body)
    return _both(scan_digest, cost_body)


def load_tables(place: IndexPlace, shard: Shard, recipe_digest: str) -> Tables | None:
    """What was saved for the shard as it is now, or None: absent, of another shard file or recipe, or damaged.

    Damage is said once in the log of `owl_stream.shards`; the tables are then made again.
    """
    stamp = shard.size, shard.mtime_ns
    scan = _read(place.scan_file(shard), stamp, bytes(16), bytes(16))
    if scan is None:
        return None
    scan_digest = _digest(scan)
    cost = _read(place.cost_file(shard, recipe_digest), stamp, recipe_id(recipe_digest), scan_digest)
    if cost is None:
        return None
    spans, scan_findings, _ = _parts(scan, SPAN)
    packed, cost_findings, notes = _parts(cost, PACKED)
    costs = Costs.unpack(packed)
    if len(spans) != len(costs):
        return None
    return Tables(ScanTable(spans, scan_findings), CostTable(costs, cost_findings, notes), _both(scan_digest, cost))


@contextmanager
def replaced(path: Path, readers: Readers) -> Iterator[int]:
    """A file descriptor to write to; what was written takes the name `path` at the end, or vanishes on any error.

    Nobody but the owner and `readers` may read the file, at any time.

    Raises:
        ConfigError: the directory cannot be written or is full.
    """
    temporary = _unfinished(path.parent)
    with writing(path.parent):
        file = create(temporary, readers)
        try:
            yield file
            os.fsync(file)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def write_all(file: int, data: bytes | memoryview, offset: int) -> int:
    """Write all of `data` at `offset`; returns the offset behind it."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
    return offset


def _unfinished(directory: Path) -> Path:
    """A new name for what is being written."""
    return directory / f".{secrets.token_hex(8)}.tmp"


def _tidy(directory: Path, now: float) -> None:
    for path in directory.glob(f".{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError):  # another process may have been quicker
            if now - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Say of a write that failed what to do about it.

    Raises:
        ConfigError: instead of an OSError.
    """
    try:
        yield
    except OSError as exc:
        raise ConfigError(
            f"cannot write the index to {directory}: {exc.strerror}; free space there, or choose a writable directory "
            "with --index-dir; `keep_rows: false` needs less room"
        ) from exc


def _body(rows: NDArray[np.void], findings: tuple[Quarantined, ...], notes: Mapping[str, int] = _NO_NOTES) -> bytes:
    found = [(bad.key, bad.member, bad.offset, bad.reason, bad.detail) for bad in findings]
    raw = rows.tobytes()
    packed: bytes = msgpack.packb((found, dict(notes)))
    return _CHECK.pack(len(raw)) + raw + packed


def _parts(body: bytes, dtype: np.dtype[np.void]) -> tuple[NDArray[np.void], tuple[Quarantined, ...], dict[str, int]]:
    (nbytes,) = _CHECK.unpack_from(body)
    rows = np.frombuffer(body, dtype, count=nbytes // dtype.itemsize, offset=_CHECK.size)
    found, notes = msgpack.unpackb(memoryview(body)[_CHECK.size + nbytes :])
    return rows, tuple(Quarantined("", *bad) for bad in found), notes


def _write(path: Path, readers: Readers, stamp: tuple[int, int], recipe: bytes, parent: bytes, body: bytes) -> None:
    header = _HEADER.pack(_MAGIC, _VERSION, _HEADER.size, *stamp, recipe, parent, len(body), 0)
    check = xxhash.xxh3_64(header)
    check.update(body)
    with replaced(path, readers) as file:
        write_all(file, header + body + _CHECK.pack(check.intdigest()), 0)


def _read(path: Path, stamp: tuple[int, int], recipe: bytes, parent: bytes) -> bytes | None:
    """The body of a file that belongs to these, or None."""
    try:
        raw = read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        _log.warning("index file %s cannot be read (%s): it is made again", path, exc.strerror)
        return None
    wrong = _damage(raw)
    if wrong:
        _log.warning("index file %s is %s (%d bytes): it is made again", path, wrong, len(raw))
        return None
    _, _, _, size, mtime_ns, of_recipe, of_parent, _, _ = _HEADER.unpack_from(raw)
    if ((size, mtime_ns), of_recipe, of_parent) != (stamp, recipe, parent):
        return None
    return raw[_HEADER.size : -_CHECK.size]


def _damage(raw: bytes) -> str:
    if len(raw) < _HEADER.size + _CHECK.size:
        return "truncated"
    if _CHECK.unpack(raw[-_CHECK.size :])[0] != xxhash.xxh3_64_intdigest(raw[: -_CHECK.size]):
        return "damaged"
    magic, version, header_bytes = _HEADER.unpack_from(raw)[:3]
    return "of another version" if (magic, version, header_bytes) != (_MAGIC, _VERSION, _HEADER.size) else ""


def _digest(body: bytes) -> bytes:
    return xxhash.xxh3_128_digest(body)


def _both(scan_digest: bytes, cost_body: bytes) -> bytes:
    return xxhash.xxh3_128_digest(scan_digest + _digest(cost_body))


def recipe_id(recipe_digest: str) -> bytes:
    """What a file says of the recipe that it belongs to, 16 bytes."""
    return xxhash.xxh3_128_digest(recipe_digest.encode())
