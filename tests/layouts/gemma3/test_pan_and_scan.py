"""Which crops a picture gets, held against the released image processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.errors import ConfigError
from owl_stream.layouts.gemma3.pan_and_scan import Box, PanAndScan, choose_crops, draw
from tests.support.families_tiles import Resizer, noise, normalised, pillow
from tests.support.images import photo

SIZES = st.integers(1, 5000)
SETTINGS = st.builds(
    PanAndScan,
    min_crop_size=st.integers(12, 600),
    max_crops=st.integers(1, 12),
    min_ratio=st.floats(0.5, 4.0),
)


def options(rule: PanAndScan) -> dict[str, Any]:
    """The same settings by the processor's names."""
    return {
        "pan_and_scan_min_crop_size": rule.min_crop_size,
        "pan_and_scan_max_num_crops": rule.max_crops,
        "pan_and_scan_min_ratio_to_activate": rule.min_ratio,
    }


def released_crops(width: int, height: int, rule: PanAndScan) -> tuple[Box, ...]:
    """Where the processor's crops lie: it cuts a picture whose pixels are their own columns, and one of rows."""
    columns = np.broadcast_to(np.arange(width), (3, height, width))
    rows = np.broadcast_to(np.arange(height)[:, None], (3, height, width))
    across, down = (transformers.Gemma3ImageProcessorPil().pan_and_scan(x, **options(rule)) for x in (columns, rows))
    corners = zip(across, down, strict=True)
    return tuple(Box(int(x[0, 0, 0]), int(y[0, 0, 0]), int(x[0, 0, -1]) + 1, int(y[0, -1, 0]) + 1) for x, y in corners)


def drawn(pixels: NDArray[np.uint8], side: int, rule: PanAndScan | None) -> NDArray[np.uint8]:
    """The picture and its crops, uint8 [1 + crops, 3, side, side]."""
    crops = choose_crops(pixels.shape[1], pixels.shape[0], rule)
    out = np.full((1 + len(crops), 3, side, side), 77, np.uint8)
    draw(pixels, crops, out, Resizer(Image.Resampling.BILINEAR))
    return out


@settings(max_examples=500, deadline=None)
@given(SIZES, SIZES, SETTINGS)
def test_any_size_has_the_processors_crops(width: int, height: int, rule: PanAndScan) -> None:
    """Any picture and settings, to the pixel."""
    assert choose_crops(width, height, rule) == released_crops(width, height, rule)


@settings(max_examples=300, deadline=None)
@given(st.integers(256, 1000), st.integers(0, 9), st.integers(-1, 1), st.booleans())
def test_borders_of_the_rule_are_the_processors(short: int, half: int, nudge: int, tall: bool) -> None:
    """Pictures whose ratio is a half number, where crops are rounded, a pixel less and a pixel more."""
    long = max(1, short * (half + 2) // 2 + nudge)
    size = (short, long) if tall else (long, short)
    assert choose_crops(*size, PanAndScan()) == released_crops(*size, PanAndScan())


def test_a_picture_is_cropped_from_the_ratio_on_and_not_before() -> None:
    """A ratio of 1.2 is 6:5; the crops are as long as needed, the last one takes the rest."""
    assert choose_crops(599, 500, PanAndScan()) == ()
    assert choose_crops(600, 500, PanAndScan()) == (Box(0, 0, 300, 500), Box(300, 0, 600, 500))
    assert choose_crops(500, 601, PanAndScan()) == (Box(0, 0, 500, 301), Box(0, 301, 500, 601))
    assert choose_crops(500, 601, None) == ()


@pytest.mark.parametrize(("min_crop_size", "max_crops"), [(2, 4), (0, 0), (256, 0)])
def test_settings_that_can_make_a_crop_of_no_pixels_are_refused(min_crop_size: int, max_crops: int) -> None:
    """The processor's fourth crop of nine columns would begin at the tenth."""
    with pytest.raises(ConfigError, match=f"got max_crops {max_crops} and min_crop_size {min_crop_size}"):
        PanAndScan(min_crop_size, max_crops)


def test_the_processor_makes_such_crops() -> None:
    """What the refusal above is for."""
    released, columns = transformers.Gemma3ImageProcessorPil(), np.zeros((3, 2, 9), np.uint8)
    crops = released.pan_and_scan(columns, 2, 4, 1.2)
    assert [crop.shape[2] for crop in crops] == [3, 3, 3, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), SETTINGS)
def test_pixels_equal_the_processors(width: int, height: int, rule: PanAndScan) -> None:
    """The whole picture first, then its crops, with Pillow's bilinear filter, to 1e-6 after normalisation."""
    released = transformers.Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    pixels = noise(width, height)
    expected = released(pillow(pixels), do_pan_and_scan=True, return_tensors="np", **options(rule))
    mine = drawn(pixels, 28, rule)
    assert [len(mine)] == [1 + crops for crops in expected["num_crops"]]
    assert np.abs(normalised(mine, released) - expected["pixel_values"]).max() <= 1e-6


@pytest.mark.parametrize("rule", [None, PanAndScan(min_crop_size=150)], ids=["whole", "pan-and-scan"])
@pytest.mark.parametrize("name", ["rocket.jpg", "page.png"])
def test_photographs_equal_the_processors_at_the_released_size(name: str, rule: PanAndScan | None) -> None:
    """Pictures of 896 pixels."""
    pixels = decode(photo(name), probe(photo(name), 10**8)).pixels
    released = transformers.Gemma3ImageProcessorPil(size={"height": 896, "width": 896})
    wanted = options(rule) | {"do_pan_and_scan": True} if rule else {}
    expected = released(pillow(pixels), return_tensors="np", **wanted)["pixel_values"]
    mine = drawn(pixels, 896, rule)
    assert len(mine) == (3 if rule else 1)
    assert np.abs(normalised(mine, released) - expected).max() <= 1e-6
