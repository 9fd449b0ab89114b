"""What decoding and resizing a picture will take, worked out from its header alone.

The limits are part of the recipe or constants, so every server refuses the same pictures, however much memory and CPU
it has. The numbers are upper bounds that were measured (`tests/assemble/test_work.py` holds them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from owl_stream.errors import SampleError

MAX_JPEG_PASSES = 1 << 30
"""Pixels times scans of a JPEG: each scan is a pass over the whole image. Encoders write about ten scans."""

MAX_SLOW_SAMPLES = 1 << 24
"""Pixels times channels where Pillow's decoder is written in Python, which takes about a microsecond for each."""

_POINTER_BYTES = 8
"""Pillow keeps one for every row of a picture."""

_COPIES = {"WEBP": 4, "JPEG": 3}
"""How many copies of the file a decoder makes; 2 for formats that are not listed."""

_BYTES_A_PIXEL = {"WEBP": 20, "AVIF": 28, "ICO": 28}
"""Memory a pixel, our own picture included, of decoders that keep whole pictures; others: see `decoding_bytes`."""


class Limits(NamedTuple):
    """What one picture may have and take: `max_image_pixels` and `max_image_bytes` of the recipe."""

    pixels: int
    nbytes: int


def decoding_bytes(
    name: str, width: int, height: int, file_bytes: int, *, pillow_bytes: int = 0, buffers: int = 0, coded: int = 0
) -> int:
    """Memory that decoding takes at its peak, in bytes, the pixels (4 bytes each) included.

    `pillow_bytes`: bytes a pixel of the picture that Pillow makes besides ours; 0 where it decodes right into ours.
    `buffers`: bytes that only the decoder needs, freed before its picture is converted. `coded`: pixels of the picture
    in the file, which may be more than are shown.
    """
    pixels = max(width * height, coded)
    fixed = _COPIES.get(name, 2) * file_bytes + 2 * _POINTER_BYTES * height
    if name in _BYTES_A_PIXEL:
        return fixed + _BYTES_A_PIXEL[name] * pixels + buffers
    decoding, converting = 4 * pixels + buffers, (4 + pillow_bytes) * pixels
    return fixed + max(decoding, converting)


def resizing_bytes(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> int:
    """Memory that resizing to each of `sizes` (width, height) takes at its peak, the pixels included.

    A resizer works along one side first, and which one differs between resizers: both ways count. What it writes to
    is left out: that depends on the recipe alone.
    """
    most = 0
    for to_width, to_height in sizes:
        between = 4 * max(width * to_height, to_width * height)
        weights = _weight_bytes(width, to_width) + _weight_bytes(height, to_height)
        most = max(most, between + weights)
    return 4 * width * height + 2 * _POINTER_BYTES * height + most


def _weight_bytes(size: int, to_size: int) -> int:
    """The weights for one side of the widest filter, Lanczos: 8 bytes each, and 4 in another form."""
    return 12 * to_size * (6 * -(-max(size, to_size) // to_size) + 3)


def target_bytes(most_pixels: int) -> int:
    """Memory that a resizer writes to, where a picture becomes `most_pixels` at most: the recipe decides it."""
    return 2 * 4 * most_pixels


def check_bytes(name: str, width: int, height: int, nbytes: int, limit: int) -> None:
    """Refuse a picture that would take more memory than one may.

    Raises:
        SampleError: `image_too_large`.
    """
    if nbytes > limit:
        _too_large(
            f"{name} header of {width} x {height} pixels: decoding and resizing take up to {nbytes} bytes of "
            f"memory: expected at most max_image_bytes = {limit}; make it smaller, or raise the setting"
        )


def check_pixels(name: str, width: int, height: int, limit: int) -> None:
    """Refuse a picture that has no pixels, or more than `max_image_pixels`.

    Raises:
        SampleError: `image_header` or `image_too_large`.
    """
    if width < 1 or height < 1:
        raise SampleError("image_header", f"{name} header: expected a size from 1 x 1, got {width} x {height}")
    if width * height > limit:
        _too_large(f"{name} header of {width} x {height} pixels: expected at most max_image_pixels = {limit}")


def check_slow(name: str, width: int, height: int, channels: int) -> None:
    """Refuse a picture of a kind that takes Pillow a microsecond a sample, if it has many.

    Raises:
        SampleError: `image_too_large`.
    """
    if width * height * channels > MAX_SLOW_SAMPLES:
        _too_large(
            f"{name} of {width} x {height} pixels in a form that is decoded slowly: expected at most "
            f"{MAX_SLOW_SAMPLES} samples (pixels times channels); convert it to PNG"
        )


def check_passes(width: int, height: int, scans: int) -> None:
    """Refuse a JPEG whose scans pass over too many pixels altogether.

    Raises:
        SampleError: `jpeg_scans`.
    """
    if width * height * scans > MAX_JPEG_PASSES:
        raise SampleError(
            "jpeg_scans",
            f"JPEG of {width} x {height} pixels and {scans} scans: expected at most {MAX_JPEG_PASSES} pixels times "
            f"scans; save it with fewer scans",
        )


def _too_large(detail: str) -> NoReturn:
    raise SampleError("image_too_large", detail)
