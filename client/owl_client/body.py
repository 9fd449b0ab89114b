"""A chunked body read straight into the caller's memory: one system call for what `http.client` needs a dozen for.

A large read waits in the kernel until it is whole (`MSG_WAITALL`), so the thread asks for the interpreter's lock once a
payload and not once a packet: a trainer that holds it does not starve the stream.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from typing import Protocol

from owl_client.deadline import Deadline
from owl_client.memory import ServerMemory, same_machine
from owl_client.response import skip_trailer
from owl_client.waits import Waits
from owl_stream.wire import MEMORY_EXTENSION, MemoryPlace

_BUFFER_BYTES = 1 << 14
"""Read ahead where little is asked for. A larger request goes past the buffer."""

_MAX_LINE_BYTES = 4096

WINDOW_BYTES = 4 << 20
"""How far a server on the same machine may send ahead. There a window need not span a distance: what Linux would let it
grow to (half of `tcp_rmem`, 16 MB and more) only takes the place of pixels in the cache that workers share with us."""


class Body(Protocol):
    """What an answer's body is read by."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of `buffer`; 0 at the end."""
        ...


def fast_body(
    response: http.client.HTTPResponse,
    sock: socket.socket,
    read_s: float,
    memory: ServerMemory | None = None,
    deadline: Deadline | None = None,
) -> Body:
    """The response's body: read from `sock` directly where that is possible, else by the response itself.

    From here on nobody else may read the response. `read_s` is how long one byte may be waited for, `deadline` when all
    waiting ends, `memory` where the server leaves what it does not send.
    """
    if os.name != "posix" or isinstance(sock, ssl.SSLSocket) or not response.chunked or response.fp is None:
        return response
    if same_machine(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, WINDOW_BYTES)
    return ChunkedBody(response, sock, Waits(sock, read_s, deadline or Deadline()), memory)


class ChunkedBody:
    """The chunks (RFC 9112, 7.1) of an answer whose head has been read by `response`.

    With `memory`, a chunk may say where a frame lies instead of holding it; it reads like any other.
    """

    def __init__(
        self,
        response: http.client.HTTPResponse,
        sock: socket.socket,
        waits: Waits,
        memory: ServerMemory | None = None,
    ) -> None:
        self._response, self._sock, self._waits, self._server = response, sock, waits, memory
        self._memory = memoryview(bytearray(_BUFFER_BYTES))
        self._ahead = self._memory[:0]
        self._left = 0
        self._first, self._ended, self._begun = True, False, False

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of `buffer`, as far as the chunk goes; 0 at the end.

        Raises:
            IncompleteRead: the connection closed inside the body.
            HTTPException: these are no chunks.
            FrameError: the server names memory that it has not shown.
            OSError: the connection broke, was silent for too long, or the deadline has come (TimeoutError).
        """
        memory = self._server
        while not (self._left or self._ended or (memory and memory.left)):
            self._begin_chunk()
        if memory and memory.left:
            return memory.readinto(buffer)
        if self._ended:
            return 0
        got = self._take(buffer[: self._left])
        self._left -= got
        return got

    def _begin_chunk(self) -> None:
        if self._begun and self._line():
            raise http.client.HTTPException("expected a line's end behind a chunk")
        self._begun = True
        size, _, extension = map(bytes.strip, self._line().partition(b";"))
        try:
            self._left = int(size, 16)
        except ValueError:
            raise http.client.HTTPException(f"expected the size of a chunk, got {size[:20]!r}") from None
        if self._left < 0:
            raise http.client.HTTPException(f"expected the size of a chunk, got {size[:20]!r}")
        if not self._left:
            skip_trailer(iter(self._line, b""))
            self._ended = True
        elif extension == MEMORY_EXTENSION and self._server is not None:
            self._server.begin(MemoryPlace.from_bytes(self._whole_chunk()))

    def _whole_chunk(self) -> bytes:
        """The content of a small chunk."""
        if self._left > _MAX_LINE_BYTES:
            raise http.client.HTTPException(f"expected a place in memory, got a chunk of {self._left} bytes")
        content = bytearray(self._left)
        while self._left:
            self._left -= self._take(memoryview(content)[-self._left :])
        return bytes(content)

    def _line(self) -> bytes:
        """The next line without its end."""
        line = bytearray()
        while not line.endswith(b"\n"):
            if not self._ahead.nbytes:
                self._fill()
            end = bytes(self._ahead[:_MAX_LINE_BYTES]).find(b"\n") + 1 or self._ahead.nbytes
            line += self._ahead[:end]
            self._ahead = self._ahead[end:]
            if len(line) > _MAX_LINE_BYTES:
                raise http.client.LineTooLong("chunk size")
        return bytes(line).rstrip(b"\r\n")

    def _take(self, target: memoryview) -> int:
        if not self._ahead.nbytes:
            if target.nbytes >= _BUFFER_BYTES and not self._first:
                return self._receive(target, socket.MSG_WAITALL)
            self._fill()
        part = self._ahead[: target.nbytes]
        target[: part.nbytes] = part
        self._ahead = self._ahead[part.nbytes :]
        return part.nbytes

    def _fill(self) -> None:
        """Read ahead; at first what the response has read ahead beyond its head."""
        if self._first:
            self._first = False
            self._waits.before_read()
            ready: bytes = self._response.fp.peek()
            self._waits.wait_in_kernel()
            if not ready:
                raise http.client.IncompleteRead(b"")
            self._ahead = memoryview(ready)
            return
        self._ahead = self._memory[: self._receive(self._memory, 0)]

    def _receive(self, target: memoryview, flags: int) -> int:
        self._waits.before_read()
        try:
            got = self._sock.recv_into(target, target.nbytes, flags)
        except BlockingIOError:
            raise TimeoutError from None
        if not got:
            raise http.client.IncompleteRead(b"")
        return got
