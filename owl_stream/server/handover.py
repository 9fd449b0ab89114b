"""Frames handed over in shared memory to a reader on the same machine: nobody copies them but the reader.

The reader listens, and says where in its request; it is sent the descriptors of slabs, to be read only, and for each
frame its place. The frame stays where it is until the reader says that it has copied it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import weakref
from types import TracebackType
from typing import Self

from owl_stream.engine import SharedPlace, Slab
from owl_stream.engine.slabs import CONTROL_BYTES
from owl_stream.server.direct import DirectSocket, until_ready
from owl_stream.wire import MAX_SLABS, MEMORY_EXTENSION, SLAB, TAKEN, MemoryOffer, MemoryPlace

log = logging.getLogger("owl_stream.server")

FEW_MESSAGES_BYTES = 1
"""Made as large as Linux allows at least: six messages. Who takes none is shown no more, for a descriptor on its way
counts as one of this process."""


class Handover:
    """The way to one reader's memory, beside the connection that its answer goes over. A context manager."""

    def __init__(self, sock: socket.socket, direct: DirectSocket) -> None:
        self._sock, self._direct = sock, direct
        self._loop = asyncio.get_running_loop()
        self._known: dict[int, weakref.ref[Slab]] = {}
        self._agreed: bool | None = None

    @classmethod
    def meet(cls, offer: MemoryOffer | None, direct: DirectSocket) -> Handover | None:
        """Go where a reader waits; None if it does not, or is not at the connection's other end, on this machine.

        It is shown a little memory with the key in it, so that it can see whether it sees what we write.
        """
        if offer is None or direct.peer != (offer.host, offer.port):
            return None
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            sock = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, FEW_MESSAGES_BYTES)
            sock.connect(offer.path)
            _introduce(sock, offer.key.encode())
            opened.pop_all()
            return cls(sock, direct)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._sock.close()

    async def put(self, frame: SharedPlace, idle_timeout_s: float) -> bool:
        """Say where a frame lies, and return once the reader has copied it.

        False if it must be sent this frame and all later ones: it does not see our memory, or cannot be shown more.

        Raises:
            TimeoutError: the reader took nothing for `idle_timeout_s`.
            ConnectionError: the reader is gone.
        """
        if self._agreed is None:
            self._agreed = await self._sees(idle_timeout_s)
        if not self._agreed:
            return False
        forget = self._forget(frame.slab)
        if frame.slab.number not in self._known:
            try:
                _show(self._sock, SLAB.pack(frame.slab.number), frame.slab)
            except OSError as exc:  # out of descriptors, say, or it took none; the connection tells if it is gone
                log.warning("the reader can be shown no more memory and is sent frames from here on: %s", exc)
                self._agreed = False
                return False
            self._known[frame.slab.number] = weakref.ref(frame.slab)
        place = MemoryPlace(frame.slab.number, frame.start, frame.nbytes, forget)
        await self._direct.write(memoryview(place.to_bytes()), idle_timeout_s, MEMORY_EXTENSION)
        await self._until_taken(idle_timeout_s)
        return True

    async def _sees(self, idle_timeout_s: float) -> bool:
        """Whether the reader has found in memory what it was shown first."""
        try:
            await self._until_taken(idle_timeout_s)
        except ConnectionError:
            log.warning("the reader is on this machine but cannot see shared memory of ours: it is sent frames")
            return False
        log.info("the reader is on this machine and copies frames from shared memory")
        return True

    def _forget(self, coming: Slab) -> tuple[int, ...]:
        """Slabs that are gone, and the one shown first where there would be too many."""
        gone = [number for number, slab in self._known.items() if slab() is None]
        for number in gone:
            del self._known[number]
        if coming.number not in self._known and len(self._known) == MAX_SLABS:
            gone.append(next(iter(self._known)))
            del self._known[gone[-1]]
        return tuple(gone)

    async def _until_taken(self, idle_timeout_s: float) -> None:
        while not self._taken():
            await until_ready(self._sock.fileno(), self._loop.add_reader, self._loop.remove_reader, idle_timeout_s)

    def _taken(self) -> bool:
        """Whether the reader says that it has what it was told of."""
        try:
            message = self._sock.recv(16)
        except BlockingIOError:
            return False
        if message != TAKEN:
            raise ConnectionResetError("the reader has closed its side" if not message else "no message of a reader")
        return True


def _show(sock: socket.socket, message: bytes, slab: Slab) -> None:
    """Send a message with a slab's descriptor, to be read only.

    Raises:
        OSError: there is no descriptor left, or the reader is gone.
    """
    fd = slab.open_readonly()
    try:
        socket.send_fds(sock, [message], [fd])
    finally:
        os.close(fd)


def _introduce(sock: socket.socket, key: bytes) -> None:
    slab = Slab.make(0, CONTROL_BYTES + len(key))
    try:
        slab.memory[:] = key
        _show(sock, key, slab)
    finally:
        slab.close()
