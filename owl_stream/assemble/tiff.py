"""What a TIFF's first directory says about memory: how large the pieces are that libtiff decodes at a time.

Read before Pillow or libtiff see the file. Every field may lie: what cannot be read is left to them to refuse.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from owl_stream.errors import SampleError

MAX_VALUES = 1 << 17
"""Numbers in all tags together, such as where strips begin. Pillow makes a Python object of each."""

_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "B", 8: "H", 9: "I", 13: "I", 16: "Q", 17: "Q", 18: "Q"}
"""The `struct` format of each integer type. Signed types are read as unsigned: a negative size counts as a huge one."""
_OTHERS = {5: 8, 10: 8, 11: 4, 12: 8}
"""Bytes of a value of the other types of numbers."""
_NUMBERS = {*_INTEGERS, *_OTHERS} - {1, 6}
"""Types whose values Pillow makes objects of; values of one byte it keeps as bytes."""

_WIDTH, _LENGTH, _BITS, _COMPRESSION = 256, 257, 258, 259
_PHOTOMETRIC, _ORIENTATION, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_LENGTH = 262, 274, 277, 278, 322, 323
_YCBCR = 6
_LONE = {_WIDTH, _LENGTH, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_LENGTH}

_LZMA, _ZSTD = 34925, 50000
_WINDOWS = {_LZMA: 64 << 20, _ZSTD: 128 << 20}
"""What the decoder keeps of what it has decoded: xz's largest preset, and all that zstd's library allows."""
_PLAIN = {1, 2, 3, 4, 5, 8, 32773, 32946, _LZMA, _ZSTD}
"""Compressions that are decoded by the row; other decoders keep pictures of their own, and YCbCr becomes RGBA."""


def tiff_bytes(data: bytes | memoryview) -> int:
    """Memory that decoding the first picture of a TIFF takes beside Pillow's 4 bytes a pixel: a strip or tile, its
    decoder's own copies of it, the window of what it has decoded, and the picture again if it is to be turned.

    Raises:
        SampleError: `image_header`: tags of more numbers than a picture needs.
    """
    found: dict[int, int] = {}
    values = nbytes = 0
    for tag, kind, count, place in _entries(data):
        nbytes += count * _bytes_of(kind)
        values += count if kind in _NUMBERS else 0
        if values > MAX_VALUES or nbytes > 2 * len(data):
            raise SampleError(
                "image_header",
                f"TIFF: expected at most {MAX_VALUES} numbers in its tags, and no more bytes than it has, got more; "
                f"save it with fewer, larger strips",
            )
        if tag in _LONE or tag == _BITS:
            number = max(_integers(data, kind, min(count, 16 if tag == _BITS else 1), place), default=0)
            found[tag] = max(found.get(tag, 0), number)
    return _pieces(found)


def _pieces(found: dict[int, int]) -> int:
    width, length = found.get(_WIDTH, 0), found.get(_LENGTH, 0)
    samples, bits = max(1, found.get(_SAMPLES, 1)), max(1, found.get(_BITS, 1))
    strip, tile = (
        width * min(length, found.get(_ROWS) or length),
        found.get(_TILE_WIDTH, 0) * found.get(_TILE_LENGTH, 0),
    )
    pixels = tile or strip
    compression = found.get(_COMPRESSION, 1)
    plain = compression in _PLAIN and found.get(_PHOTOMETRIC) != _YCBCR
    sample_bytes = -(-bits * samples // 8)
    piece = pixels * (sample_bytes if plain else 4 * max(4, sample_bytes))
    turned = 4 * width * length if found.get(_ORIENTATION, 1) > 1 else 0
    row = 16 * max(width, found.get(_TILE_WIDTH, 0))  # of codecs that look at the row before, and of runs
    return piece + turned + row + _WINDOWS.get(compression, 0)


def _entries(data: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, count, where its values are) of the first directory; without those whose values are not there."""
    order = "<" if bytes(data[:2]) == b"II" else ">"
    try:
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        (start,) = struct.unpack_from(order + "Q", data, 8) if big else struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        entry = struct.Struct(order + ("HHQQ" if big else "HHII"))
        inline, position = (8, start + 8) if big else (4, start + 2)
        for _ in range(min(count, 1 << 16)):
            tag, kind, number, offset = entry.unpack_from(data, position)
            nbytes = number * _bytes_of(kind)
            place = offset if nbytes > inline else position + entry.size - inline
            if place + nbytes <= len(data):
                yield tag, kind, number, place
            position += entry.size
    except struct.error:
        return


def _bytes_of(kind: int) -> int:
    return struct.calcsize("=" + _INTEGERS[kind]) if kind in _INTEGERS else _OTHERS.get(kind, 1)


def _integers(data: bytes | memoryview, kind: int, count: int, place: int) -> tuple[int, ...]:
    order = "<" if bytes(data[:2]) == b"II" else ">"
    try:
        return struct.unpack_from(f"{order}{count}{_INTEGERS[kind]}", data, place)
    except (KeyError, struct.error):
        return ()
