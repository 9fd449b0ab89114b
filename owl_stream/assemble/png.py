"""PNG files by their chunks, before Pillow reads them: what is compressed, and how many there are."""

from __future__ import annotations

import struct
import zlib

from owl_stream.errors import SampleError

MAX_PNG_CHUNK_BYTES, MAX_PNG_TEXT_BYTES = 1 << 20, 64 << 20
"""What one compressed text or colour profile chunk may inflate to, and all of a file. Pillow's own limits."""

MAX_PNG_CHUNKS = 1 << 18
"""Encoders write chunks of 8 KiB and more: this is 2 GiB of them."""

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")


def png_size(data: bytes | memoryview) -> tuple[int, int]:
    """What the header claims, where it stands in its place; else (0, 0)."""
    if len(data) < 24 or bytes(data[12:16]) != b"IHDR":
        return 0, 0
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def png_row_bytes(width: int) -> int:
    """What the decoder keeps of rows: this one and the one before, of 8 bytes a pixel at most."""
    return 2 * (8 * width + 64)


def check_png(data: bytes | memoryview) -> None:
    """Refuse a PNG whose texts or colour profile inflate beyond the limits, wherever in the file they stand.

    Raises:
        SampleError: `png_bomb` or `image_header`.
    """
    position, total, chunks = 8, 0, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks += 1
        if chunks > MAX_PNG_CHUNKS:
            raise SampleError("image_header", f"PNG: expected at most {MAX_PNG_CHUNKS} chunks, got more; save it again")
        if kind in _PNG_COMPRESSED:
            inflated = _inflated_bytes(kind, bytes(data[position + 8 : position + 8 + length]))
            total += inflated
            if inflated > MAX_PNG_CHUNK_BYTES or total > MAX_PNG_TEXT_BYTES:
                raise SampleError(
                    "png_bomb",
                    f"PNG chunk {kind.decode()} @ {position}: expected at most {MAX_PNG_CHUNK_BYTES} bytes inflated, "
                    f"and {MAX_PNG_TEXT_BYTES} of the whole file, got more",
                )
        position += 12 + length


def _inflated_bytes(kind: bytes, chunk: bytes) -> int:
    """How long a compressed chunk's content is, counting no further than just past the limit."""
    rest = chunk.partition(b"\0")[2]
    packed = rest[1:]
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            return 0
        packed = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    try:
        return len(zlib.decompressobj().decompress(packed, MAX_PNG_CHUNK_BYTES + 1))
    except zlib.error:
        return 0  # damaged, not hostile: a decoder skips it
