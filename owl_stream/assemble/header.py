"""What an image says of itself before a pixel is decoded: format and size, within budgets of bytes, pixels and scans.

Indexing calls this for every image, so that costs are known and hostile files are quarantined without being decoded.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple, NoReturn

from PIL import features
from PIL.IcoImagePlugin import IcoFile

from owl_stream.assemble.jpeg import read_jpeg, refuse_truncated
from owl_stream.assemble.pillow import open_image, translated
from owl_stream.errors import SampleError
from owl_stream.shards.sniff import FORMAT_WORDS, PICTURES, sniff

MAX_PNG_CHUNK_BYTES, MAX_PNG_TEXT_BYTES = 1 << 20, 64 << 20
"""What one compressed text or colour profile chunk may inflate to, and all of a file. Pillow's own limits."""

_FORMATS = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
    "ico": "ICO",
    "pnm": "PPM",
}
"""Formats that are decoded, as `sniff` and as Pillow names them. No other of Pillow's decoders ever meets the data."""

_REMEDIES = {
    "git-lfs": "run `git lfs pull` where the shards were made",
    "git-annex": "run `git annex get` where the shards were made",
    "html": "download the picture again: this is what the server answered instead",
    "xml": "download the picture again: this may be what the server answered instead",
    "macos": "remove it: it is no picture",
}

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
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
            `jpeg_scans`, `png_bomb`, `image_corrupt` or `image_truncated`.
    """
    name, channels = _format(data), 0
    if name == "JPEG":
        width, height, channels = _read_jpeg(data, max_pixels, indexed)
    elif name == "ICO":
        width, height = _icon_size(data, max_pixels)
    else:
        if name == "PNG":
            _check_png(data)
        with open_image(data, name, max_pixels) as image:
            width, height = image.size
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
    content = sniff(data)
    name = _FORMATS.get(content)
    if name == "AVIF" and not features.check("avif"):
        _refuse("image_unknown", "an AVIF picture: this Pillow cannot read it; install Pillow 11.3 or later with AVIF")
    if name is not None:
        return name
    got = FORMAT_WORDS.get(content) or f"a file that begins {bytes(data[:8])!r}"
    remedy = "convert it to JPEG, PNG or WebP" if content in PICTURES else _REMEDIES.get(content, "remove it")
    return _refuse("image_unknown", f"expected one of {', '.join(_FORMATS.values())}, got {got}; {remedy}")


def _read_jpeg(data: bytes | memoryview, max_pixels: int, indexed: bool) -> tuple[int, int, int]:
    width, height, channels, usual, ended = read_jpeg(data, whole=not indexed)
    if not ended and not _complete(data, max_pixels):
        refuse_truncated(data)
    if not usual and not indexed:
        with open_image(data, "JPEG", max_pixels) as image:
            if image.size != (width, height):
                _refuse("image_header", f"JPEG: two sizes, {width} x {height} and {image.width} x {image.height}")
    return width, height, channels


def _complete(data: bytes | memoryview, max_pixels: int) -> bool:
    """Whether Pillow finds every pixel in a JPEG that has no end-of-image marker. It is decoded for that."""
    try:
        with open_image(data, "JPEG", max_pixels) as image:
            if image.width * image.height > max_pixels:
                return False
            image.load()
    except SampleError:
        return False
    return True


def _icon_size(data: bytes | memoryview, max_pixels: int) -> tuple[int, int]:
    """The size of the picture in an icon that Pillow takes: the largest. Its own header counts, not the directory's."""
    with translated("ICO"):
        icon = IcoFile(io.BytesIO(data))
        start = icon.entry[0].offset
        picture = memoryview(data)[start:]
        if picture[:8] == _PNG_MAGIC:
            _check_png(picture)
            with open_image(picture, "PNG", max_pixels) as image:  # its size may stand behind other chunks
                width, height = image.size
        else:
            width, height = _bitmap_size(picture)
            height //= 2  # behind the picture comes its mask, and the height is that of both
    return width, height


def _bitmap_size(picture: memoryview) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", picture)
    width, height = struct.unpack_from("<HH" if header == 12 else "<II", picture, 4)
    return width, height if height < 0xFF000000 else (1 << 32) - height  # negative: the rows go from top to bottom


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
