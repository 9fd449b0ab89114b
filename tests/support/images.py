"""Images for tests: real photographs of the scikit-image wheel, and files that attack a decoder."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

PHOTOS = Path(skimage.__file__).parent / "data"


def photo(name: str) -> bytes:
    """A file of the scikit-image wheel: `photo("rocket.jpg")`."""
    return (PHOTOS / name).read_bytes()


def encode(image: Image.Image, fmt: str, **options: Any) -> bytes:
    """An image file in memory."""
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def released(data: bytes) -> NDArray[np.uint8]:
    """The pixels that the released processor sees: `Image.open(...).convert("RGB")`, uint8 [h, w, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def released_or_none(data: bytes) -> NDArray[np.uint8] | None:
    """The same; None where Pillow has an error to tell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return released(data)
        except Exception:  # whatever it is, Pillow gives no pixels
            return None


def damaged_jpeg(data: bytes) -> bytes:
    """A JPEG that has a header, an end and every byte count right, and holes in its entropy-coded data.

    Only a decoder finds out: it passes indexing and is masked at assembly.
    """
    start = data.rindex(b"\xff\xda") + (len(data) - data.rindex(b"\xff\xda")) // 3
    return data[:start] + b"\xff\xd9"


def suspicious_jpeg(data: bytes) -> bytes:
    """A JPEG that Pillow takes and libjpeg warns about: bytes that belong to nothing behind its scan's data."""
    return data[:-2] + b"stray bytes" * 9 + data[-2:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk with its length and CRC."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@lru_cache
def png_bomb(kind: bytes, nbytes: int = 64 << 20) -> bytes:
    """A 4 x 4 PNG with a chunk of `kind` (zTXt, iTXt or iCCP) that inflates to `nbytes` zeros."""
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    packed = b"".join(packer.compress(block) for _ in range(nbytes >> 20)) + packer.flush()
    png = encode(Image.new("RGB", (4, 4)), "PNG")
    return png[:33] + png_chunk(kind, head + packed) + png[33:]


def huge_header(fmt: str, side: int = 50_000) -> bytes:
    """A small file whose header claims side x side pixels."""
    data = bytearray(encode(Image.new("RGB", (8, 8)), fmt))
    if fmt == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif fmt == "JPEG":
        sof = data.index(b"\xff\xc0")
        data[sof + 5 : sof + 9] = struct.pack(">HH", side, side)
    elif fmt == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif fmt == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    else:
        raise NotImplementedError(fmt)
    return bytes(data)


def scans_jpeg(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `scans` of them."""
    data = encode(Image.new("RGB", (64, 64), "red"), "JPEG", progressive=True)
    starts = [match.start() for match in re.finditer(b"\xff\xda", data)]
    last = data[starts[-1] : -2]
    return data[:-2] + last * (scans - len(starts)) + b"\xff\xd9"
