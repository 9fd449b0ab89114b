"""The columns of a whole manifest in one file, so that planning reads a few bytes and holds none of them in memory.

Layout, little endian: magic in 64 bytes; costs (PACKED), spans (SPAN), one bit a sample for those with images and one
for those with videos, findings (one msgpack array each), a footer (msgpack), its length (u64), and an xxh3-64 of all
that. 31 bytes a sample; with the 31 of its shard's tables that is a little over 62. The name is a digest of the
content, so a file is never changed.
"""

from __future__ import annotations

import logging
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from owl_stream.errors import ConfigError, DataChangedError, ReadError
from owl_stream.shards.cost import PACKED, TOWER_POOLS, Pool
from owl_stream.shards.flags import Flags, FlagWriter, flag_bytes
from owl_stream.shards.source import Shard, open_regular
from owl_stream.shards.tables import SPAN, IndexPlace, Tables, load_tables, replaced, write_all

MAX_SAMPLES = 1 << 32

_MAGIC = b"OWLCOLS\x04"
_START = 64
_U64 = struct.Struct("<Q")
_CHUNK = 1 << 20
_FINDINGS_CHUNK = 1 << 16
_ROWS_AT_ONCE = 1 << 11
_READ_ALONG_BYTES = 4096
"""Up to so much between two rows is read along, which is cheaper than asking twice; so 8 MiB are held at most."""

_log = logging.getLogger("owl_stream.shards")


@dataclass(frozen=True)
class Summary:
    """What is remembered of one shard's tables."""

    samples: int
    pools: Mapping[Pool, int]
    findings: int
    notes: Mapping[str, int]
    spans_digest: bytes
    costs_digest: bytes
    tables_digest: bytes

    @classmethod
    def of(cls, tables: Tables) -> Summary:
        """Digests cover the good samples only, in order: what a plan and its batches depend on."""
        good = tables.cost.measured
        spans, costs = tables.scan.spans[good], tables.cost.costs[good]
        content = np.empty(len(spans), dtype=[("digest", "<u8"), ("length", "<u4")])
        content["digest"], content["length"] = spans["digest"], spans["length"]
        return cls(
            samples=len(spans),
            pools={pool: int(np.count_nonzero(costs.in_pool(pool))) for pool in TOWER_POOLS},
            findings=len(tables.scan.findings) + len(tables.cost.findings),
            notes=tables.cost.notes,
            spans_digest=xxhash.xxh3_128_digest(content.tobytes()),
            costs_digest=xxhash.xxh3_128_digest(costs.pack().tobytes()),
            tables_digest=tables.digest,
        )


@dataclass(frozen=True)
class Footer:
    """What the columns file says about itself; per shard one number each."""

    manifest_digest: str
    cost_digest: str
    samples_by_shard: list[int]
    pools_by_shard: dict[Pool, list[int]]
    findings: int
    findings_bytes: int
    notes: dict[str, int]

    @property
    def samples(self) -> int:
        """Good samples in all."""
        return sum(self.samples_by_shard)


@dataclass(frozen=True)
class Regions:
    """Where each column begins."""

    costs: int
    spans: int
    images: int
    videos: int
    findings: int

    @classmethod
    def of(cls, samples: int) -> Regions:
        """Columns one behind the other."""
        spans = _START + samples * PACKED.itemsize
        images = spans + samples * SPAN.itemsize
        videos = images + flag_bytes(samples)
        return cls(_START, spans, images, videos, videos + flag_bytes(samples))


@dataclass(frozen=True)
class Columns:
    """An open columns file that is whole, named by `address`. Whoever holds it closes `file`."""

    address: str
    file: int
    footer: Footer
    regions: Regions


def compose(place: IndexPlace, shards: Sequence[Shard], summaries: Sequence[Summary], recipe_digest: str) -> Columns:
    """Open the columns file of these shards, writing it if there is none that is whole. The caller owns the descriptor.

    Raises:
        ConfigError: the directory cannot be written or is full, or there are more than 2^32 samples.
        DataChangedError: the tables changed since they were summarised.
    """
    if sum(summary.samples for summary in summaries) > MAX_SAMPLES:
        raise ConfigError(f"one dataset may have {MAX_SAMPLES} samples; split it")
    address = xxhash.xxh3_128_hexdigest(b"".join(summary.tables_digest for summary in summaries))
    opened = _open(place, shards, address)
    if opened is None:
        place.prepare(place.directory(shards[0]), shards)
        _write(columns_file(place, shards, address), place, shards, summaries, recipe_digest)
        opened = _open(place, shards, address)
    if opened is None:
        path = columns_file(place, shards, address)
        raise DataChangedError(f"index file {path} was damaged right after it was written; check that disk")
    return opened


def open_columns(place: IndexPlace, shards: Sequence[Shard], address: str) -> Columns | None:
    """The columns of that address, if they are there and whole. The caller owns the descriptor."""
    return _open(place, shards, address, on_damage=lambda path, exc: None)


def _write(
    path: Path, place: IndexPlace, shards: Sequence[Shard], summaries: Sequence[Summary], recipe_digest: str
) -> None:
    footer = Footer(
        manifest_digest=xxhash.xxh3_128_hexdigest(b"".join(summary.spans_digest for summary in summaries)),
        cost_digest=xxhash.xxh3_128_hexdigest(b"".join(summary.costs_digest for summary in summaries)),
        samples_by_shard=[summary.samples for summary in summaries],
        pools_by_shard={pool: [summary.pools[pool] for summary in summaries] for pool in TOWER_POOLS},
        findings=sum(summary.findings for summary in summaries),
        findings_bytes=0,
        notes=dict(sum((Counter(summary.notes) for summary in summaries), Counter[str]())),
    )
    regions = Regions.of(footer.samples)
    with replaced(path, place.readers(path.parent, shards)) as file:
        write_all(file, _MAGIC.ljust(_START, b"\0"), 0)
        end = _write_columns(file, regions, _loaded(place, shards, summaries, recipe_digest))
        packed = _pack(asdict(replace(footer, findings_bytes=end - regions.findings)))
        end = write_all(file, packed + _U64.pack(len(packed)), end)
        write_all(file, _U64.pack(_checksum(file, end)), end)


def _write_columns(file: int, regions: Regions, tables: Iterator[Tables]) -> int:
    costs_at, spans_at, findings_at = regions.costs, regions.spans, regions.findings
    images, videos = FlagWriter(file, regions.images), FlagWriter(file, regions.videos)
    for number, table in enumerate(tables):
        good = table.cost.measured
        costs = table.cost.costs[good]
        costs_at = write_all(file, costs.pack().tobytes(), costs_at)
        spans_at = write_all(file, table.scan.spans[good].tobytes(), spans_at)
        images.write(costs.has_images)
        videos.write(costs.has_videos)
        found = sorted([*table.scan.findings, *table.cost.findings], key=lambda finding: finding.offset)
        notes = [(number, note.key, note.member, note.offset, note.reason, note.detail) for note in found]
        findings_at = write_all(file, b"".join(_pack(note) for note in notes), findings_at)
    images.finish()
    videos.finish()
    return findings_at


def _loaded(
    place: IndexPlace, shards: Sequence[Shard], summaries: Sequence[Summary], recipe_digest: str
) -> Iterator[Tables]:
    for shard, summary in zip(shards, summaries, strict=True):
        tables = load_tables(place, shard, recipe_digest)
        if tables is None or tables.digest != summary.tables_digest:
            raise DataChangedError(f"shard {shard.name}: its index files changed while they were read; index again")
        yield tables


def columns_file(place: IndexPlace, shards: Sequence[Shard], address: str) -> Path:
    """The columns file of that address."""
    return place.directory(shards[0]) / f"manifest.{address}.columns"


def _say_damage(path: Path, exc: Exception) -> None:
    _log.warning("index file %s is damaged (%s): it is made again", path, exc)


def _open(
    place: IndexPlace,
    shards: Sequence[Shard],
    address: str,
    on_damage: Callable[[Path, Exception], None] = _say_damage,
) -> Columns | None:
    path = columns_file(place, shards, address)
    try:
        file = open_regular(path)
    except OSError:
        return None
    try:
        footer = _read_footer(file)
    except (ValueError, TypeError, OSError, struct.error, msgpack.UnpackException) as exc:
        os.close(file)
        on_damage(path, exc)
        return None
    return Columns(address, file, footer, Regions.of(footer.samples))


def _read_footer(file: int) -> Footer:
    end = os.fstat(file).st_size - _U64.size
    if end < _START or _U64.unpack(os.pread(file, _U64.size, end))[0] != _checksum(file, end):
        raise ValueError("wrong checksum")
    if os.pread(file, len(_MAGIC), 0) != _MAGIC:
        raise ValueError("wrong version")
    (nbytes,) = _U64.unpack(os.pread(file, _U64.size, end - _U64.size))
    return Footer(**msgpack.unpackb(os.pread(file, nbytes, end - _U64.size - nbytes)))


def _checksum(file: int, nbytes: int) -> int:
    digest, buffer = xxhash.xxh3_64(), memoryview(bytearray(_CHUNK))
    at = 0
    while at < nbytes:
        taken = os.preadv(file, [buffer[: nbytes - at]], at)
        if not taken:
            raise ValueError("it ends early")
        digest.update(buffer[:taken])
        at += taken
    return digest.intdigest()


def read_flags(columns: Columns) -> Flags:
    """Which towers samples call.

    Raises:
        ReadError, DataChangedError: as `gather`.
    """
    nbytes, pools = flag_bytes(columns.footer.samples), columns.footer.pools_by_shard
    images, videos = (_read(columns.file, nbytes, at) for at in (columns.regions.images, columns.regions.videos))
    return Flags(images, videos, [pool for pool in TOWER_POOLS if sum(pools[pool])])


def read_findings(file: int, columns: Columns) -> Iterator[tuple[int, str, str, int, str, str]]:
    """(shard number, key, member, offset, reason, detail), a chunk of the file at a time.

    Raises:
        ReadError, DataChangedError: as `gather`.
    """
    unpacker: Any = msgpack.Unpacker()
    at = columns.regions.findings
    end = at + columns.footer.findings_bytes
    while at < end:
        nbytes = min(_FINDINGS_CHUNK, end - at)
        unpacker.feed(_read(file, nbytes, at))
        at += nbytes
        for note in unpacker:
            yield tuple(note)


def gather(file: int, start: int, dtype: np.dtype[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """`column[rows]` of the column at `start`, reading neighbours together.

    Raises:
        ReadError: storage failed.
        DataChangedError: the file became shorter while it was open.
    """
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    out = np.empty(len(rows), dtype=dtype)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        out[order[part]] = _gather_sorted(file, start, dtype, wanted[part])
    return out


def _gather_sorted(file: int, start: int, dtype: np.dtype[Any], wanted: NDArray[np.int64]) -> NDArray[Any]:
    breaks = np.diff(wanted) > _READ_ALONG_BYTES // dtype.itemsize
    run_of_row = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(breaks)])
    firsts = np.flatnonzero(np.concatenate([np.ones(1, dtype=bool), breaks]))
    lasts = np.append(firsts[1:], len(wanted)) - 1
    low, rows_of_run = wanted[firsts], wanted[lasts] - wanted[firsts] + 1
    raw = _read_runs(file, (rows_of_run * dtype.itemsize).tolist(), (start + low * dtype.itemsize).tolist())
    place_of_run = np.cumsum(rows_of_run) - rows_of_run - low
    gathered: NDArray[Any] = np.frombuffer(raw, dtype)[wanted + place_of_run[run_of_row]]
    return gathered


def _read_runs(file: int, nbytes: list[int], offsets: list[int]) -> bytes:
    """Many small reads, whose number and not size is what they cost: nothing else is done in between."""
    pread = os.pread
    try:
        raw = b"".join([pread(file, size, at) for size, at in zip(nbytes, offsets, strict=True)])
    except OSError as exc:
        raise ReadError(f"index file @ {offsets[0]} to {offsets[-1]}: {exc.strerror}; try again") from exc
    if len(raw) != sum(nbytes):
        raise DataChangedError(
            f"index file @ {offsets[0]} to {offsets[-1]}: expected {sum(nbytes)} bytes, got {len(raw)}; index again"
        )
    return raw


def _read(file: int, nbytes: int, offset: int) -> bytes:
    try:
        raw = os.pread(file, nbytes, offset)
    except OSError as exc:
        raise ReadError(f"index file @ {offset}: {exc.strerror}; try again") from exc
    if len(raw) != nbytes:
        raise DataChangedError(f"index file @ {offset}: expected {nbytes} bytes, got {len(raw)}; index again")
    return raw


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
