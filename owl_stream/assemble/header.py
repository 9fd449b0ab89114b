"""What an image says of itself before a pixel is decoded: format, size and what decoding takes, within limits.

Indexing calls this for every image, so that costs are known and hostile files are quarantined without being decoded.
"""

from __future__ import annotations

import io
import struct
from typing import NamedTuple, NoReturn

from PIL import Image, ImageFile, features
from PIL.IcoImagePlugin import IcoFile

from owl_stream.assemble.avif import coded_pixels
from owl_stream.assemble.claims import check_icon, gif_size, webp_size
from owl_stream.assemble.jpeg import read_jpeg, refuse_truncated
from owl_stream.assemble.pillow import decodes_in_place, open_image, translated
from owl_stream.assemble.png import PNG_MAGIC, check_png, png_row_bytes, png_size
from owl_stream.assemble.tiff import tiff_bytes
from owl_stream.assemble.work import (
    Limits,
    check_bytes,
    check_passes,
    check_pixels,
    check_slow,
    decoding_bytes,
)
from owl_stream.config import MAX_IMAGE_BYTES
from owl_stream.errors import SampleError
from owl_stream.shards.sniff import FORMAT_WORDS, PICTURES, sniff

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

_PILLOW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Of a pixel, by the mode of Pillow's picture; 4 in all others. A GIF may have its background beside it."""

_SLOW = ("bmp_rle", "ppm", "ppm_plain")
"""Pillow's decoders that are written in Python."""


class Header(NamedTuple):
    """An image's format (a name of Pillow's; an MPO counts as its first JPEG), its size in pixels and its channels.

    `channels` is known for JPEG only (4 = CMYK or YCCK) and 0 for the others. `nbytes` of memory is what decoding takes
    at its peak.
    """

    format: str
    width: int
    height: int
    channels: int = 0
    nbytes: int = 0


def probe(
    data: bytes | memoryview, max_pixels: int, max_bytes: int = MAX_IMAGE_BYTES, *, indexed: bool = False
) -> Header:
    """Read an image's header; bounded in time and memory whatever the bytes are.

    `max_bytes` is memory that decoding may take. `indexed`: these very bytes were accepted before, so a JPEG is read
    only up to its first scan.

    Raises:
        SampleError: `image_empty`, `image_unknown`, `image_header`, `image_too_large`, `jpeg_truncated`,
            `jpeg_scans`, `png_bomb`, `image_corrupt` or `image_truncated`.
    """
    name, limits = _format(data), Limits(max_pixels, max_bytes)
    if name == "JPEG":
        return _probe_jpeg(data, limits, indexed)
    if name == "ICO":
        return _probe_icon(data, limits)
    buffers = _before_pillow(name, data, limits)
    coded = coded_pixels(data) if name == "AVIF" else []
    buffers += 8 * (sum(coded) - max(coded, default=0))  # alpha and tiles, beside the largest
    with open_image(data, name, max_pixels) as image:
        (width, height), mode = image.size, image.mode
        decoder = image.tile[0][0] if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    check_pixels(name, width, height, max_pixels)
    if decoder in _SLOW:
        check_slow(name, width, height, Image.getmodebands(mode))
        buffers += 3 * width * height * (4 if mode == "I" else Image.getmodebands(mode))
    pillow_bytes = 0 if decodes_in_place(name, mode) else _PILLOW_BYTES.get(mode, 4) + (name == "GIF")
    nbytes = decoding_bytes(
        name, width, height, len(data), pillow_bytes=pillow_bytes, buffers=buffers, coded=max(coded, default=0)
    )
    check_bytes(name, width, height, nbytes, max_bytes)
    return Header(name, width, height, 0, nbytes)


def _before_pillow(name: str, data: bytes | memoryview, limits: Limits) -> int:
    """Look at what Pillow acts on when it opens a file: it makes room by what the file claims.

    Returns the decoder's buffers in bytes, see `decoding_bytes`.
    """
    width = height = 0
    buffers = 0
    if name == "PNG":
        check_png(data)
        width, height = png_size(data)
        buffers = png_row_bytes(width)
    elif name == "TIFF":
        buffers = tiff_bytes(data)
    elif name == "GIF":
        width, height = gif_size(data)
    elif name == "WEBP":
        width, height = webp_size(data)
    if width and height:
        check_pixels(name, width, height, limits.pixels)
        least = decoding_bytes(name, width, height, len(data), buffers=buffers)
        check_bytes(name, width, height, least, limits.nbytes)
    return buffers


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


def _probe_jpeg(data: bytes | memoryview, limits: Limits, indexed: bool) -> Header:
    jpeg = read_jpeg(data, whole=not indexed)
    width, height = jpeg.width, jpeg.height
    pillow_bytes = {1: 1, 4: 4}.get(jpeg.channels, 0)
    nbytes = decoding_bytes("JPEG", width, height, len(data), pillow_bytes=pillow_bytes, buffers=jpeg.coefficients)
    check_pixels("JPEG", width, height, limits.pixels)
    check_bytes("JPEG", width, height, nbytes, limits.nbytes)
    check_passes(width, height, jpeg.scans)
    if not jpeg.ended and not _complete(data, limits.pixels):
        refuse_truncated(data)
    if not jpeg.usual and not indexed:
        with open_image(data, "JPEG", limits.pixels) as image:
            if image.size != (width, height):
                _refuse("image_header", f"JPEG: two sizes, {width} x {height} and {image.width} x {image.height}")
    return Header("JPEG", width, height, jpeg.channels, nbytes)


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


def _probe_icon(data: bytes | memoryview, limits: Limits) -> Header:
    """The picture in an icon that Pillow takes: the largest. Its own header counts, not the directory's."""
    check_icon(data)
    with translated("ICO"):
        icon = IcoFile(io.BytesIO(data))
        picture = memoryview(data)[icon.entry[0].offset :]
        if picture[:8] == PNG_MAGIC:
            _before_pillow("PNG", picture, limits)
            with open_image(picture, "PNG", limits.pixels) as image:  # its size may stand behind other chunks
                width, height = image.size
        else:
            width, height = _bitmap_size(picture)
            height //= 2  # behind the picture comes its mask, and the height is that of both
    check_pixels("ICO", width, height, limits.pixels)
    if picture[:8] != PNG_MAGIC:
        check_slow("ICO", width, height, 1)  # it may be packed, and a larger one is no icon
    nbytes = decoding_bytes("ICO", width, height, len(data))
    check_bytes("ICO", width, height, nbytes, limits.nbytes)
    return Header("ICO", width, height, 0, nbytes)


def _bitmap_size(picture: memoryview) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", picture)
    width, height = struct.unpack_from("<HH" if header == 12 else "<II", picture, 4)
    return width, height if height < 0xFF000000 else (1 << 32) - height  # negative: the rows go from top to bottom


def _refuse(reason: str, detail: str) -> NoReturn:
    raise SampleError(reason, detail)
