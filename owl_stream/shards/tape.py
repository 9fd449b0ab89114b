"""The bytes of a shard by offset: of a span in memory, or of a file that is read forward once."""

from __future__ import annotations

import os
from typing import Protocol

from owl_stream.errors import DataChangedError, ReadError

CHUNK = 1 << 20


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

    def __init__(self, file: int, end: int, shard: str, start: int = 0, chunk_bytes: int = CHUNK) -> None:
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
