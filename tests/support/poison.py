"""Small files that cost a decoder or a resizer all memory, or minutes: each is a whole picture, or claims to be one.

Made here, out of zeros that are packed without being written out, so that all of them take a second.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from PIL import Image

from tests.support.images import encode, png_chunk

_BLOCK = 1 << 16


def deflated_zeros(nbytes: int) -> bytes:
    """A zlib stream of `nbytes` zeros: one packed block, again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(_BLOCK)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    rest = last.compress(bytes(nbytes % _BLOCK)) + last.flush()
    adler = (nbytes % 65521) << 16 | 1
    return b"\x78\xda" + block * (nbytes // _BLOCK) + rest + struct.pack(">I", adler)


def png(width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: bool = False) -> bytes:
    """A whole, black PNG. `colour` and `depth` as in its header: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = [(width, height)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        rows = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    nbytes = sum(height * (1 + -(-width * bits // 8)) for width, height in rows if width > 0)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    palette = png_chunk(b"PLTE", bytes(3 * 2**depth)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + palette
        + png_chunk(b"IDAT", deflated_zeros(nbytes))
        + png_chunk(b"IEND", b"")
    )


def tiff(tags: Mapping[int, int | Sequence[int]], data: bytes) -> bytes:
    """A little-endian TIFF of one directory. `data` stands at byte 8; a tag of several values is an array of longs."""
    position = 8 + len(data) + len(data) % 2
    entries, arrays = [], b""
    after = position + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        values = [value] if isinstance(value, int) else value
        if len(values) == 1:
            entries.append(struct.pack("<HHII", tag, 4, 1, values[0]))
        else:
            entries.append(struct.pack("<HHII", tag, 4, len(values), after + len(arrays)))
            arrays += struct.pack(f"<{len(values)}I", *values)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", position) + data.ljust(position - 8, b"\0") + directory + arrays


def tiled_tiff(width: int, height: int, tile: int) -> bytes:
    """A grey TIFF that is one deflated tile of `tile` x `tile`, of which `width` x `height` pixels are the picture."""
    data = deflated_zeros(tile * tile)
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(data)}
    return tiff(tags, data)


def striped_tiff(width: int, height: int, *, rows: int, compression: int = 8) -> bytes:
    """A grey TIFF of deflated strips that all are the same bytes."""
    data, strips = deflated_zeros(width * rows), -(-height // rows)
    tags = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1, 278: rows}
    return tiff({**tags, 273: [8] * strips, 279: [len(data)] * strips}, data)


def jpeg(width: int, height: int, *, scans: int = 1, progressive: bool = False) -> bytes:
    """A whole, plain JPEG; where it has more `scans` than an encoder writes, the last one comes again."""
    image = Image.new("L", (width, height))
    data = encode(image, "JPEG", progressive=progressive or scans > 1, quality=1)
    starts = [match.start() for match in re.finditer(b"\xff\xda", data)]
    return data[:-2] + data[starts[-1] : -2] * max(0, scans - len(starts)) + b"\xff\xd9"


def gif(width: int, height: int) -> bytes:
    """A GIF of one pixel on a screen of that size."""
    data = bytearray(encode(Image.new("P", (1, 1)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def ico(pictures: Sequence[bytes], *, entries: int | None = None) -> bytes:
    """An icon of `pictures`, PNGs or bitmaps without a file header; with `entries` the last one is listed so often."""
    count = len(pictures) if entries is None else entries
    offset, listed, data = 6 + 16 * count, b"", b""
    for number in range(count):
        picture = pictures[min(number, len(pictures) - 1)]
        place = offset + len(data) if number < len(pictures) else offset + len(data) - len(picture)
        listed += struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(picture), place)
        data += picture if number < len(pictures) else b""
    return struct.pack("<HHH", 0, 1, count) + listed + data


def bitmap(width: int, height: int, bits: int = 32) -> bytes:
    """What stands in an icon for a bitmap that claims a size: its header, and no pixels."""
    return struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, bits, 0, 0, 0, 0, 0, 0)


_MAKERS: Mapping[str, Callable[[], bytes]] = {
    "wide.png": lambda: png(2_000_000, 1),
    "tall.png": lambda: png(1, 2_000_000),
    "row.png": lambda: png(68_000_000, 1, colour=0),
    "large.png": lambda: png(10_000, 10_000, colour=0),
    "interlaced.png": lambda: png(9_000, 9_000, depth=16, colour=6, interlaced=True),
    "tile.tiff": lambda: tiled_tiff(64, 64, 46_000),
    "strips.tiff": lambda: striped_tiff(8, 400_000, rows=1),
    "large.tiff": lambda: striped_tiff(10_000, 10_000, rows=10_000),
    "large.jpg": lambda: jpeg(10_000, 10_000),
    "progressive.jpg": lambda: jpeg(10_000, 10_000, progressive=True),
    "scans.jpg": lambda: jpeg(4_000, 4_000, scans=400),
    "screen.gif": lambda: gif(40_000, 2_400),
    "png.ico": lambda: ico([png(9_000, 9_000, colour=6)]),
    "entries.ico": lambda: ico([png(16, 16, colour=6)], entries=60_000),
    "bitmap.ico": lambda: ico([bitmap(9_000, 9_000)]),
    "wide.bmp": lambda: encode(Image.new("1", (4_000_000, 1)), "BMP"),
}


@cache
def poison_pictures() -> Mapping[str, bytes]:
    """Every poison by a file's name; its suffix says what it is. Default settings let none of them be decoded."""
    return {name: make() for name, make in _MAKERS.items()}
