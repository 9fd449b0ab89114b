"""Tar headers, strictly. `tarfile` takes a damaged or cut header for the end of the archive, silently; this does not.

Offsets are bytes from the start of the shard. ustar, old GNU and v7 headers, GNU long names and PAX are understood.
A member that is not read (sparse, multi-volume, a link, a vendor's type) is an entry too: its header says where the
next one is. docs/tars.md has the rules.
"""

from __future__ import annotations

import struct
import zlib
from typing import Literal, NamedTuple

from owl_stream.shards.pax import SPARSE, VOLUMES, Said, as_text
from owl_stream.shards.tape import CHUNK, FileTape, SpanTape, Tape

__all__ = ["BLOCK", "Entry", "FileTape", "SpanTape", "Tape", "TarDamage", "check_tail", "read_entry"]

BLOCK = 512
MAX_EXTENSION_BYTES = 16 << 20
"""What the extension headers of one member may take together. Names take 1 or 2 KiB, extended attributes up to some
hundred, and the list of a large directory (`tar --incremental`) several MiB."""

_ZERO = bytes(BLOCK)
_FIELDS = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")
"""Of a header block: name, size, checksum, type, magic, prefix (POSIX.1-1988, ustar)."""
_CHECKSUM = slice(148, 156)
_POSIX = b"ustar\0"
_HIGH = bytes(range(128, 256))
_EXTENSIONS = (b"x", b"X", b"g", b"L", b"K")
_GNU_TYPES = (b"S", b"L", b"K", b"D", b"M", b"V", b"N")
"""GNU tar has other things than a prefix in their headers, as in all that have its old magic."""
_HARD_LINK, _DUMPDIR, _SPARSE = b"1", b"D", b"S"
_DATALESS = (b"1", b"2", b"3", b"4", b"5", b"6")
_SPARSE_FLAG, _MAP_FLAG = 482, 504
"""Where a sparse member's header, and a block of its map, say that another block of the map follows."""

Kind = Literal["file", "refused", "nameless", "other"]
_LINK = "a link or device is never followed; store the data itself"
_KINDS: dict[bytes, tuple[Kind, str]] = {
    **dict.fromkeys((b"0", b"\0", b"7"), ("file", "")),
    **dict.fromkeys((b"1", b"2", b"3", b"4", b"6"), ("refused", _LINK)),
    **dict.fromkeys((b"5", b"V"), ("other", "")),
    _SPARSE: ("refused", SPARSE),
    b"M": ("refused", VOLUMES),
}
_NOTHING = Said()


class TarDamage(Exception):  # noqa: N818 - a finding that a scan records, not an error that a caller sees
    """From `offset` on the archive cannot be understood. Never leaves this package.

    `name` is the member's that cannot be passed over, where its header says so: then no other sample is touched.
    """

    def __init__(self, offset: int, reason: str, detail: str, name: str = "") -> None:
        super().__init__(offset, reason, detail)
        self.offset, self.reason, self.detail, self.name = offset, reason, detail, name


class Entry(NamedTuple):
    """One member: its headers begin at `start`, its data lies at `offset`, the next header at `next`.

    A `refused` one is a sample's, and `why` says why it is not read. Of a `nameless` one the extension headers are
    damaged (`why`), so that `name` may be wrong or cut. `other` is a directory or a label: nothing of a sample.
    """

    name: str
    kind: Kind
    start: int
    offset: int
    size: int
    why: str = ""

    @property
    def end(self) -> int:
        """Where the data ends; padding follows."""
        return self.offset + self.size

    @property
    def next(self) -> int:
        """Where the next member's headers begin."""
        return self.offset + _padded(self.size)


def read_entry(tape: Tape, offset: int) -> Entry | None:
    """The member whose headers begin at `offset`, or None for a zero block, the mark of the end.

    The entry's data is not touched and may reach past `tape.end`: the caller checks.

    Raises:
        TarDamage: a header that is none, or does not say where the next one is.
    """
    header = _read_header(tape, offset)
    if header is None:
        return None
    if header.type not in _EXTENSIONS:
        return _entry(tape, header, _NOTHING, offset, offset + BLOCK)
    said, at = Said(), offset
    while header is not None and header.type in _EXTENSIONS:
        at = _read_extension(tape, header, said, offset, at + BLOCK)
        header = _read_header(tape, at)
    if header is None:
        raise TarDamage(at, "tar_header", "a name header is followed by the end of the archive, not by its member")
    return _entry(tape, header, said, offset, at + BLOCK)


def check_tail(tape: FileTape, offset: int) -> None:
    """From the first zero block to the end of the file there is nothing but zeros.

    Raises:
        TarDamage: where the first chunk that is not zero begins.
    """
    while offset < tape.end:
        tape.release(offset)
        chunk = tape.take(offset, min(CHUNK, tape.end - offset))
        rest = chunk.lstrip(b"\0")
        if rest:
            at = offset + len(chunk) - len(rest)
            raise TarDamage(
                at, "tar_trailing", "bytes follow the zero blocks that end an archive: a wiped header, or joined tars"
            )
        offset += len(chunk)


class _Header(NamedTuple):
    """What one header block says that matters here; modes, owners and times do not."""

    name: str
    type: bytes
    size: int | bytes
    """Bytes: what stands there, which is no number."""


def _read_header(tape: Tape, offset: int) -> _Header | None:
    left = tape.end - offset
    if left <= 0:
        raise TarDamage(offset, "tar_no_end", "the shard ends without zero blocks: it may be cut at a member's edge")
    if left < BLOCK:
        raise TarDamage(offset, "tar_cut_in_header", f"the shard ends after {left} of {BLOCK} bytes of a header")
    block = tape.take(offset, BLOCK)
    if block == _ZERO:
        return None
    name, size_field, checksum, kind, magic, prefix = _FIELDS.unpack(block)
    # It counts its own field as spaces.
    if _number(checksum) != _sum(block) - sum(checksum) + 8 * 0x20 and not _is_right(block, checksum):
        raise TarDamage(offset, "tar_checksum", "not a tar header: wrong checksum")
    size = _number(size_field)
    path = as_text(name)
    if prefix[0] and magic == _POSIX and kind not in _GNU_TYPES:
        path = f"{as_text(prefix)}/{path}"
    return _Header(path, kind, size_field if size is None else size)


def _read_extension(tape: Tape, header: _Header, said: Said, start: int, offset: int) -> int:
    """Take in what an extension header says; where the next header is."""
    size = header.size
    if isinstance(size, bytes) or not 0 <= size < 1 << 63:
        raise TarDamage(offset - BLOCK, "tar_size", f"a name header cannot have {_shown(size)} bytes")
    if offset + size - start > MAX_EXTENSION_BYTES:
        detail = f"extension headers of one member take more than {MAX_EXTENSION_BYTES} bytes"
        raise TarDamage(start, "tar_extension", detail)
    if offset + size > tape.end:
        raise TarDamage(offset, "tar_cut_in_header", "the shard ends inside a name header")
    if header.type == b"L":
        said.read_long_name(tape.take(offset, size))
    elif header.type != b"K":
        shared = header.type == b"g"
        said.read_pax(tape.take(offset, size), shared=shared)
        if shared and said.fault:
            # It may be about every member that follows.
            raise TarDamage(offset, "tar_pax", said.fault)
    return offset + _padded(size)


def _entry(tape: Tape, header: _Header, said: Said, start: int, offset: int) -> Entry:
    name = header.name if said.name is None else said.name
    size = header.size if said.size is None else said.size
    if header.type == b"0" and said is _NOTHING and isinstance(size, int) and 0 <= size < 1 << 63:
        return Entry(name, "file", start, offset, size)
    kind, why = _kind(header, name)
    if header.type in _DATALESS or (header.type == b"\0" and kind == "other"):
        size = _hard_link_data(tape, offset, size) if header.type == _HARD_LINK else 0
    if isinstance(size, bytes) or not 0 <= size < 1 << 63:
        raise TarDamage(start, "tar_size", f"a member cannot have {_shown(size)} bytes", "" if said.fault else name)
    if header.type == _SPARSE:
        offset = _behind_map(tape, offset, name)
    if kind == "other":
        return Entry(name, kind, start, offset, size)
    if said.fault:
        return Entry(name, "nameless", start, offset, size, said.fault)
    if said.refusal:
        return Entry(name, "refused", start, offset, size, said.refusal)
    return Entry(name, kind, start, offset, size, why)


def _kind(header: _Header, name: str) -> tuple[Kind, str]:
    """What a member is, and why it is not read."""
    known = _KINDS.get(header.type)
    if known is None:
        if header.type == _DUMPDIR and name.endswith("/"):
            return "other", ""
        kind = header.type.decode("latin-1")
        return "refused", f"a member of type {kind!r} is not read; store it as a regular file"
    # Of v7 archives, where directories have no type of their own.
    return ("other", "") if header.type == b"\0" and header.name.endswith("/") else known


def _hard_link_data(tape: Tape, offset: int, size: int | bytes) -> int:
    """POSIX lets a hard link have data. Most writers that give it a size store none: a header follows at once."""
    if isinstance(size, bytes) or not 0 < size < 1 << 63 or tape.end - offset < BLOCK:
        return 0
    block = tape.take(offset, BLOCK)
    return 0 if block == _ZERO or _is_right(block, block[_CHECKSUM]) else size


def _behind_map(tape: Tape, offset: int, name: str) -> int:
    """Where a sparse member's data lies: in GNU tar's old form its map goes on in blocks behind the header."""
    at, goes_on = offset, tape.take(offset - BLOCK, BLOCK)[_SPARSE_FLAG]
    while goes_on:
        if at - offset >= MAX_EXTENSION_BYTES:
            detail = f"the map of a sparse member takes more than {MAX_EXTENSION_BYTES} bytes"
            raise TarDamage(offset, "tar_extension", detail, name)
        if tape.end - at < BLOCK:
            raise TarDamage(at, "tar_cut_in_header", "the shard ends inside the map of a sparse member", name)
        goes_on = tape.take(at, BLOCK)[_MAP_FLAG]
        at += BLOCK
    return at


def _is_right(block: bytes, checksum: bytes) -> bool:
    """Whether a header's checksum is right; it counts its own field as spaces."""
    said, total = _number(checksum), _sum(block) - sum(checksum) + 8 * 0x20
    # Old writers added the bytes up as signed: each above 127 as 256 less.
    return said == total or said == total - 256 * (_high(block) - _high(checksum))


def _high(raw: bytes) -> int:
    return len(raw) - len(raw.translate(None, _HIGH))


def _sum(block: bytes) -> int:
    """The sum of a block's bytes; `sum` takes several times as long.

    The low half of an Adler-32 is that and one, as long as it stays below 65,521, which it does for half a block.
    """
    first, second = zlib.adler32(block[: BLOCK // 2]), zlib.adler32(block[BLOCK // 2 :])
    return (first & 0xFFFF) + (second & 0xFFFF) - 2


def _number(raw: bytes) -> int | None:
    """A number field: octal text, or in base 256 as GNU tar writes large ones; None if it is neither."""
    if raw[0] in (0x80, 0xFF):
        return int.from_bytes(raw[1:], "big") - (1 << 8 * (len(raw) - 1) if raw[0] == 0xFF else 0)
    digits = _until_nul(raw).strip()
    try:
        return int(digits or b"0", 8) if digits.removeprefix(b"-").isdigit() or not digits else None
    except ValueError:
        return None


def _until_nul(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _shown(size: int | bytes) -> str:
    return str(size) if isinstance(size, int) else repr(size[:40])[1:]


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK
