"""One pass over a shard: every byte read once, every sample hashed and measured, everything odd written down.

A member that is not read, or whose name is unknown, spoils the sample that it may belong to and no other. What comes
before damage stays good; what the damage may have touched does not, and the rest is counted as unread.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import xxhash

from owl_stream.errors import DataChangedError, SampleError, ShardError
from owl_stream.shards.cost import UNMEASURED, Costs, Measure, RowSize, check_fits
from owl_stream.shards.form import HEAD_BYTES, foreign_form
from owl_stream.shards.quarantine import Quarantined
from owl_stream.shards.sample import MAX_NAME_BYTES, name_fault, read_sample, sample_name
from owl_stream.shards.source import Shard, open_shard
from owl_stream.shards.tables import SPAN, CostTable, ScanTable
from owl_stream.shards.tar import BLOCK, Entry, FileTape, TarDamage, check_tail, read_entry

MAX_SAMPLE_BYTES = 1 << 30
"""A whole sample is held in memory, here and in every assembly worker."""

MOST_NOTES = 64
"""Kinds of notes that are counted by name, per shard and per data set."""

Tick = Callable[[int, int], None]
"""Called with (bytes read of this shard, samples seen in it); may raise to stop."""

Keep = Callable[[int, int, bytes], None]
"""Called for each sample that was measured with its offset, its xxh3-64 and `Cost.row`, as they lie in the shard."""

_MAX_SHARD_BYTES = BLOCK << 32
_EXAMPLES, _EXAMPLE_LETTERS = 3, 100


@dataclass(slots=True)
class _Group:
    """The sample whose members are being read."""

    key: str
    start: int
    end: int
    exts: set[str] = field(default_factory=set)
    fault: Quarantined | None = None


def scan_shard(
    shard: Shard, measure: Measure, tick: Tick, keep: Keep = lambda offset, digest, row: None
) -> tuple[ScanTable, CostTable]:
    """Read the shard once. Not every sample that is told to `keep` turns out good.

    Raises:
        ShardError: missing or unreadable, so nothing can be said about it.
        ReadError: storage failed; nothing is quarantined for that.
        DataChangedError: the file is being written.
    """
    if shard.size > _MAX_SHARD_BYTES:
        raise ShardError(shard.name, 0, "shard_too_large", f"{shard.size} bytes, more than {_MAX_SHARD_BYTES}")
    file = open_shard(shard)
    try:
        _check_unchanged(shard, file)
        tables = _Scan(shard, file, measure, tick, keep).run()
        _check_unchanged(shard, file)
        return tables
    finally:
        os.close(file)


def _check_unchanged(shard: Shard, file: int) -> None:
    status = os.fstat(file)
    if (status.st_size, status.st_mtime_ns) != (shard.size, shard.mtime_ns):
        raise DataChangedError(f"shard {shard.name} changed while it was being indexed; index it when it is complete")


def _frequent(notes: Counter[str]) -> dict[str, int]:
    """The most frequent notes by name: a shard may hold as many unknown fields as it has samples."""
    counts = dict(sorted(notes.most_common(MOST_NOTES)))
    rest = notes.total() - sum(counts.values())
    return {**counts, "other": rest} if rest else counts


class _Scan:
    """State of one pass. A *piece* is a run of members with one key; a sample is a key with exactly one piece."""

    def __init__(self, shard: Shard, file: int, measure: Measure, tick: Tick, keep: Keep) -> None:
        self._shard, self._measure, self._tick, self._keep = shard, measure, tick, keep
        self._tape = FileTape(file, shard.size, shard.name)
        self._group: _Group | None = None
        self._blocks, self._lengths, self._digests, self._sizes = array("Q"), array("Q"), array("Q"), array("Q")
        self._piece_of: dict[str, int] = {}
        self._last_key = ""
        self._broken: dict[int, Quarantined] = {}
        self._unmeasured: dict[int, Quarantined] = {}
        self._refused: dict[str, Quarantined] = {}
        self._of_shard: list[Quarantined] = []
        self._notes: Counter[str] = Counter()
        self._nameless: Quarantined | None = None
        """Of a nameless member that may belong to the next sample."""
        self._members = 0
        self._examples: list[str] = []

    def run(self) -> tuple[ScanTable, CostTable]:
        """Walk the headers from the first to the end or to the first damage."""
        at = 0
        try:
            while (entry := read_entry(self._tape, at)) is not None:
                self._see(entry)
                at = entry.next
            self._close()
            check_tail(self._tape, at)
        except TarDamage as damage:
            self._break(damage)
        if not self._piece_of and not self._refused and not self._of_shard:
            self._of_shard.append(Quarantined("", "", "", 0, "shard_empty", self._what_was_there()))
        self._tick(self._shard.size, len(self._blocks))
        return self._tables()

    def _see(self, entry: Entry) -> None:
        named = sample_name(entry.name) if entry.kind in ("file", "refused") else None
        self._members += 1
        if named is None and len(self._examples) < _EXAMPLES:
            self._examples.append(entry.name[:_EXAMPLE_LETTERS])
        if named is not None and entry.kind == "file":
            self._join(entry, *named)
        elif named is not None:
            key = named[0][:MAX_NAME_BYTES]
            self._refused.setdefault(key, _finding(key, entry, "member_type", entry.why))
        if entry.end > self._tape.end:
            left = self._tape.end - entry.offset
            detail = f"member {entry.name} should have {entry.size} bytes, the shard ends after {left}"
            name = "" if entry.kind == "nameless" else entry.name
            raise TarDamage(entry.offset, "tar_cut_in_data", detail, name)
        if entry.kind == "nameless":
            self._suspect(entry)
        group = self._group
        if group is not None and group.fault is None and entry.next - group.start > MAX_SAMPLE_BYTES:
            # A member behind this one would make it too large, and its bytes are held until it is closed.
            self._close()
        if self._group is None or self._group.fault is not None:
            self._tape.release(min(entry.next, self._tape.end))

    def _suspect(self, entry: Entry) -> None:
        """A member of unknown name belongs to the sample before it or to the one behind, as members lie together."""
        detail = f"a member whose name is unknown lies in or beside this sample, @ {entry.start}: {entry.why}"
        self._of_shard.append(Quarantined("", "", entry.name, entry.start, "tar_pax", entry.why).printable())
        if self._group is not None:
            beside = Quarantined("", self._group.key, "", self._group.start, "tar_pax", detail)
            self._group.fault = self._group.fault or beside
        self._nameless = Quarantined("", "", "", entry.start, "tar_pax", detail)

    def _join(self, entry: Entry, key: str, ext: str) -> None:
        bad_name = name_fault(entry.name)
        key = key[:MAX_NAME_BYTES] if bad_name else key
        if self._group is None or self._group.key != key:
            self._close()
            self._tape.release(entry.start)
            self._group = _Group(key, entry.start, entry.start)
            if self._nameless is not None:
                self._group.fault = replace(self._nameless, key=key, offset=entry.start).printable()
        self._nameless = None
        group = self._group
        group.end = entry.end
        if bad_name:
            group.fault = group.fault or _finding(key, entry, "member_name", f"{bad_name}; rename it")
        if ext.lower() in group.exts:
            group.fault = group.fault or _finding(key, entry, "member_duplicate", f"a second member `{ext.lower()}`")
        if entry.end - group.start > MAX_SAMPLE_BYTES:
            detail = f"more than {MAX_SAMPLE_BYTES} bytes in one sample"
            group.fault = group.fault or _finding(key, entry, "sample_too_large", detail)
        group.exts.add(ext.lower())

    def _close(self) -> None:
        """The open piece is whole: hash it and measure it, unless something is wrong with it."""
        group, self._group = self._group, None
        if group is None:
            return
        self._last_key = group.key
        piece = len(self._blocks)
        earlier = self._piece_of.setdefault(group.key, piece)
        if earlier != piece:
            detail = "the key comes again after other samples: members of a sample must lie together, keys be unique"
            twice = Quarantined("", group.key, "", group.start, "key_interleaved", detail)
            group.fault = group.fault or twice
            start = self._blocks[earlier] * BLOCK
            self._broken.setdefault(earlier, Quarantined("", group.key, "", start, "key_interleaved", detail))
        digest, size = 0, UNMEASURED
        if group.fault is not None:
            self._broken[piece] = group.fault
        else:
            span = self._tape.take(group.start, group.end - group.start)
            digest = xxhash.xxh3_64_intdigest(span)
            size = self._measured(piece, group, span, digest)
        self._blocks.append(group.start // BLOCK)
        self._lengths.append(min(group.end - group.start, 0xFFFF_FFFF))
        self._digests.append(digest)
        self._sizes.extend(size)
        self._tick(self._tape.position, len(self._blocks))

    def _measured(self, piece: int, group: _Group, span: bytes, digest: int) -> RowSize:
        try:
            cost = self._measure(read_sample(self._shard.name, span, group.start))
            check_fits(cost.size)
        except SampleError as exc:
            self._unmeasured[piece] = Quarantined.of(exc, key=group.key, offset=group.start)
            return UNMEASURED
        self._keep(group.start, digest, cost.row)
        if cost.notes:
            self._notes.update(cost.notes)
        return cost.size

    def _break(self, damage: TarDamage) -> None:
        """Quarantine the sample that the damage may have touched, and the damage itself."""
        detail = f"the shard is damaged in or right behind this sample: {damage.detail}"
        named = sample_name(damage.name)
        if named is not None and (self._group is None or self._group.key != named[0]):
            # The damage is another sample's: the open one is whole.
            self._close()
            key = named[0][:MAX_NAME_BYTES]
            lost = Quarantined("", key, damage.name, damage.offset, damage.reason, damage.detail)
            self._refused.setdefault(key, lost.printable())
        elif self._group is not None:
            self._group.fault = Quarantined("", self._group.key, "", self._group.start, damage.reason, detail)
            self._close()
        elif damage.reason == "tar_trailing" and self._blocks:
            # The zero block may have been a header of the last sample.
            last, start = len(self._blocks) - 1, self._blocks[-1] * BLOCK
            self._broken.setdefault(last, Quarantined("", self._last_key, "", start, damage.reason, detail))
        unread = self._shard.size - min(damage.offset, self._shard.size)
        reason, detail = damage.reason, damage.detail
        if damage.offset == 0 and self._shard.size:
            reason, detail = foreign_form(self._tape.take(0, min(HEAD_BYTES, self._shard.size))) or (reason, detail)
        if self._shard.size == 0:
            reason, detail = "shard_empty", "the file has zero bytes"
        finding = Quarantined("", "", "", damage.offset, reason, f"{detail}; {unread} bytes were left unread")
        self._of_shard.append(finding)

    def _what_was_there(self) -> str:
        if not self._members:
            return f"an empty archive: {self._shard.size} zero bytes"
        shown = ", ".join(f"`{name}`" for name in self._examples)
        more = ", ..." if self._members > len(self._examples) else ""
        return (
            f"no sample among its {self._members} members ({shown}{more}): directories, files without an extension, "
            "and what an operating system or a tool left"
        )

    def _tables(self) -> tuple[ScanTable, CostTable]:
        orphans = []
        for key, finding in self._refused.items():
            piece = self._piece_of.get(key)
            if piece is None:
                orphans.append(finding)
            else:
                self._broken.setdefault(piece, finding)
        good = np.ones(len(self._blocks), dtype=bool)
        good[list(self._broken)] = False
        spans = np.empty(len(self._blocks), dtype=SPAN)
        spans["block"], spans["length"], spans["digest"] = self._blocks, self._lengths, self._digests
        costs = Costs.of(np.array(self._sizes, dtype=np.int64))
        broken = sorted([*self._broken.values(), *orphans, *self._of_shard], key=lambda finding: finding.offset)
        unmeasured = [finding for piece, finding in sorted(self._unmeasured.items()) if good[piece]]
        scan = ScanTable(spans[good], tuple(finding.printable() for finding in broken))
        return scan, CostTable(costs[good], tuple(unmeasured), _frequent(self._notes))


def _finding(key: str, entry: Entry, reason: str, detail: str) -> Quarantined:
    found = Quarantined("", key, entry.name, entry.offset, reason, detail)
    # A long name is not kept as it is; all others are made printable at the end.
    return found if len(entry.name) <= MAX_NAME_BYTES else found.printable()
