"""JPEG files at the level of their marker segments (ITU T.81, B.1), without decoding a pixel.

What Pillow accepts is right. Its reader tolerates much between segments: fill bytes, stray bytes, unknown contents of
application segments. This walk tolerates the same, and knows what it cannot judge: then Pillow is asked.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from owl_stream.errors import SampleError

MAX_JPEG_SCANS = 500
"""Encoders write about ten; each further scan costs a pass over the whole image."""

MAX_JPEG_SEGMENTS = 1 << 16
"""Full ones would be 4 GiB. Pillow makes an object of each, or looks at it in Python."""
MAX_STRAY_BYTES = 1 << 20
"""In front of the first scan, between segments: fill bytes mostly. Pillow looks at one at a time."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""The next marker in entropy-coded data: neither a stuffed byte (FF00) nor a restart (FFD0 to FFD7).

Begins with one plain byte, which the engine looks for at memory speed: 2 GB/s, not 30 MB/s.
"""

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_DHT, _DQT, _DRI, _COM, _APP0, _APP2, _APP13, _APP14 = 0xC4, 0xDB, 0xDD, 0xFE, 0xE0, 0xE2, 0xED, 0xEE
_APPLICATION = frozenset(range(_APP0, 0xF0))
_SEQUENTIAL = frozenset((0xC0, 0xC1))

_USUAL = frozenset((0xC0, 0xC1, 0xC2, _DHT, _DQT, _DRI, _COM, _SOS)) | _APPLICATION - {_APP13}
"""Markers that both readers take. Pillow refuses some that libjpeg skips: TEM, or a Photoshop segment cut off."""

_SHORTEST = {_APP0: 16, _APP2: 16, _APP14: 14}
"""A segment with JFIF, a colour profile or Adobe's is whole at this length; on shorter ones readers differ."""


class JpegHeader(NamedTuple):
    """What the segments say.

    `usual`: nothing in front of the first scan on which Pillow and libjpeg could differ. `coefficients`: bytes of what
    a decoder keeps between scans, where there are several. `ended`: by an EOI marker, as far as it was read. `scans`:
    as far as it was read.
    """

    width: int
    height: int
    channels: int
    usual: bool
    coefficients: int
    ended: bool = True
    scans: int = 1


class _Segment(NamedTuple):
    """A marker, where it begins, where its content ends, and whether bytes lie between it and the segment before."""

    code: int
    start: int
    end: int
    apart: bool


def read_jpeg(data: bytes | memoryview, *, whole: bool) -> JpegHeader:
    """Read a JPEG's every marker up to the end of the image, or if not `whole` up to the one that tells its size.

    A file that ends before its EOI marker is refused, except where all that is missing may be that marker: within its
    only sequential scan.

    Raises:
        SampleError: `image_header`, `jpeg_truncated` or `jpeg_scans`.
    """
    scans, size, usual, sequential, ended = 0, None, True, False, False
    coefficients = 0
    for code, start, end, apart in _bounded(_segments(data)):
        if code == _EOI:
            if size is not None and scans:
                return JpegHeader(*size, usual, coefficients, scans=scans)
            ended, usual = True, False
            continue
        if not scans:
            usual &= code in _USUAL and not apart and end - start - 2 >= _SHORTEST.get(code, 0)
        if code in _SOF and start + 10 <= len(data) and size is None:
            precision, height, width, channels = struct.unpack_from(">BHHB", data, start + 4)
            size, sequential = (width, height, channels), code in _SEQUENTIAL
            usual &= precision == 8 and channels in (1, 3, 4)
            coefficients = _coefficient_bytes(data, start, width, height, channels)
        if code == _SOS:
            scans += 1
            if scans > MAX_JPEG_SCANS:
                _refuse("jpeg_scans", f"JPEG: expected at most {MAX_JPEG_SCANS} scans, got more")
            if scans == 1 and size is not None and sequential and data[start + 4 : start + 5] == bytes([size[2]]):
                coefficients = 0  # all channels are in it
            if not whole and size is not None:
                return JpegHeader(*size, usual, coefficients)
    if ended:
        _refuse("image_header", "JPEG: ends without an image")
    if size is None or scans != 1 or not sequential:
        refuse_truncated(data)
    return JpegHeader(*size, usual, coefficients, ended=False)


def _bounded(segments: Iterator[_Segment]) -> Iterator[_Segment]:
    """The segments, as many as a picture has: a decoder keeps each, and looks at every byte between them.

    Raises:
        SampleError: `image_header`: there are more, or more bytes between those in front of the first scan.
    """
    stray, behind = 0, 2
    for number, segment in enumerate(segments, start=1):
        if behind:
            stray, behind = stray + segment.start - behind, segment.end
        if number > MAX_JPEG_SEGMENTS or stray > MAX_STRAY_BYTES:
            _refuse(
                "image_header",
                f"JPEG: expected at most {MAX_JPEG_SEGMENTS} segments, and {MAX_STRAY_BYTES} bytes between those in "
                f"front of its scans, got more; save it again",
            )
        if segment.code == _SOS:
            behind = 0
        yield segment


def _coefficient_bytes(data: bytes | memoryview, start: int, width: int, height: int, channels: int) -> int:
    """Two bytes for each sample of each channel, in whole blocks of 8 x 8 and in units of all channels' blocks."""
    factors = [data[place] for place in range(start + 11, start + 10 + 3 * channels, 3) if place < len(data)]
    across, down = [max(1, factor >> 4) for factor in factors], [max(1, factor & 15) for factor in factors]
    units = -(-width // (8 * max(across, default=1))) * -(-height // (8 * max(down, default=1)))
    return 2 * 64 * units * sum(x * y for x, y in zip(across, down, strict=True))


def refuse_truncated(data: bytes | memoryview) -> NoReturn:
    """Raise `jpeg_truncated`."""
    _refuse("jpeg_truncated", f"JPEG: expected an end-of-image marker, the data ends after {len(data)} bytes")


def scans_alone(data: bytes | memoryview) -> bytes:
    """The image without comments, application segments and stray bytes between segments: what decoding pixels needs.

    libjpeg tells the first of its warnings only. What it says about this is about the scans. Colours may differ from
    the whole file's, for an application segment may say how they are coded.
    """
    parts, scan, sequential = [b"\xff\xd8"], -1, False
    for code, start, end, _ in _segments(data):
        if scan >= 0:
            parts.append(bytes(data[scan:start]))
            scan = -1
        if code in _APPLICATION or code in (_COM, _SOI, _EOI, _TEM):
            continue
        segment = bytes(data[start:end])
        sequential |= code in _SEQUENTIAL
        if code == _SOS:
            scan = end
            if sequential:
                segment = segment[:-3] + b"\0\x3f\0"  # ignored in a sequential JPEG, but warned about
        parts.append(segment)
    return b"".join([*parts, bytes(data[scan:]) if scan >= 0 else b"", b"\xff\xd9"])


def _segments(data: bytes | memoryview) -> Iterator[_Segment]:
    """Every marker behind the SOI, with its content if it has one, up to the EOI behind a scan or the end of the data.

    A file may begin with tables alone, between an SOI and an EOI of their own.
    """
    position, scan, scans = 2, False, 0
    while (marker := _MARKER.search(data, position)) is not None:
        code, start, end = marker[0][1], marker.start(), marker.end()
        apart = start != position and not scan
        if code not in (_SOI, _EOI, _TEM):
            if end + 2 > len(data):
                return
            (length,) = struct.unpack_from(">H", data, end)
            end += max(length, 2)
        yield _Segment(code, start, end, apart)
        if code == _EOI and scans:
            return
        position, scan = end, code == _SOS
        scans += scan


def _refuse(reason: str, detail: str) -> NoReturn:
    raise SampleError(reason, detail)
