"""Writing frames: `0x94 | 0xce u32 | header map | 0xc6 u32 | payload | 0xcf u64`, see docs/wire.md."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack
import xxhash

from owl_stream.errors import FrameError
from owl_stream.wire.headers import Header, header_to_map
from owl_stream.wire.tensors import ALIGNMENT

PROTOCOL_VERSION = 1
MEDIA_TYPE = "application/x-msgpack"
MAX_FRAME_BYTES = 256 << 20
MAX_HEADER_BYTES = 8 << 20

PREFIX = struct.Struct(">BBI")
"""0x94 (an array of four), 0xce (a u32 follows), the header's length in bytes."""
PAYLOAD_PREFIX = struct.Struct(">BI")
"""0xc6 (binary of u32 length), the payload's length in bytes."""
TRAILER = struct.Struct(">BQ")
"""0xcf (a u64 follows), xxh3-64 of all bytes of the frame before it."""

ARRAY_OF_FOUR, U32, BIN32, U64 = 0x94, 0xCE, 0xC6, 0xCF

__all__ = ["ALIGNMENT", "Frame", "Limits", "PlacedFrame", "frame_nbytes", "pack_frame"]


@dataclass(frozen=True)
class Limits:
    """How large a frame a reader takes; checked before anything is allocated."""

    max_frame_bytes: int = MAX_FRAME_BYTES
    max_header_bytes: int = MAX_HEADER_BYTES


@dataclass(frozen=True)
class Frame:
    """A frame that was read and verified. `payload` is the memory that the reader's `allocate` gave."""

    header: Header
    payload: memoryview
    nbytes: int


def frame_nbytes(header_nbytes: int, payload_nbytes: int) -> int:
    """Length of a whole frame in bytes."""
    return PREFIX.size + header_nbytes + PAYLOAD_PREFIX.size + payload_nbytes + TRAILER.size


def pack_frame(header: Header, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """A whole frame as bytes. Use `PlacedFrame` where the payload already lies in shared memory."""
    payload = memoryview(payload).cast("B")
    packed = _pack_header(header)
    body = b"".join(
        (
            PREFIX.pack(ARRAY_OF_FOUR, U32, len(packed)),
            packed,
            PAYLOAD_PREFIX.pack(BIN32, payload.nbytes),
            payload,
        )
    )
    return body + TRAILER.pack(U64, xxhash.xxh3_64_intdigest(body))


class PlacedFrame:
    """A frame around a payload that lies (or will lie) at `buffer[payload_start:][:payload_nbytes]`.

    The header is laid directly before the payload and the digest directly behind it: the payload is never moved. What
    has been written may be digested while it is in a cache: see `advance`.

    Raises:
        FrameError: the header needs more room than there is before the payload, or the digest behind it.
    """

    def __init__(self, buffer: memoryview, payload_start: int, payload_nbytes: int, header: Header) -> None:
        packed = _pack_header(header)
        start = payload_start - PAYLOAD_PREFIX.size - len(packed) - PREFIX.size
        stop = payload_start + payload_nbytes
        if start < 0 or stop + TRAILER.size > buffer.nbytes:
            raise FrameError(
                f"a header of {len(packed)} bytes and a payload of {payload_nbytes} do not fit around byte "
                f"{payload_start} of a buffer of {buffer.nbytes}; ask for a smaller micro-batch"
            )
        PREFIX.pack_into(buffer, start, ARRAY_OF_FOUR, U32, len(packed))
        buffer[start + PREFIX.size : payload_start - PAYLOAD_PREFIX.size] = packed
        PAYLOAD_PREFIX.pack_into(buffer, payload_start - PAYLOAD_PREFIX.size, BIN32, payload_nbytes)
        self._buffer, self._payload_start = buffer, payload_start
        self._start, self._done, self._stop = start, start, stop
        self._digest = xxhash.xxh3_64()

    def advance(self, payload_nbytes: int) -> None:
        """The first so many bytes of the payload are what they will be."""
        end = self._payload_start + payload_nbytes
        self._digest.update(self._buffer[self._done : end])
        self._done = end

    def finish(self) -> slice:
        """All of the payload is there. Returns the part of the buffer that is the frame."""
        self.advance(self._stop - self._payload_start)
        TRAILER.pack_into(self._buffer, self._stop, U64, self._digest.intdigest())
        return slice(self._start, self._stop + TRAILER.size)


def _pack_header(header: Header) -> bytes:
    packed: bytes = msgpack.packb(header_to_map(header), use_bin_type=True)
    if len(packed) > MAX_HEADER_BYTES:
        raise FrameError(f"{header.kind} header of {len(packed)} bytes: expected at most {MAX_HEADER_BYTES}")
    return packed
