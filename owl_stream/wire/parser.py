"""Reading frames without I/O and without copying: the parser says which memory to fill next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import xxhash

from owl_stream.errors import FrameError
from owl_stream.wire.decoding import read_header
from owl_stream.wire.frame import (
    ARRAY_OF_FOUR,
    BIN32,
    PAYLOAD_PREFIX,
    PREFIX,
    TRAILER,
    U32,
    U64,
    Frame,
    Limits,
    frame_nbytes,
)
from owl_stream.wire.headers import BatchHeader, Header
from owl_stream.wire.tensors import check_specs

Allocate = Callable[[int], memoryview]
"""Gives writable memory for a payload of so many bytes; called once per frame that has one, after all checks."""


def _fresh_memory(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))


class FrameParser:
    """A state machine over one stream's bytes.

    Fill `buffer()` (all or a part of it, never empty) and tell `advance` how many bytes that were. After an error the
    parser is spent: a byte stream that lied once cannot be trusted to be in step again.
    """

    def __init__(self, limits: Limits | None = None, allocate: Allocate = _fresh_memory) -> None:
        self._limits, self._allocate = limits or Limits(), allocate
        self._begin()

    def _begin(self) -> None:
        self._digest = xxhash.xxh3_64()
        self._header: Header | None = None
        self._header_nbytes = 0
        self._payload = memoryview(b"")
        self._await(memoryview(bytearray(PREFIX.size)), self._on_prefix)

    def _await(self, target: memoryview, then: Callable[[], Frame | None]) -> None:
        self._target, self._filled, self._then = target, 0, then

    @property
    def in_frame(self) -> bool:
        """Whether part of a frame has been read."""
        return self._filled > 0 or self._then != self._on_prefix

    @property
    def in_payload(self) -> bool:
        """Whether part of a payload has been read."""
        return self._then == self._on_payload and self._filled > 0

    def buffer(self) -> memoryview:
        """The memory that the stream's next bytes belong in."""
        return self._target[self._filled :]

    def advance(self, nbytes: int) -> Frame | None:
        """Take note that `nbytes` bytes of `buffer()` have been filled; returns a frame once one is whole.

        Raises:
            FrameError: the bytes are not a valid frame within the limits.
        """
        if self._then != self._on_trailer:
            self._digest.update(self._target[self._filled : self._filled + nbytes])
        self._filled += nbytes
        if self._filled < self._target.nbytes:
            return None
        return self._then()

    def close(self) -> None:
        """Say that the stream has no more bytes.

        Raises:
            FrameError: it ended inside a frame.
        """
        if self.in_frame:
            missing = self._target.nbytes - self._filled
            raise FrameError(f"the stream ended inside a frame: at least {missing} more bytes were expected")

    def _on_prefix(self) -> None:
        array, u32, self._header_nbytes = PREFIX.unpack(self._target)
        if (array, u32) != (ARRAY_OF_FOUR, U32):
            raise FrameError(f"expected a frame to begin with 94 ce, got {array:02x} {u32:02x}")
        if self._header_nbytes > self._limits.max_header_bytes:
            raise FrameError(f"header of {self._header_nbytes} bytes: the limit is {self._limits.max_header_bytes}")
        self._await(memoryview(bytearray(self._header_nbytes + PAYLOAD_PREFIX.size)), self._on_header)

    def _on_header(self) -> Frame | None:
        bin32, payload_nbytes = PAYLOAD_PREFIX.unpack_from(self._target, self._header_nbytes)
        if bin32 != BIN32:
            raise FrameError(f"expected the payload to begin with c6, got {bin32:02x}")
        whole = frame_nbytes(self._header_nbytes, payload_nbytes)
        if whole > self._limits.max_frame_bytes:
            raise FrameError(
                f"frame of {whole} bytes: the limit is {self._limits.max_frame_bytes}; ask for a smaller "
                f"micro_batch_size, a larger world_size, or raise max_frame_bytes"
            )
        self._header = read_header(self._target[: self._header_nbytes])
        if isinstance(self._header, BatchHeader):
            check_specs(self._header.tensors, payload_nbytes)
        elif payload_nbytes:
            raise FrameError(f"{self._header.kind} frame: expected no payload, got {payload_nbytes} bytes")
        if payload_nbytes:
            self._payload = self._allocate(payload_nbytes)
            self._await(self._payload, self._on_payload)
        else:
            self._on_payload()
        return None

    def _on_payload(self) -> None:
        self._await(memoryview(bytearray(TRAILER.size)), self._on_trailer)

    def _on_trailer(self) -> Frame:
        u64, digest = TRAILER.unpack(self._target)
        if (u64, digest) != (U64, self._digest.intdigest()):
            raise FrameError(f"frame digest: expected {self._digest.intdigest():016x}, got {u64:02x} {digest:016x}")
        assert self._header is not None
        frame = Frame(self._header, self._payload, frame_nbytes(self._header_nbytes, self._payload.nbytes))
        self._begin()
        return frame


def parse_frames(data: bytes, limits: Limits | None = None) -> Iterator[Frame]:
    """The frames of a complete byte string.

    Raises:
        FrameError: they are not frames to the last byte.
    """
    parser, rest = FrameParser(limits), memoryview(data)
    while rest.nbytes:
        target = parser.buffer()
        taken = min(target.nbytes, rest.nbytes)
        target[:taken] = rest[:taken]
        rest = rest[taken:]
        frame = parser.advance(taken)
        if frame is not None:
            yield frame
    parser.close()
