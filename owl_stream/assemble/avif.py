"""How large the pictures coded in an AVIF file are, whatever its header says they are shown as.

A file that shows 64 x 64 pixels may hold 16,000 x 16,000: the decoder makes them all and then scales them. The sizes
stand in the sequence headers of the coded data (AV1 specification, 5.5.1), which is found as in ISO/IEC 14496-12 and
23008-12. What cannot be read here is left to the decoder to refuse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import TypeVar

from owl_stream.errors import SampleError

Item = TypeVar("Item")

_BOXES = {b"meta": 4, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}
"""Boxes that hold boxes, and how many bytes stand before those."""

_MAX_DEPTH, _MAX_BOXES, _MAX_ITEMS, _MAX_EXTENTS, _MAX_UNITS = 8, 4096, 1024, 4096, 512
_SEQUENCE_HEADER = 1


def coded_pixels(data: bytes | memoryview) -> list[int]:
    """Width times height of every coded picture or first picture of a sequence, as far as they can be read.

    Raises:
        SampleError: `image_header`: more boxes, items or pieces of items than pictures have.
    """
    try:
        return [max(_sizes(piece), default=0) for piece in _at_most(_MAX_ITEMS, "coded pictures", _coded(data))]
    except (struct.error, IndexError, ValueError):
        return []


def _at_most(most: int, what: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items; more than `most` of them are refused."""
    for number, item in enumerate(items):
        if number == most:
            raise SampleError("image_header", f"AVIF: expected at most {most} {what}, got more")
        yield item


def _coded(data: bytes | memoryview) -> Iterator[memoryview]:
    whole = memoryview(data)
    boxes = list(_at_most(_MAX_BOXES, "boxes", _boxes(whole)))
    inside = next((body for kind, body in boxes if kind == b"idat"), whole[:0])
    sample_bytes = 0
    for kind, body in boxes:
        if kind == b"iloc":
            yield from _items(whole, inside, body)
        elif kind == b"stsz":  # stands before stco in every file there is; without it the rest of the file is read
            (sample_bytes,) = struct.unpack_from(">I", body, 4)
            if sample_bytes == 0 and len(body) >= 16:
                (sample_bytes,) = struct.unpack_from(">I", body, 12)
        elif kind in (b"stco", b"co64"):
            (start,) = struct.unpack_from(">I" if kind == b"stco" else ">Q", body, 8)
            yield whole[start : start + (sample_bytes or len(whole))]


def _boxes(data: memoryview, depth: int = 0) -> Iterator[tuple[bytes, memoryview]]:
    position = 0
    while position + 8 <= len(data):
        nbytes, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if nbytes == 1:
            (nbytes,), head = struct.unpack_from(">Q", data, position + 8), 16
        elif nbytes == 0:
            nbytes = len(data) - position
        if nbytes < head:
            return
        body = data[position + head : position + nbytes]
        yield kind, body
        if kind in _BOXES:
            if depth == _MAX_DEPTH:
                raise SampleError("image_header", f"AVIF: expected boxes in at most {_MAX_DEPTH} others, got more")
            yield from _boxes(body[_BOXES[kind] :], depth + 1)
        position += nbytes


def _items(whole: memoryview, inside: memoryview, iloc: memoryview) -> Iterator[memoryview]:
    """The data of each item, its pieces put together: they lie in the file, or inside the box that describes them."""
    room, pieces = 2 * len(whole), 0
    version, sizes, more = iloc[0], iloc[4], iloc[5]
    number_bytes = 4 if version == 2 else 2
    reader = _Numbers(iloc, 6)
    for _ in range(reader.take(number_bytes)):
        reader.take(number_bytes)
        construction = reader.take(2) & 15 if version in (1, 2) else 0
        reader.take(2)
        base = reader.take(more >> 4)
        extents = []
        count = reader.take(2)
        pieces += count
        if pieces > _MAX_EXTENTS:
            raise SampleError("image_header", f"AVIF: expected at most {_MAX_EXTENTS} pieces of pictures, got more")
        for _ in range(count):
            reader.take(more & 15 if version in (1, 2) else 0)
            start, length = base + reader.take(sizes >> 4), reader.take(sizes & 15)
            source = inside if construction else whole
            extents.append(source[start : start + length] if length else source[start:])
        if len(extents) > 1 and (nbytes := sum(map(len, extents))) <= room:
            room -= nbytes
            extents = [memoryview(b"".join(extents))]
        yield from extents[:1]


class _Numbers:
    """Reads big-endian numbers of any width one after the other."""

    def __init__(self, data: memoryview, position: int) -> None:
        self._data, self._position = data, position

    def take(self, nbytes: int) -> int:
        """The next number, of `nbytes` bytes; 0 of none."""
        piece = self._data[self._position : self._position + nbytes]
        if len(piece) < nbytes:
            raise IndexError
        self._position += nbytes
        return int.from_bytes(piece, "big")


def _sizes(coded: memoryview) -> Iterator[int]:
    """Width times height in each sequence header of coded data."""
    position = 0
    for _ in range(_MAX_UNITS):
        if position >= len(coded):
            return
        header = coded[position]
        if header & 0x80:  # no unit begins so: this is no AV1
            return
        position += 2 if header & 4 else 1
        nbytes = len(coded) - position
        if header & 2:
            nbytes, position = _leb128(coded, position)
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            yield _sequence_pixels(bytes(coded[position : position + min(nbytes, 1024)]))
        position += nbytes


def _leb128(data: memoryview, position: int) -> tuple[int, int]:
    number = 0
    for at in range(8):
        byte = data[position + at]
        number |= (byte & 0x7F) << 7 * at
        if not byte & 0x80:
            return number, position + at + 1
    raise ValueError


class _Bits:
    """Reads numbers of bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._bits, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next `count` bits as a number."""
        if count > self._left:
            raise IndexError
        self._left -= count
        return self._bits >> self._left & ((1 << count) - 1)


def _sequence_pixels(payload: bytes) -> int:
    bits = _Bits(payload)
    bits.take(4)  # profile, still picture
    if bits.take(1):  # reduced header: the level alone
        bits.take(5)
    else:
        _skip_operating_points(bits)
    across, down = bits.take(4) + 1, bits.take(4) + 1
    return (bits.take(across) + 1) * (bits.take(down) + 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            zeros = 0
            while not bits.take(1):
                zeros += 1
            bits.take(zeros if zeros < 32 else 0)
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.take(42)
    display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if display_delay and bits.take(1):
            bits.take(4)
