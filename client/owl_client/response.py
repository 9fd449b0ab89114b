"""An answer that is whole or an error: `http.client` takes the end of a connection for the end of a head or a body."""

from __future__ import annotations

import http.client
import io
import socket
from typing import Any


class WholeResponse(http.client.HTTPResponse):
    """`http.client`'s answer, but one whose head broke off is not taken for one with fewer headers.

    `sock` is the connection that it comes over.
    """

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.sock = sock

    def begin(self) -> None:
        """Read the head.

        Raises:
            IncompleteRead: the connection ended inside it.
        """
        file = self.fp
        lines: Any = _Lines(file)
        self.fp = lines  # for as long as lines are all that is read
        try:
            super().begin()
        finally:
            if self.fp is lines:
                self.fp = file
        if lines.last not in (b"\r\n", b"\n"):
            raise http.client.IncompleteRead(lines.last)

    def read_most(self, nbytes: int) -> bytes:
        """The body, or its first `nbytes` bytes.

        Raises:
            IncompleteRead: the connection ended inside it.
        """
        body = self.read(nbytes)
        if self.length and len(body) < nbytes:
            raise http.client.IncompleteRead(body, self.length)
        return body


class _Lines:
    """A file that remembers the last line read."""

    def __init__(self, file: io.BufferedIOBase) -> None:
        self._file, self.last = file, b""

    def readline(self, limit: int) -> bytes:
        self.last = self._file.readline(limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
