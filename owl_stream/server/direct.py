"""Sending a frame from where it lies: the kernel copies it out of the slab, and nobody else does.

The HTTP layer's own way joins every chunk with its framing and hands the copy to the event loop: two passes over memory
more than there need be, and they are most of what sending costs. `send` on the socket returns only what the kernel has
already copied, so a slab may be used again as soon as it has been sent; nothing keeps a reference.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

MAX_WRITE_BYTES = 4 << 20
"""Given to the kernel at a time: what fits its buffers anyway. Between two writes the event loop serves others."""


class DirectSocket:
    """A second handle on a plain connection's socket, for the body of one chunked answer.

    The transport goes on reading, and writes what is not body; `write` waits until it has nothing left to write. A
    context manager: until it ends, the connection stays open even if the transport closes.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        self.peer = (str(host).removeprefix("::ffff:"), port)
        """Host and port of the other end; an IPv4 address as itself, also where the server listens on `::`."""
        self._fd = os.dup(sock.fileno())
        self._loop = asyncio.get_running_loop()
        _hurry_at_home(sock)

    @staticmethod
    def fits(transport: asyncio.Transport) -> bool:
        """Whether the connection's bytes are ours to write: neither encrypted nor something else than a socket."""
        return transport.get_extra_info("sslcontext") is None and transport.get_extra_info("socket") is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._fd)

    async def write(self, body: memoryview, idle_timeout_s: float, extension: bytes = b"") -> None:
        """Send `body` as one chunk, with an extension (RFC 9112, 7.1.1) if one is given.

        Returns once the kernel has all of it. Cancelled, it leaves the answer broken off.

        Raises:
            TimeoutError: the peer took nothing for `idle_timeout_s`.
            ConnectionError: the peer is gone.
        """
        while self._transport.get_write_buffer_size():
            await self._writable(idle_timeout_s)
            await asyncio.sleep(0)
        size = b"%x%s%s\r\n" % (body.nbytes, b";" if extension else b"", extension)
        pieces = (memoryview(size), body, memoryview(b"\r\n"))
        done, whole = 0, sum(piece.nbytes for piece in pieces)
        while done < whole:
            if self._transport.is_closing():
                raise ConnectionResetError("the connection is closing")
            left = whole - done
            sent = self._send(pieces, done)
            done += sent
            if sent < min(MAX_WRITE_BYTES, left):
                await self._writable(idle_timeout_s)
            elif sent < left:
                await asyncio.sleep(0)

    def _send(self, pieces: Sequence[memoryview], done: int) -> int:
        """Send what the kernel takes of the pieces behind their first `done` bytes; no view of them is left."""
        part = _part(pieces, done, MAX_WRITE_BYTES)
        try:
            return os.writev(self._fd, part)
        except BlockingIOError:
            return 0
        finally:
            for view in part:
                view.release()

    async def _writable(self, idle_timeout_s: float) -> None:
        """Wait until the kernel takes more."""
        await until_ready(self._fd, self._loop.add_writer, self._loop.remove_writer, idle_timeout_s)


async def until_ready(
    fd: int,
    add: Callable[[int, Callable[[asyncio.Future[None]], None], asyncio.Future[None]], None],
    remove: Callable[[int], bool],
    idle_timeout_s: float,
) -> None:
    """Wait until a descriptor can be read from or written to: `add` and `remove` are the event loop's, for either.

    Raises:
        TimeoutError: it cannot for `idle_timeout_s`.
    """
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add(fd, _settle, ready)
    deadline = loop.call_later(idle_timeout_s, _give_up, ready)  # `wait_for` takes several times as long
    try:
        await ready
    finally:
        deadline.cancel()
        remove(fd)


def _hurry_at_home(sock: socket.socket) -> None:
    """Send without pacing where both ends have one address: nothing congests there, and BBR's timers cost CPU time.

    Reno is part of every Linux and allowed to every process. Where it cannot be chosen the connection stays as it is.
    """
    with contextlib.suppress(OSError, AttributeError):
        if sock.getsockname()[0] == sock.getpeername()[0]:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _give_up(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_exception(TimeoutError())


def _part(pieces: Sequence[memoryview], done: int, most: int) -> list[memoryview]:
    """Views of at most `most` bytes of the pieces, behind their first `done` bytes."""
    part = []
    for piece in pieces:
        if done < piece.nbytes and most:
            part.append(piece[done : done + most])
            most -= part[-1].nbytes
        done = max(0, done - piece.nbytes)
    return part
