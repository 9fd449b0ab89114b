"""What an image says of itself before a pixel is decoded: format and size, within budgets of bytes, pixels and scans.

Indexing calls this for every image, so that costs are known and hostile files are quarantined without being decoded.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple, NoReturn

from owl_stream.assemble.pillow import open_image
from owl_stream.errors import SampleError

MAX_JPEG_SCANS = 500
"""Encoders write about ten; each further scan costs a pass over the whole image."""

MAX_PNG_CHUNK_BYTES, MAX_PNG_TEXT_BYTES = 1 << 20, 64 << 20
"""What one compressed text or colour profile chunk may inflate to, and all of a file. Pillow's own limits."""

_MAGIC = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "BMP": re.compile(rb"BM"),
}

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""The next marker in entropy-coded data: neither a stuffed byte (FF00) nor a restart (FFD0 to FFD7).

Begins with one plain byte, which the engine looks for at memory speed: 2 GB/s, not 30 MB/s.
"""

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_PNG_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")


class Header(NamedTuple):
    """An image's format (a name of Pillow's; an MPO counts as its first JPEG), its size in pixels and its channels.

    `channels` is known for JPEG only (4 = CMYK or YCCK) and 0 for the others.
    """

    format: str
    width: int
    height: int
    channels: int = 0


def probe(data: bytes | memoryview, max_pixels: int, *, indexed: bool = False) -> Header:
    """Read an image's header; bounded in time and memory whatever the bytes are.

    `indexed`: these very bytes were accepted before, so a JPEG is read only up to its size.

    Raises:
        SampleError: `image_empty`, `image_unknown`, `image_header`, `image_too_large`, `jpeg_truncated`,
            `jpeg_scans` or `png_bomb`.
    """
    name = _format(data)
    if name == "JPEG":
        width, height, channels = _walk_jpeg(data, whole=not indexed)
    else:
        if name == "PNG":
            _check_png(data)
        with open_image(data, name) as image:
            (width, height), channels = image.size, 0
    if width < 1 or height < 1:
        _refuse("image_header", f"{name} header: expected a size from 1 x 1, got {width} x {height}")
    if width * height > max_pixels:
        _refuse(
            "image_too_large",
            f"{name} header of {width} x {height} pixels: expected at most max_image_pixels = {max_pixels}",
        )
    return Header(name, width, height, channels)


def _format(data: bytes | memoryview) -> str:
    if not len(data):
        _refuse("image_empty", "expected an image, got 0 bytes")
    for name, magic in _MAGIC.items():
        if magic.match(data):
            return name
    return _refuse("image_unknown", f"expected one of {', '.join(_MAGIC)}, got a file that begins {bytes(data[:8])!r}")


def _walk_jpeg(data: bytes | memoryview, whole: bool) -> tuple[int, int, int]:
    """Width, height and components of a JPEG, having seen its every marker up to the end of the image (ITU T.81, B.1),
    or if not `whole` up to the one that tells them.

    A file that ends before its EOI marker is refused, as Pillow does when it decodes.
    """
    position, scans, size = 2, 0, None
    while True:
        marker = _MARKER.search(data, position)
        if marker is None:
            break
        code, position = marker[0][1], marker.end()
        if code == _EOI:
            if size is None or not scans:
                _refuse("image_header", "JPEG: ends without an image")
            return size
        if code in (_SOI, _TEM):
            continue
        if position + 2 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position)
        if code in _SOF and position + 8 <= len(data):
            height, width, channels = struct.unpack_from(">xxxHHB", data, position)
            if size is None:
                size = (width, height, channels)
                if not whole:
                    return size
        if code == _SOS:
            scans += 1
            if scans > MAX_JPEG_SCANS:
                _refuse("jpeg_scans", f"JPEG: expected at most {MAX_JPEG_SCANS} scans, got more")
        position += max(length, 2)
    return _refuse("jpeg_truncated", f"JPEG: expected an end-of-image marker, the data ends after {len(data)} bytes")


def _check_png(data: bytes | memoryview) -> None:
    """Refuse a PNG whose texts or colour profile inflate beyond the limits, wherever in the file they stand."""
    position, total = 8, 0
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind in _PNG_COMPRESSED:
            inflated = _inflated_bytes(kind, bytes(data[position + 8 : position + 8 + length]))
            total += inflated
            if inflated > MAX_PNG_CHUNK_BYTES or total > MAX_PNG_TEXT_BYTES:
                _refuse(
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


def _refuse(reason: str, detail: str) -> NoReturn:
    raise SampleError(reason, detail)
