"""Frames handed over in shared memory where reader and server share a machine, see docs/wire.md, Shared memory.

Only words and numbers are here: who may meet, under which name, and how a place in memory is written.
"""

from __future__ import annotations

import re
import secrets
import struct
from dataclasses import dataclass

from owl_stream.errors import FrameError

MEMORY_HEADER = "Owl-Memory"
"""In a request, what a reader offers; in the answer, that the server has come."""
ACCEPTED = "accepted"
MEMORY_EXTENSION = b"memory"
"""Of a chunk (RFC 9112, 7.1.1) that says where a frame lies instead of holding it."""

TAKEN = b"\x01"
"""A reader's message: the frame that it was last told of has been copied."""
SLAB = struct.Struct("<Q")
"""A server's message that carries a slab's descriptor: the slab's number."""

MAX_SLABS = 256
"""That a reader has open at a time, each by a descriptor; a process usually may have 1,024."""

_PLACE = struct.Struct("<QQQ")
_FORGET = struct.Struct("<Q")
_OFFER = re.compile(r"([0-9a-f]{32}) ([0-9a-f]{32}) (\S{1,64}) ([0-9]{1,5})")


@dataclass(frozen=True)
class MemoryOffer:
    """A reader's offer to take frames from memory, if its server is on the same machine.

    The reader listens on the abstract Unix socket `path` and takes only whom `key` is known to. `host` and `port` are
    its own end of the connection that the request goes over: a server that sees another peer speaks to a proxy.
    """

    name: str
    key: str
    host: str
    port: int

    @classmethod
    def make(cls, host: str, port: int) -> MemoryOffer:
        """An offer that nobody can guess."""
        return cls(secrets.token_hex(16), secrets.token_hex(16), host, port)

    @property
    def path(self) -> bytes:
        """Where the reader listens: a name of ours, so that an offer cannot send a server to anybody else."""
        return b"\0owl-stream-" + self.name.encode()

    def to_header(self) -> str:
        """The value of `Owl-Memory` in a request."""
        return f"{self.name} {self.key} {self.host} {self.port}"

    @classmethod
    def from_header(cls, value: str) -> MemoryOffer | None:
        """Read it; None for anything else, which is no offer."""
        found = _OFFER.fullmatch(value)
        return None if found is None else cls(found[1], found[2], found[3], int(found[4]))


@dataclass(frozen=True)
class MemoryPlace:
    """Where a frame lies: `nbytes` bytes from `start` of the slab of that number.

    `forget` are slabs that the server has let go of: the reader closes them.
    """

    slab: int
    start: int
    nbytes: int
    forget: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        """The content of a chunk with the extension `memory`."""
        return _PLACE.pack(self.slab, self.start, self.nbytes) + b"".join(map(_FORGET.pack, self.forget))

    @classmethod
    def from_bytes(cls, data: bytes) -> MemoryPlace:
        """Read it.

        Raises:
            FrameError: it is not one.
        """
        if len(data) < _PLACE.size or (len(data) - _PLACE.size) % _FORGET.size:
            raise FrameError(f"place in memory: expected {_PLACE.size} bytes and a multiple of 8, got {len(data)}")
        slab, start, nbytes = _PLACE.unpack_from(data)
        if len(data) > _PLACE.size + MAX_SLABS * _FORGET.size:
            raise FrameError(f"place in memory: expected at most {MAX_SLABS} slabs to forget, got {len(data)} bytes")
        if not nbytes:
            raise FrameError("place in memory: expected a frame, got no bytes")
        return cls(slab, start, nbytes, tuple(number for (number,) in _FORGET.iter_unpack(data[_PLACE.size :])))
