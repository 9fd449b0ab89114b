"""JPEGs with mutated segments: where Pillow gives pixels they are the same here, else the fault has a name.

Faults 108 and 109 of docs/faults.md.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.assemble.jpeg import read_jpeg, scans_alone
from owl_stream.errors import SampleError
from tests.support.images import damaged_jpeg, encode, photo, released, released_or_none

PIXELS = 10**8
Segments = list[bytes]
"""A JPEG in pieces: the SOI, each segment (a scan's data with its SOS), the EOI."""


def small(name: str, **options: object) -> bytes:
    """A photograph at a size that decodes in a millisecond, in some encoding."""
    with Image.open(io.BytesIO(photo(name))) as image:
        image.thumbnail((120, 90))
        mode = "L" if options.pop("grey", False) else "CMYK" if options.pop("cmyk", False) else "RGB"
        return encode(image.convert(mode), "JPEG", **options)


PHOTOGRAPHS = {
    "baseline": small("rocket.jpg"),
    "444": small("retina.jpg", subsampling=0, quality=90),
    "progressive": small("hubble_deep_field.jpg", progressive=True),
    "restarts": small("rocket.jpg", restart_marker_blocks=3),
    "grey": small("rocket.jpg", grey=True),
    "cmyk": small("rocket.jpg", cmyk=True),
    "profile": small("rocket.jpg", icc_profile=bytes(range(256)) * 8, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
}


def segment(code: int, content: bytes) -> bytes:
    """A marker with its length and content."""
    return bytes([0xFF, code]) + struct.pack(">H", len(content) + 2) + content


def split(data: bytes) -> Segments:
    """A JPEG that Pillow has written, in pieces."""
    pieces, at = [data[:2]], 2
    while data[at + 1] != 0xD9:
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if data[at + 1] == 0xDA:
            while data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7:
                end += 1
        pieces.append(data[at:end])
        at = end
    return [*pieces, data[at:]]


def place_of(pieces: Segments, *codes: int) -> int:
    """Where the first segment of these codes stands."""
    return next(at for at, piece in enumerate(pieces) if piece[1] in codes)


def join(pieces: Segments) -> bytes:
    """The file."""
    return b"".join(pieces)


def insert(extra: bytes, at: int = 1) -> Callable[[Segments], bytes]:
    """Bytes between the SOI and what follows, or elsewhere."""
    return lambda pieces: join([*pieces[:at], extra, *pieces[at:]])


def before(code: int, extra: bytes) -> Callable[[Segments], bytes]:
    """Bytes right in front of a segment."""
    return lambda pieces: insert(extra, place_of(pieces, *([0xC0, 0xC1, 0xC2] if code == 0xC0 else [code])))(pieces)


def icc(number: int, count: int, nbytes: int = 60) -> bytes:
    """A chunk of a colour profile."""
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + bytes(nbytes))


def exif(content: bytes) -> bytes:
    """An APP1 with EXIF in it."""
    return segment(0xE1, b"Exif\0\0" + content)


def adobe(*tail: int) -> bytes:
    """An Adobe segment: version, flags, and a transform."""
    return segment(0xEE, b"Adobe" + bytes(tail))


def jfif(*tail: int) -> bytes:
    """A JFIF segment; whole: version 2, unit 1, density 4, thumbnail's size 2."""
    return segment(0xE0, b"JFIF\0" + bytes(tail))


def edit(code: int, change: Callable[[bytes], bytes]) -> Callable[[Segments], bytes]:
    """Change the first segment of a code, marker and length included."""

    def mutate(pieces: Segments) -> bytes:
        at = place_of(pieces, *([0xC0, 0xC1, 0xC2] if code == 0xC0 else [code]))
        return join([*pieces[:at], change(pieces[at]), *pieces[at + 1 :]])

    return mutate


def with_odd_end(piece: bytes) -> bytes:
    """An SOS whose last three bytes are not those of a sequential JPEG."""
    end = 2 + struct.unpack_from(">H", piece, 2)[0]
    return piece[: end - 3] + b"\1\2\x11" + piece[end:]


def swap(first: int, second: int) -> Callable[[Segments], bytes]:
    """Two kinds of segment change places."""

    def mutate(pieces: Segments) -> bytes:
        pieces, one, other = [*pieces], place_of(pieces, first), place_of(pieces, second)
        pieces[one], pieces[other] = pieces[other], pieces[one]
        return join(pieces)

    return mutate


def drop(code: int) -> Callable[[Segments], bytes]:
    """Every segment of a code goes."""
    return lambda pieces: join([piece for piece in pieces if piece[1] != code])


THUMBNAIL = small("retina.jpg")[:4000]

HARMLESS = {
    "nothing": join,
    # ICC
    "icc chunk twice": insert(icc(1, 1) * 2),
    "icc chunk missing": insert(icc(1, 3) + icc(3, 3)),
    "icc chunk 0": insert(icc(0, 1)),
    "icc chunk beyond its count": insert(icc(9, 2) + icc(1, 2)),
    "icc counts differ": insert(icc(1, 2) + icc(2, 3)),
    "icc chunks out of order": insert(icc(2, 2) + icc(1, 2)),
    "icc empty": insert(icc(1, 1, 0)),
    "icc behind SOF": before(0xDA, icc(1, 1)),
    "icc on both sides of SOF": lambda pieces: before(0xDA, icc(2, 2))(split(insert(icc(1, 2))(pieces))),
    "icc twice behind SOF": before(0xDA, icc(1, 1) * 2),
    # EXIF
    "exif empty": insert(exif(b"")),
    "exif cut off": insert(exif(b"II*\0\x08\0\0\0\x05\0\x12\1")),
    "exif loops": insert(exif(b"II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0")),
    "exif offset beyond": insert(exif(b"MM\0*\xff\xff\xff\xf0")),
    "exif of rubbish": insert(exif(bytes(range(200)))),
    "exif twice": insert(exif(b"MM\0*\0\0\0\x08\0\0\0\0\0\0") * 2),
    "exif in the largest segment": insert(exif(b"MM\0*" + bytes(65533 - 2 - 6 - 4))),
    "exif resolution 1/0": insert(
        exif(b"II*\0\x08\0\0\0\2\0\x1a\1\5\0\1\0\0\0\x26\0\0\0\x28\1\3\0\1\0\0\0\3\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0")
    ),
    "xmp": insert(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")),
    "thumbnail in APP1": insert(exif(THUMBNAIL)),
    # Adobe and JFIF
    "adobe transform 1": insert(adobe(0, 100, 0, 0, 0, 0, 1)),
    "adobe too long": insert(adobe(0, 100, 0, 0, 0, 0, 1, 7, 7, 7)),
    "adobe without a transform": insert(adobe(0, 100, 0, 0)),
    "adobe name misspelt": insert(segment(0xEE, b"Adobf" + bytes(7))),
    "jfif major 9": insert(jfif(9, 9, 0, 0, 1, 0, 1, 0, 0)),
    "jfif twice": insert(jfif(1, 1, 0, 0, 1, 0, 1, 0, 0)),
    "jfif thumbnail": insert(jfif(1, 1, 0, 0, 1, 0, 1, 2, 2, *range(12))),
    "jfif thumbnail shorter than it says": insert(jfif(1, 1, 0, 0, 1, 0, 1, 90, 90, 5)),
    "jfif unit unknown": insert(jfif(1, 1, 7, 0, 0, 0, 0, 0, 0)),
    "jfif short": insert(jfif(1, 2, 0)),
    "jfxx": insert(segment(0xE0, b"JFXX\0\x10" + THUMBNAIL)),
    "no jfif": drop(0xE0),
    # others
    "comment": insert(segment(0xFE, b"hello")),
    "comment empty": insert(segment(0xFE, b"")),
    "comment with markers in it": insert(segment(0xFE, b"\xff\xd9\xff\xda\xff\xc0" * 20)),
    "comment of length 0": insert(b"\xff\xfe\0\0"),
    "comment of length 1": insert(b"\xff\xfe\0\1"),
    "photoshop cut off": insert(segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\0\0")),
    "photoshop lies about its size": insert(segment(0xED, b"Photoshop 3.0\x008BIM\4\4\0\0\xff\xff\xff\xffab")),
    **{f"APP{at} of rubbish": insert(segment(0xE0 + at, bytes(range(256)))) for at in range(16)},
    **{f"APP{at} empty": insert(segment(0xE0 + at, b"")) for at in range(16)},
    "fill bytes": insert(b"\xff" * 7),
    "fill bytes before SOS": before(0xDA, b"\xff" * 7),
    "stray bytes": before(0xDB, b"\0\1\2"),
    "stray bytes before SOS": before(0xDA, b"abc"),
    "stuffed bytes": before(0xDB, b"\xff\0"),
    "restart marker between segments": before(0xDB, b"\xff\xd3"),
    "zeros before EOI": lambda pieces: join([*pieces[:-1], bytes(40), pieces[-1]]),
    "fill bytes before EOI": lambda pieces: join([*pieces[:-1], b"\xff" * 9, pieces[-1]]),
    "comment before EOI": lambda pieces: join([*pieces[:-1], segment(0xFE, b"bye"), pieces[-1]]),
    "icc before EOI": lambda pieces: join([*pieces[:-1], icc(1, 1) * 2, pieces[-1]]),
    "number of lines again": lambda pieces: join([*pieces[:-1], segment(0xDC, b"\0\x50"), pieces[-1]]),
    "garbage behind": lambda pieces: join(pieces) + b"garbage" * 99,
    "a second image behind": lambda pieces: join(pieces) + THUMBNAIL,
    "EOI twice": lambda pieces: join(pieces) + b"\xff\xd9",
    "huffman tables twice": edit(0xC4, lambda piece: piece * 2),
    "quantisation tables twice": edit(0xDB, lambda piece: piece * 2),
}
"""Mutations that change no pixel of the decoder's (some change colours, as Pillow has them)."""

REFUSED = {
    "garbage before": lambda pieces: b"\0\0" + join(pieces),
    "two SOI": lambda pieces: pieces[0] + join(pieces),
    "SOI in front of SOS": before(0xDA, b"\xff\xd8"),
    "icc cut off": insert(segment(0xE2, b"ICC_PROFILE\0\1")),
    "icc name alone": insert(segment(0xE2, b"ICC_PROFILE\0")),
    "EOI first": insert(b"\xff\xd9"),
    "TEM": insert(b"\xff\1"),
    "a reserved marker": insert(segment(0x02, b"abc")),
    "JPG0": insert(segment(0xF0, b"abc")),
    "a segment longer than the file": insert(b"\xff\xe5\xff\xff"),
    "adobe cut off": insert(segment(0xEE, b"Adobe")),
    "adobe of 6 bytes": insert(segment(0xEE, b"Adobe\0")),
    "jfif cut off": insert(segment(0xE0, b"JFIF\0")),
    "photoshop without a name": insert(segment(0xED, b"Photoshop 3.0\x008BIM\xf6\xf8")),
    "SOF twice": edit(0xC0, lambda piece: piece * 2),
    "SOF of no lines": edit(0xC0, lambda piece: piece[:5] + b"\0\0" + piece[7:]),
    "SOF of no columns": edit(0xC0, lambda piece: piece[:7] + b"\0\0" + piece[9:]),
    "SOF of 12 bits": edit(0xC0, lambda piece: piece[:4] + b"\x0c" + piece[5:]),
    "SOF of 2 components": edit(0xC0, lambda piece: piece[:9] + b"\2" + piece[10:]),
    "SOF of 5 components": edit(0xC0, lambda piece: piece[:9] + b"\5" + piece[10:]),
    "no SOF": lambda pieces: join([piece for piece in pieces if piece[1] not in (0xC0, 0xC2)]),
    "no SOS": lambda pieces: join([piece for piece in pieces if piece[1] != 0xDA]),
    "no quantisation tables": drop(0xDB),
    "SOS of no component": edit(0xDA, lambda piece: segment(0xDA, b"\0\0\x3f\0") + piece[-20:]),
    "huffman table of too many codes": edit(0xC4, lambda piece: piece[:5] + b"\xff" * 16 + piece[21:]),
    "sampling 0": edit(0xC0, lambda piece: piece[:11] + b"\0" + piece[12:]),
    "DRI of 3 bytes": before(0xDA, segment(0xDD, b"\0\1\2")),
}

EITHER = {
    "no EOI": lambda pieces: join(pieces[:-1]),
    "half an EOI": lambda pieces: join(pieces)[:-1],
    "a byte less than no EOI": lambda pieces: join(pieces)[:-3],
    "no EOI, stray bytes before SOS": lambda pieces: before(0xDA, b"abc")(pieces)[:-2],
    "no EOI, icc twice": lambda pieces: insert(icc(1, 1) * 2)(pieces)[:-2],
    "restart interval 0": before(0xDA, segment(0xDD, b"\0\0")),
    "tables in another order": swap(0xDB, 0xC4),
    "sampling 1 x 4": edit(0xC0, lambda piece: piece[:11] + b"\x14" + piece[12:]),
    "sampling 3 x 1": edit(0xC0, lambda piece: piece[:11] + b"\x31" + piece[12:]),
    "adobe transform 7": insert(adobe(0, 100, 0, 0, 0, 0, 7)),
    "adobe transform 0, no jfif": lambda pieces: insert(adobe(0, 100, 0, 0, 0, 0, 0))(split(drop(0xE0)(pieces))),
    "adobe transform 7, no jfif": lambda pieces: insert(adobe(0, 100, 0, 0, 0, 0, 7))(split(drop(0xE0)(pieces))),
    "adobe transform 2": insert(adobe(0, 100, 0, 0, 0, 0, 2)),
    "adobe behind SOF": before(0xDA, adobe(0, 100, 0, 0, 0, 0, 0)),
    "component names RGB": lambda pieces: (
        join(pieces).replace(b"\3\1", b"\3\x52") if pieces[place_of(pieces, 0xC0, 0xC2)][9] == 3 else join(pieces)
    ),
    "tables behind SOF": lambda pieces: before(0xDA, pieces[place_of(pieces, 0xDB)])(split(drop(0xDB)(pieces))),
    "SOF1": lambda pieces: join(pieces).replace(b"\xff\xc0\0", b"\xff\xc1\0"),
    "no huffman tables": drop(0xC4),
    "table number wrong": edit(0xC0, lambda piece: piece[:12] + b"\2" + piece[13:]),
    "scan's odd end": edit(0xDA, with_odd_end),
    "mpf cut off": insert(segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\3\xb0")),
    "taller than its data": edit(0xC0, lambda piece: piece[:5] + b"\1\0" + piece[7:]),
    "lower than its data": edit(0xC0, lambda piece: piece[:5] + b"\0\x20" + piece[7:]),
    "wider than its data": edit(0xC0, lambda piece: piece[:7] + b"\1\0" + piece[9:]),
    "restart interval 5": before(0xDA, segment(0xDD, b"\0\5")),
    "quantisation all 1": edit(0xDB, lambda piece: piece[:5] + b"\1" * 64 + piece[69:]),
    "quantisation of 0": edit(0xDB, lambda piece: piece[:5] + b"\0" * 64 + piece[69:]),
}


def got(data: bytes) -> tuple[Any, str, str]:
    """Our pixels (or None), what is suspicious about them, and the reason where there are none."""
    try:
        header = probe(data, PIXELS)
        assert header == probe(data, PIXELS, indexed=True)
        decoded = decode(data, header)
    except SampleError as exc:
        return None, "", exc.reason if exc.detail else ""
    assert decoded.pixels.shape == (header.height, header.width, 4)
    return decoded.pixels[..., :3], decoded.warning, ""


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("mutation", HARMLESS)
def test_a_harmless_mutation_leaves_pillows_pixels(photograph: str, mutation: str) -> None:
    """Pillow gives pixels, so they are the same here, and nothing is suspicious about them."""
    data = HARMLESS[mutation](split(PHOTOGRAPHS[photograph]))
    right = released_or_none(data)
    assert right is not None
    pixels, warning, reason = got(data)
    assert (reason, warning) == ("", "")
    assert np.array_equal(pixels, right)


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("mutation", REFUSED)
def test_what_pillow_refuses_has_a_name(photograph: str, mutation: str) -> None:
    """No pixels there, no pixels here, and a reason."""
    data = REFUSED[mutation](split(PHOTOGRAPHS[photograph]))
    assert released_or_none(data) is None
    pixels, _, reason = got(data)
    assert pixels is None
    assert reason


@pytest.mark.parametrize("photograph", PHOTOGRAPHS)
@pytest.mark.parametrize("mutation", EITHER)
def test_a_mutation_of_the_coding_gives_pillows_pixels_or_a_name(photograph: str, mutation: str) -> None:
    """Pillow's pixels, unless libjpeg finds the data of a scan damaged, about which Pillow is silent."""
    data = EITHER[mutation](split(PHOTOGRAPHS[photograph]))
    right = released_or_none(data)
    pixels, _, reason = got(data)
    if right is None:
        assert pixels is None
        assert reason
    elif pixels is None:
        assert reason == "jpeg_corrupt"
    else:
        assert np.array_equal(pixels, right)


@pytest.mark.parametrize("name", ["rocket.jpg", "retina.jpg", "hubble_deep_field.jpg"])
@pytest.mark.parametrize("options", [{}, {"grey": True}, {"grey": True, "quality": 95}, {"progressive": True}])
def test_a_missing_end_is_taken_where_pillow_takes_it(name: str, options: dict[str, object]) -> None:
    """Pillow takes a file that lacks its EOI marker where every pixel came out all the same."""
    whole = small(name, **options)
    for nbytes in range(len(whole) - 8, len(whole)):
        right, (pixels, _, reason) = released_or_none(whole[:nbytes]), got(whole[:nbytes])
        if right is None:
            assert reason == "jpeg_truncated"
        else:
            assert np.array_equal(pixels, right)


@pytest.mark.parametrize("seed", range(20))
def test_mutations_together_give_pillows_pixels_or_a_name(seed: int) -> None:
    """A few mutations of all kinds on top of each other, on every photograph."""
    rng = random.Random(seed)
    everything = [*HARMLESS.values(), *EITHER.values()]
    for photograph in PHOTOGRAPHS.values():
        data = photograph
        for mutate in rng.sample(everything, 3):
            try:
                data = mutate(split(data))
            except (StopIteration, IndexError, struct.error):
                continue  # what the last one made has no such segment
        right, (pixels, _, reason) = released_or_none(data), got(data)
        if right is None:
            assert pixels is None
            assert reason
        else:
            assert reason == "jpeg_corrupt" if pixels is None else np.array_equal(pixels, right)


def test_damage_is_found_behind_a_harmless_warning() -> None:
    """libjpeg tells its first warning only: behind a profile or stray bytes there may be grey pixels."""
    holes = damaged_jpeg(photo("rocket.jpg"))
    for hidden in (
        holes[:2] + icc(1, 1) * 2 + holes[2:],
        holes[:2] + segment(0xFE, b"") + b"abc" + holes[2:],
        holes.replace(b"JFIF\0\1", b"JFIF\0\3"),
        holes[:2] + adobe(0, 100, 0, 0, 0, 0, 7) + holes[20:],
        edit(0xDA, with_odd_end)(split(holes)),
    ):
        assert released_or_none(hidden) is not None
        assert got(hidden)[2] == "jpeg_corrupt"


def turbo_warning(data: bytes) -> str:
    """What libjpeg-turbo says about a whole file; in some places it takes a byte more without noticing."""
    try:
        simplejpeg.decode_jpeg(data, "CMYK" if read_jpeg(data, whole=False).channels == 4 else "RGBX")
    except ValueError as exc:
        return " ".join(str(exc).split())
    return ""


@pytest.mark.parametrize("photograph", ["baseline", "444", "grey", "cmyk", "restarts"])
def test_bytes_too_many_in_a_scan_are_suspicious(photograph: str) -> None:
    """Pillow's pixels, and libjpeg's warning: mostly the data was damaged before."""
    data = PHOTOGRAPHS[photograph]
    scan, suspicious = data.rindex(b"\xff\xda") + 14, 0
    for place in range(scan, len(data) - 2, (len(data) - scan) // 40):
        damaged = data[:place] + b"\x12\x34\x56" * 9 + data[place:]
        right, (pixels, warning, reason) = released_or_none(damaged), got(damaged)
        assert right is not None
        if pixels is None:
            assert reason == "jpeg_corrupt"
        else:
            assert np.array_equal(pixels, right)
            assert warning == turbo_warning(damaged)
            suspicious += bool(warning)
    assert suspicious > 0


def test_bytes_between_scan_and_end_are_suspicious_but_for_zeros() -> None:
    """What a damaged scan leaves over stands at the same place; cameras fill up with zeros only."""
    data = PHOTOGRAPHS["baseline"]
    assert got(data[:-2] + b"abc" * 9 + data[-2:])[1]
    assert not got(data[:-2] + bytes(27) + data[-2:])[1]


def test_scans_alone_decode_to_the_same_picture() -> None:
    """Nothing that pixels are made of is left out."""
    for name in ("baseline", "444", "progressive", "restarts", "grey"):
        data = PHOTOGRAPHS[name]
        alone = scans_alone(insert(icc(1, 1) * 2 + b"stray")(split(data)) + b"garbage")
        assert b"ICC_PROFILE" not in alone
        assert np.array_equal(released(alone), released(data))


def test_an_ordinary_photograph_is_not_shown_to_pillow() -> None:
    """Indexing reads headers of a hundred million pictures: only the unusual ones cost more."""
    for name in ("rocket.jpg", "hubble_deep_field.jpg", "retina.jpg"):
        assert read_jpeg(photo(name), whole=True).usual, name
    assert all(read_jpeg(data, whole=True).usual for data in PHOTOGRAPHS.values())
