"""Frames taken from a server's memory where it is on the same machine: one copy, and no socket in between.

A request offers it: we listen on an abstract Unix socket, which only processes in our network namespace can reach, for
the one that knows the request's key. A server that does not come sends its frames as ever. See docs/wire.md.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
import threading
import weakref
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from owl_stream.errors import FrameError
from owl_stream.wire import ACCEPTED, MAX_SLABS, MEMORY_HEADER, SLAB, TAKEN, MemoryOffer, MemoryPlace

if TYPE_CHECKING:
    from typing import Self


_MOST_STRANGERS = 64
"""That are sent away before the server is taken for one that did not come: somebody connects as fast as we look."""


def same_machine(sock: socket.socket) -> bool:
    """Whether a TCP connection has one address at both ends; False where the system is not Linux."""
    try:
        mine, theirs = sock.getsockname()[0], sock.getpeername()[0]
    except OSError:  # broken already: whoever reads from it will hear of it
        return False
    return sys.platform == "linux" and bool(mine == theirs)


class Meeting:
    """Waits for a server to come with its memory. A context manager."""

    def __init__(self) -> None:
        self._listening: socket.socket | None = None
        self._key = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._listening is not None:
            self._listening.close()

    def offer(self, connection: socket.socket) -> dict[str, str]:
        """What a request over `connection` says; nothing where the server cannot come."""
        if not same_machine(connection):
            return {}
        offer = MemoryOffer.make(*connection.getsockname()[:2])
        with ExitStack() as opened, suppress(OSError):  # where the system forbids it, or has no descriptor left
            listening = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listening.bind(offer.path)
            listening.listen()
            listening.setblocking(False)
            opened.pop_all()
            self._key, self._listening = offer.key.encode(), listening
            return {MEMORY_HEADER: offer.to_header()}
        return {}

    def accept(self, answer: str | None) -> ServerMemory | None:
        """The memory of the server that answered so; None if it did not come, or cannot be seen from here.

        Nobody is waited for: a server comes and says the key before it answers.
        """
        if self._listening is None or answer != ACCEPTED:
            return None
        for _ in range(_MOST_STRANGERS):
            try:
                sock = self._listening.accept()[0]
            except OSError:
                return None
            sock.setblocking(False)
            message, fds = _receive(sock, len(self._key))
            try:
                if message == self._key:
                    return self._try(sock, fds)
            finally:
                for fd in fds:
                    os.close(fd)
            sock.close()  # a stranger
        return None

    def _try(self, sock: socket.socket, fds: list[int]) -> ServerMemory | None:
        """The server's memory, if what it has written there can be read: the key. Else it hears that it cannot."""
        try:
            at = _size(fds, 0) - len(self._key)
            seen = os.pread(fds[0], len(self._key), at) == self._key
        except (OSError, FrameError):
            seen = False
        if not seen:
            sock.close()
            return None
        memory = ServerMemory(sock)
        memory.taken()
        return memory


_MAPPED_FROM = 4
"""The use of a slab from which on it is mapped. Reading mapped memory takes a tenth to a half less than a system call
does, but mapping it may cost as much as several of these, and many slabs are seen once."""


class _Shown:
    """A slab that the server has shown: read by system calls at first, and mapped once it is known to come again."""

    def __init__(self, fd: int, nbytes: int) -> None:
        self.nbytes = nbytes
        self._fd, self._uses = fd, 0
        self._map: mmap.mmap | None = None

    def use(self) -> None:
        """A frame in it is to be read."""
        self._uses += 1
        if self._uses == _MAPPED_FROM:
            with suppress(OSError, ValueError):  # there may be no address space left, and it is read all the same
                self._map = mmap.mmap(self._fd, self.nbytes, prot=mmap.PROT_READ)

    def readinto(self, buffer: memoryview, at: int) -> int:
        """Copy what is at `at`, without the interpreter's lock."""
        if self._map is None:
            return os.preadv(self._fd, [buffer], at)
        np.copyto(np.frombuffer(buffer, np.uint8), np.frombuffer(self._map, np.uint8, buffer.nbytes, at))
        return buffer.nbytes

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)
        if self._map is not None:
            self._map.close()


class ServerMemory:
    """A server's slabs, and the one frame in them that is to be copied next."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._slabs: dict[int, _Shown] = {}
        self._slab: _Shown | None = None
        self._at = self._end = 0
        self.at_rest = threading.RLock()
        """Held while a slab is being read."""
        _opened.add(self)

    def begin(self, place: MemoryPlace) -> None:
        """Copy the frame at a place next.

        Raises:
            FrameError: the server has shown no such place, or no memory, or too many slabs.
        """
        for number in place.forget:
            self._forget(number)
        if place.slab not in self._slabs:
            if len(self._slabs) == MAX_SLABS:
                raise FrameError(f"slab {place.slab}: expected at most {MAX_SLABS} at a time")
            self._slabs[place.slab] = self._receive_slab(place.slab)
        slab = self._slabs[place.slab]
        if place.start + place.nbytes > slab.nbytes:
            raise FrameError(f"{place}: expected a place within the slab's {slab.nbytes} bytes")
        slab.use()
        self._slab, self._at, self._end = slab, place.start, place.start + place.nbytes

    @property
    def left(self) -> int:
        """Bytes of the frame that have not been copied yet."""
        return self._end - self._at

    def readinto(self, buffer: memoryview) -> int:
        """Copy as much of the frame as fits, without the interpreter's lock; behind its end the server is told."""
        with self.at_rest:
            if self._slab is None or not self.left:
                return 0
            self._at += (got := self._slab.readinto(buffer[: self.left], self._at))
        if not self.left:
            self.taken()
        return got

    def taken(self) -> None:
        """Tell the server that its memory has been read and may be used again."""
        try:
            self._sock.send(TAKEN)
        except OSError:  # it has gone: the connection will say so, and what was copied is whole
            return

    def close(self) -> None:
        """Let go of the memory."""
        self._sock.close()
        with self.at_rest:
            self._end = self._at
            for number in list(self._slabs):
                self._forget(number)

    def _forget(self, number: int) -> None:
        if (slab := self._slabs.pop(number, None)) is not None:
            slab.close()

    def _receive_slab(self, number: int) -> _Shown:
        """The slab that the server shows next; it shows one before it speaks of it."""
        message, fds = _receive(self._sock, SLAB.size)
        with ExitStack() as opened:
            for fd in fds:
                opened.callback(os.close, fd)
            if message != SLAB.pack(number):
                raise FrameError(f"slab {number}: expected its descriptor beforehand, got {message!r}")
            nbytes = _size(fds, number)
            opened.pop_all()
        return _Shown(fds[0], nbytes)


_opened: weakref.WeakSet[ServerMemory] = weakref.WeakSet()
"""For children made by fork: they inherit what is open, and would keep the memory of a server that is gone."""
_forking = threading.RLock()
_resting: list[ServerMemory] = []
"""Those of which no slab is being read while a process forks: the child could not let go of such a slab."""


def _before_fork() -> None:
    _forking.acquire()
    for memory in list(_opened):
        memory.at_rest.acquire()
        _resting.append(memory)


def _after_fork() -> None:
    while _resting:
        _resting.pop().at_rest.release()
    _forking.release()


def _close_inherited() -> None:
    _after_fork()
    for memory in list(_opened):
        memory.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_close_inherited)


def _receive(sock: socket.socket, nbytes: int) -> tuple[bytes, list[int]]:
    """A message and the descriptor that comes with it; nothing where there is none."""
    try:
        message, fds, _, _ = socket.recv_fds(sock, nbytes, 1, socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return b"", []
    return message, fds


def _size(fds: list[int], number: int) -> int:
    """Bytes of the memory behind one descriptor.

    Raises:
        FrameError: there is none, it may shrink, or it is no memory.
    """
    import fcntl  # noqa: PLC0415 # not on every system that a trainer may be imported on

    if len(fds) != 1:
        raise FrameError(f"slab {number}: expected one descriptor, got {len(fds)}")
    try:
        seals = fcntl.fcntl(fds[0], fcntl.F_GET_SEALS)  # only memory has any: reading a file could take for ever
    except OSError as exc:
        raise FrameError(f"slab {number}: expected shared memory, got another file: {exc}") from exc
    if not seals & fcntl.F_SEAL_SHRINK:
        raise FrameError(f"slab {number}: expected memory that is sealed against shrinking, got seals {seals:#x}")
    return os.fstat(fds[0]).st_size
