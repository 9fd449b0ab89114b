"""An answer that is whole or an error: `http.client` takes the end of a connection for the end of a head or a body."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Iterable
from typing import Any

from owl_client.waits import TimedFile, Waits

MAX_HEAD_BYTES = 64 << 10
"""Of an answer's head, interim answers included. `http.client` would take 100 lines of as much each."""
MAX_INTERIM = 8
"""Interim answers (`100 Continue`) before the real one; nothing asks for any."""
MAX_TRAILER_BYTES = 16 << 10
"""Of the lines behind the last chunk, which say nothing to us."""
_PIECE_BYTES = 64 << 10


class WholeResponse(http.client.HTTPResponse):
    """`http.client`'s answer to a GET, but one whose head broke off is not taken for one with fewer headers.

    `sock` is the connection that it comes over, `waits` how long reading it may take.
    """

    def __init__(self, sock: socket.socket, waits: Waits) -> None:
        super().__init__(sock, method="GET")
        self.sock, self.waits = sock, waits
        self.fp = io.BufferedReader(TimedFile(self.fp.detach(), waits))

    def begin(self) -> None:
        """Read the head.

        Raises:
            IncompleteRead: the connection ended inside it.
            HTTPException: it is none, or longer than a head may be.
            TimeoutError: it took too long.
        """
        file = self.fp
        lines: Any = _Lines(file)
        self.fp = lines  # for as long as lines are all that is read
        try:
            super().begin()
        finally:
            if self.fp is lines:
                self.fp = file
        if lines.last not in _ENDS:
            raise http.client.IncompleteRead(lines.last)

    def read_most(self, nbytes: int) -> bytes:
        """The body, or its first `nbytes` bytes.

        Raises:
            IncompleteRead: the connection ended inside it.
            TimeoutError: it took too long.
        """
        body, piece = bytearray(), memoryview(bytearray(_PIECE_BYTES))
        # Never by `read`: it takes the size of a chunk at its word, even one of -1.
        while got := self.readinto(piece[: nbytes - len(body)]):
            body += piece[:got]
        if self.length and len(body) < nbytes:
            raise http.client.IncompleteRead(bytes(body), self.length)
        return bytes(body)

    def _read_and_discard_trailer(self) -> None:
        """What `http.client` calls behind the last chunk; its own reads for as long as lines come."""
        skip_trailer(iter(lambda: self.fp.readline(MAX_TRAILER_BYTES).rstrip(b"\r\n"), b""))


def skip_trailer(lines: Iterable[bytes]) -> None:
    """Read the lines behind the last chunk.

    Raises:
        HTTPException: they do not end.
    """
    nbytes = 0
    for line in lines:
        nbytes += len(line) + 2
        if nbytes > MAX_TRAILER_BYTES:
            raise http.client.HTTPException(f"expected at most {MAX_TRAILER_BYTES} bytes of trailers")


_ENDS = (b"\r\n", b"\n")


class _Lines:
    """A file that remembers the last line read, and has an end where the lines of a head have none."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file, self.last = file, b""
        self._nbytes = self._heads = 0

    def readline(self, limit: int) -> bytes:
        self.last = line = self._file.readline(limit)
        self._nbytes += len(line)
        self._heads += line in _ENDS
        if self._nbytes > MAX_HEAD_BYTES:
            raise http.client.HTTPException(f"expected the head of an answer within {MAX_HEAD_BYTES} bytes")
        if self._heads > MAX_INTERIM:
            raise http.client.HTTPException(f"expected an answer, got {self._heads} times `100 Continue`")
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
