"""Tar headers, strictly. `tarfile` takes a damaged or cut header for the end of the archive, silently; this does not.

Offsets are bytes from the start of the shard. ustar, GNU long names and PAX (`path` and `size`) are understood; sparse
and multi-volume members are refused.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Literal, NamedTuple, Protocol

from owl_stream.errors import DataChangedError, ReadError

BLOCK = 512
MAX_EXTENSION_BYTES = 64 << 10
"""What the long-name and PAX headers of one member may take together; a real one takes 1 or 2 KiB."""

_ZERO = bytes(BLOCK)
_FIELDS = struct.Struct("100s24x12s12x8sc188x155s12x")
"""Of a header block: name, size, checksum, type, prefix (POSIX.1-1988, ustar)."""
_CHUNK = 1 << 20
_EXTENSIONS = (b"x", b"X", b"g", b"L", b"K")
_FILES = (b"0", b"\0", b"7")
_LINKS = (b"1", b"2", b"3", b"4", b"6")
_DIRECTORY, _LABEL = b"5", b"V"


class TarDamage(Exception):  # noqa: N818 - a finding that a scan records, not an error that a caller sees
    """From `offset` on the archive cannot be understood. Never leaves this package."""

    def __init__(self, offset: int, reason: str, detail: str) -> None:
        super().__init__(offset, reason, detail)
        self.offset, self.reason, self.detail = offset, reason, detail


class Entry(NamedTuple):
    """One member: its headers begin at `start`, its data lies at `offset`, the next header at `next`."""

    name: str
    kind: Literal["file", "link", "other"]
    start: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the data ends; padding follows."""
        return self.offset + self.size

    @property
    def next(self) -> int:
        """Where the next member's headers begin."""
        return self.offset + _padded(self.size)


class Tape(Protocol):
    """Bytes of a shard by offset, readable up to `end`."""

    end: int

    def take(self, offset: int, nbytes: int) -> bytes:
        """Exactly `nbytes` bytes; the caller stays below `end`."""


class SpanTape:
    """A span that is already in memory; its first byte lies at `offset` of the shard."""

    def __init__(self, span: bytes, offset: int) -> None:
        self.end = offset + len(span)
        self._span, self._offset = span, offset

    def take(self, offset: int, nbytes: int) -> bytes:
        """See `Tape.take`."""
        return self._span[offset - self._offset : offset - self._offset + nbytes]


class FileTape:
    """Reads a file forward, each byte at most once, and keeps what lies behind the last `release`."""

    def __init__(self, file: int, end: int, shard: str, start: int = 0, chunk_bytes: int = _CHUNK) -> None:
        self.end = end
        self._file, self._shard, self._chunk_bytes = file, shard, chunk_bytes
        self._kept, self._kept_from = bytearray(), start

    @property
    def position(self) -> int:
        """How far the file has been read (or passed over)."""
        return self._kept_from + len(self._kept)

    def take(self, offset: int, nbytes: int) -> bytes:
        """See `Tape.take`.

        Raises:
            ReadError: storage failed.
            DataChangedError: the file became shorter than `end`.
        """
        while self.position < offset + nbytes:
            self._kept += self._read(max(offset + nbytes - self.position, self._chunk_bytes))
        return bytes(memoryview(self._kept)[offset - self._kept_from : offset - self._kept_from + nbytes])

    def release(self, offset: int) -> None:
        """Bytes before `offset` will not be asked for any more; if they were not read yet, they never are."""
        if offset >= self.position:
            self._kept.clear()
        else:
            del self._kept[: offset - self._kept_from]
        self._kept_from = offset

    def _read(self, nbytes: int) -> bytes:
        try:
            piece = os.pread(self._file, min(nbytes, self.end - self.position), self.position)
        except OSError as exc:
            raise ReadError(f"shard {self._shard} @ {self.position}: {exc.strerror}; try again") from exc
        if not piece:
            raise DataChangedError(
                f"shard {self._shard} @ {self.position}: expected {self.end} bytes, the file shrank; index again"
            )
        return piece


def read_entry(tape: Tape, offset: int) -> Entry | None:
    """The member whose headers begin at `offset`, or None for a zero block, the mark of the end.

    The entry's data is not touched and may reach past `tape.end`: the caller checks.

    Raises:
        TarDamage: anything but a well-formed header.
    """
    start, left = offset, MAX_EXTENSION_BYTES
    name: str | None = None
    size: int | None = None
    while (header := _read_header(tape, offset)) is not None:
        offset += BLOCK
        if header.type not in _EXTENSIONS:
            return _entry(header, name, size, start, offset)
        left -= BLOCK + header.size
        if left < 0:
            raise TarDamage(
                start, "tar_extension", f"name headers of one member take more than {MAX_EXTENSION_BYTES} bytes"
            )
        if offset + header.size > tape.end:
            raise TarDamage(offset, "tar_cut_in_header", "the shard ends inside a name header")
        data = tape.take(offset, header.size)
        if header.type == b"L":
            # The first of several wins, as in tarfile.
            name = name if name is not None else _text(_until_nul(data))
        elif header.type in (b"x", b"X", b"g"):
            path, own_size = _read_pax(data, offset, shared=header.type == b"g")
            name = name if name is not None else path
            size = size if size is not None else own_size
        offset += _padded(header.size)
    if offset != start:
        raise TarDamage(offset, "tar_header", "a name header is followed by the end of the archive, not by its member")
    return None


def check_tail(tape: FileTape, offset: int) -> None:
    """From the first zero block to the end of the file there is nothing but zeros.

    Raises:
        TarDamage: where the first chunk that is not zero begins.
    """
    while offset < tape.end:
        tape.release(offset)
        chunk = tape.take(offset, min(_CHUNK, tape.end - offset))
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
    size: int


def _read_header(tape: Tape, offset: int) -> _Header | None:
    left = tape.end - offset
    if left <= 0:
        raise TarDamage(offset, "tar_no_end", "the shard ends without zero blocks: it may be cut at a member's edge")
    if left < BLOCK:
        raise TarDamage(offset, "tar_cut_in_header", f"the shard ends after {left} of {BLOCK} bytes of a header")
    block = tape.take(offset, BLOCK)
    if block == _ZERO:
        return None
    name, size_field, checksum, kind, prefix = _FIELDS.unpack(block)
    # The checksum counts its own field as spaces.
    if _number(checksum) != _sum(block) - sum(checksum) + 8 * 0x20:
        raise TarDamage(offset, "tar_checksum", "not a tar header: wrong checksum")
    size = _number(size_field)
    if size is None:
        raise TarDamage(offset, "tar_header", f"not a tar header: its size is {size_field!r}")
    if not 0 <= size < 1 << 63:
        raise TarDamage(offset, "tar_size", f"a member cannot have {size} bytes")
    path = _text(_until_nul(name))
    return _Header(f"{_text(_until_nul(prefix))}/{path}" if prefix[0] else path, kind, size)


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


def _entry(header: _Header, name: str | None, size: int | None, start: int, offset: int) -> Entry:
    name = header.name if name is None else name
    size = header.size if size is None else size
    # Links, devices and directories have no data, whatever their size field says (as tarfile reads them).
    if header.type in _LINKS:
        return Entry(name, "link", start, offset, 0)
    if header.type == _DIRECTORY or (header.type == b"\0" and header.name.endswith("/")):
        return Entry(name, "other", start, offset, 0)
    if header.type in _FILES:
        return Entry(name, "file", start, offset, size)
    if header.type == _LABEL:
        return Entry(name, "other", start, offset, size)
    kind = header.type.decode("latin-1")
    raise TarDamage(start, "tar_type", f"member of type {kind!r}: sparse, multi-volume and vendor types are not read")


def _read_pax(data: bytes, offset: int, *, shared: bool) -> tuple[str | None, int | None]:
    """`path` and `size` of a PAX header; POSIX.1-2001, `"%d %s=%s\\n"` per record."""
    name: str | None = None
    size: int | None = None
    at = 0
    while at < len(data) and data[at] != 0:
        digits, _, _ = data[at : at + 8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != length or not record.endswith(b"\n") or not equals:
            raise TarDamage(offset + at, "tar_pax", "a PAX header is not made of `length key=value` lines")
        if key.startswith(b"GNU.sparse."):
            raise TarDamage(offset + at, "tar_type", "sparse members are not read; write the shard without --sparse")
        if shared and key in (b"path", b"size"):
            raise TarDamage(offset + at, "tar_pax", f"a global header gives every member one {key.decode()}")
        if key == b"path":
            name = _text(value).rstrip("/")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise TarDamage(offset + at, "tar_size", f"a member cannot have {_text(value[:40])!r} bytes")
            size = int(value)
        at += length
    return name, size


def _until_nul(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK
