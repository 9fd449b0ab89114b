"""JPEGs taken apart into marker segments, and put together again wrongly in every way that files in the wild are."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator

from PIL import Image

from tests.support.images import encode, photo

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)

Mutant = tuple[str, bytes]
"""(what was done, the file)."""


def segment(code: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    """A marker segment; `length` is what it claims, if that is not the truth."""
    return struct.pack(">BBH", 0xFF, code, len(body) + 2 if length is None else length) + body


def segments(data: bytes) -> list[bytes]:
    """What lies between SOI and EOI of a sound JPEG: its segments, a scan's data with its header."""
    parts, at = [], 2
    while data[at : at + 2] != EOI:
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] == 0xDA:
            found = _IN_SCAN.search(data, end)
            assert found is not None
            end = found.start()
        parts.append(data[at:end])
        at = end
    return parts


def joined(parts: list[bytes]) -> bytes:
    """The file that has these segments."""
    return SOI + b"".join(parts) + EOI


def icc(number: int, count: int, content: bytes = b"profile" * 20) -> bytes:
    """One piece of a colour profile."""
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + content)


def real_jpegs() -> dict[str, bytes]:
    """A piece of a real photograph in the encodings that occur; small, so that thousands of mutants take seconds."""
    with Image.open(io.BytesIO(photo("rocket.jpg"))) as image:
        piece = image.convert("RGB").crop((200, 100, 267, 153))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    return {
        "baseline": encode(piece, "JPEG", quality=90),
        "444-exif": encode(piece, "JPEG", subsampling=0, exif=exif, dpi=(300, 300)),
        "progressive": encode(piece, "JPEG", progressive=True, icc_profile=b"p" * 70_000, comment=b"hello"),
        "restarts": encode(piece, "JPEG", restart_marker_blocks=4, quality=70),
        "grey": encode(piece.convert("L"), "JPEG"),
        "cmyk": encode(piece.convert("CMYK"), "JPEG"),
        "rgb": encode(piece, "JPEG", keep_rgb=True),
    }


def metadata() -> dict[str, bytes]:
    """What may stand between the segments of a JPEG and says nothing about its pixels, right and wrong."""
    exif = b"Exif\0\0II*\0\x08\0\0\0"
    entry = struct.pack("<HHII", 0x0112, 3, 1, 6)
    photoshop = b"Photoshop 3.0\0"
    found = {
        "icc twice": icc(1, 1) + icc(1, 1),
        "icc piece missing": icc(1, 3) + icc(3, 3),
        "icc counts differ": icc(1, 2) + icc(2, 3),
        "icc 0 of 0": icc(0, 0),
        "icc 5 of 2": icc(5, 2),
        "icc empty": icc(1, 1, b""),
        "icc cut": segment(0xE2, b"ICC_PROFILE\0\1"),
        "icc out of order": icc(2, 2) + icc(1, 2),
        "exif empty": segment(0xE1, b"Exif\0\0"),
        "exif one byte": segment(0xE1, b"E"),
        "exif odd": segment(0xE1, exif + b"\1\0" + entry + b"\0"),
        "exif cut": segment(0xE1, exif + b"\xff\xff" + entry[:7]),
        "exif points away": segment(0xE1, b"Exif\0\0MM\0*\x7f\xff\xff\xff"),
        "exif of another order": segment(0xE1, b"Exif\0\0XX*\0\x08\0\0\0" + entry),
        "exif twice": segment(0xE1, exif + b"\1\0" + entry + b"\0\0\0\0") * 2,
        "exif of bad resolution": segment(
            0xE1, exif + b"\1\0" + struct.pack("<HHII", 0x011A, 5, 1, 26) + b"\0\0\0\0" + struct.pack("<II", 72, 0)
        ),
        "xmp": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        "jfif cut": segment(0xE0, b"JFIF\0\1"),
        "jfif of version 9": segment(0xE0, b"JFIF\0\x09\x09\0\0\1\0\1\0\0"),
        "jfif with a short thumbnail": segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\x10\x10abc"),
        "jfif with a thumbnail": segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\1abc"),
        "jfif of no density": segment(0xE0, b"JFIF\0\1\1\1\0\0\0\0\0\0"),
        "jfxx": segment(0xE0, b"JFXX\0\x10" + bytes(40)),
        "avi1": segment(0xE0, b"AVI1\0\0"),
        "mpf": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0"),
        "mpf cut": segment(0xE2, b"MPF\0MM"),
        "mpf of two": segment(
            0xE2, b"MPF\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHII", 0xB001, 4, 1, 2) + b"\0\0\0\0" + bytes(20)
        ),
        "photoshop": segment(0xED, photoshop + b"8BIM\x03\xed\0\0\0\0\0\x10" + bytes(16)),
        "photoshop cut": segment(0xED, photoshop + b"8BIM\x03\xed\0\0\0\0"),
        "photoshop of a bad resolution": segment(0xED, photoshop + b"8BIM\x03\xed\0\0\0\0\0\2\0\1"),
        "photoshop odd": segment(0xED, photoshop + b"8BIM\x04\x04\1\0\0\0\0\3abc8BIM"),
        "com empty": segment(0xFE),
        "com": segment(0xFE, b"a comment with \xff\xd9 and \xff\xda in it"),
        "com long": segment(0xFE, b"c" * 65_533),
        "com twice": segment(0xFE, b"1") + segment(0xFE, b"2"),
        "jpeg in app1": segment(0xE1, real_thumbnail()),
        "extension": segment(0xF7, b"abc"),
        "fill": b"\xff" * 7,
        "zeros": bytes(3),
        "garbage": b"garbage",
        "stuffed": b"\xff\0\xff\0",
        "restart marker": b"\xff\xd3",
        "tem": b"\xff\x01",
    }
    found |= {f"app{n} empty": segment(0xE0 + n) for n in range(16)}
    return found | {f"app{n}": segment(0xE0 + n, b"\xff\xc0\xff\xd9 of nobody" * 3) for n in range(16)}


def real_thumbnail() -> bytes:
    """A JPEG of eight pixels."""
    return encode(Image.new("RGB", (8, 8), "green"), "JPEG")


def structure() -> dict[str, bytes]:
    """Segments that decoders heed: what they do to the pixels, or whether there are any, is for Pillow to say."""
    adobe = b"Adobe\0\x64\0\0\0\0"
    found = {f"adobe of {n} bytes": segment(0xEE, (adobe + b"\1more")[:n]) for n in range(17)}
    found |= {f"adobe transform {n}": segment(0xEE, adobe + bytes([n])) for n in range(4)}
    found |= {f"dri {n}": segment(0xDD, struct.pack(">H", n)) for n in (0, 1, 4, 5, 1000)}
    found |= {f"code {code:02x}": segment(code, b"\0\1\2\3") for code in (0x02, 0xBF, 0xC8, 0xCC, 0xDE, 0xDF, 0xF0)}
    return found | {
        "dri cut": segment(0xDD, b"\0"),
        "dri long": segment(0xDD, b"\0\0\0"),
        "dnl": segment(0xDC, b"\0\x35"),
        "soi": SOI,
        "eoi": EOI,
        "com of length 0": segment(0xFE, length=0),
        "com of length 1": segment(0xFE, length=1),
        "app1 of length 0": segment(0xE1, length=0),
        "app1 longer than it is": segment(0xE1, b"abc", length=60_000),
        "dqt empty": segment(0xDB),
        "dqt cut": segment(0xDB, bytes(30)),
        "dht empty": segment(0xC4),
        "dht cut": segment(0xC4, bytes(10)),
    }


def inserted(data: bytes, pieces: dict[str, bytes]) -> Iterator[Mutant]:
    """Each piece at each place between two segments, and before EOI."""
    parts = segments(data)
    for name, piece in pieces.items():
        for at in range(len(parts) + 1):
            yield f"{name} at {at}", joined([*parts[:at], piece, *parts[at:]])


def rearranged(data: bytes) -> Iterator[Mutant]:
    """Each segment left out, doubled, moved, shortened, or with a length that is a lie."""
    parts = segments(data)
    for at, part in enumerate(parts):
        before, behind, name = parts[:at], parts[at + 1 :], f"{part[1]:02x} at {at}"
        yield f"{name} left out", joined(before + behind)
        yield f"{name} twice", joined([*before, part, part, *behind])
        yield f"{name} last", joined([*before, *behind, part])
        yield f"{name} first", joined([part, *before, *behind])
        for cut in (1, 2, len(part) // 2):
            yield f"{name} less {cut}", joined([*before, part[:-cut], *behind])
        (length,) = struct.unpack_from(">H", part, 2)
        for wrong in (0, 1, 2, length - 1, length + 1, length + 9, 65_535):
            yield (
                f"{name} of length {wrong}",
                joined([*before, part[:2] + struct.pack(">H", wrong % 65_536) + part[4:], *behind]),
            )
        for place in range(4, min(len(part), 24)):
            for value in (0, 1, 0xFF, part[place] ^ 0x10):
                changed = part[:place] + bytes([value]) + part[place + 1 :]
                yield f"{name} byte {place} = {value}", joined([*before, changed, *behind])


def ended(data: bytes) -> Iterator[Mutant]:
    """Another beginning or another end."""
    yield "no end", data[:-2]
    yield "half an end", data[:-1]
    yield "two ends", data + EOI
    yield "another end", data[:-2] + b"\xff\xff\xff\xd9"
    yield "zeros behind", data + bytes(5000)
    yield "garbage behind", data + b"garbage" * 99
    yield "a scan behind", data + b"\xff\xda" * 99
    yield "itself behind", data + data
    yield "a thumbnail behind", data + real_thumbnail()
    yield "a thumbnail in front", real_thumbnail() + data
    yield "tables alone in front", joined([part for part in segments(data) if part[1] in (0xDB, 0xC4)]) + data
    yield "soi in front", SOI + data
    yield "garbage in front", b"garbage" + data
    yield "a line in front", b"\n" + data
    yield "fill in front", b"\xff\xff" + data
    yield "fill behind soi", SOI + b"\xff\xff\xff" + data[2:]
    for count in (1, 3, 64):
        yield f"{count} zeros before the end", data[:-2] + bytes(count) + EOI
        yield f"{count} stuffed bytes before the end", data[:-2] + b"\xff\0" * count + EOI
