"""15,000 JPEGs that are wrong somewhere, and icons that lie: Pillow's pixels or a name, never anything else."""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.errors import SampleError
from tests.support.images import damaged_jpeg, encode, png_chunk, released, released_or_none
from tests.support.jpegs import Mutant, ended, inserted, joined, metadata, real_jpegs, rearranged, segments, structure

JPEGS = real_jpegs()
MUTATIONS: dict[str, Callable[[bytes], Iterator[Mutant]]] = {
    "metadata": lambda data: inserted(data, metadata()),
    "structure": lambda data: inserted(data, structure()),
    "ends": ended,
    "segments": rearranged,
}
CODED = ("da ", "c4 ")
"""Mutants of scans and Huffman tables: the data of the scan is damaged even where Pillow's pixels are not."""


def ours(data: bytes) -> tuple[NDArray[np.uint8] | None, str]:
    """Our pixels, or the reason for which there are none."""
    try:
        header = probe(data, 10**7)
        pixels = decode(data, header).pixels
    except SampleError as exc:
        return None, exc.reason if exc.detail else "no detail"
    assert pixels.shape == (header.height, header.width, 4)
    return pixels[..., :3], ""


@pytest.mark.parametrize("jpeg", JPEGS)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_mutant_has_pillows_pixels_or_a_name(jpeg: str, mutation: str) -> None:
    """What leaves the photograph as it was is never refused; what changes it may be called damaged, no more."""
    whole = released(JPEGS[jpeg])
    seen = 0
    for name, data in MUTATIONS[mutation](JPEGS[jpeg]):
        expected, (pixels, reason) = released_or_none(data), ours(data)
        if expected is None:
            assert pixels is None, name
        elif pixels is not None:
            assert np.array_equal(pixels, expected), name
            seen += 1
        else:
            assert reason == "jpeg_corrupt", name
            assert name.startswith(CODED) or not np.array_equal(expected, whole), name
    assert seen > 10


def test_damage_behind_tables_alone_is_found() -> None:
    """libjpeg-turbo's simple interface does not take such a file, so its scan is looked at without them."""
    damaged = damaged_jpeg(JPEGS["baseline"])
    tables = joined([part for part in segments(JPEGS["baseline"]) if part[1] in (0xDB, 0xC4)])
    assert released_or_none(tables + damaged) is not None
    assert ours(tables + damaged) == (None, "jpeg_corrupt")


def test_tables_alone_are_no_picture() -> None:
    """Nor are two sets of them."""
    tables = joined([part for part in segments(JPEGS["baseline"]) if part[1] in (0xDB, 0xC4)])
    assert ours(tables) == ours(tables * 2) == (None, "image_header")


def test_an_icon_cannot_hide_a_bomb_behind_another_chunk() -> None:
    """Pillow takes the size of a PNG from its IHDR wherever that stands; the limit must see the same."""
    side = 9000
    png = encode(Image.new("L", (side, side)), "PNG")
    small = png_chunk(b"aaAa", struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0))
    frame = png[:8] + small + png[8:]
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(frame), 22) + frame
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SampleError) as caught:
        probe(icon, 10**6)
    assert caught.value.reason == "image_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10
