"""Which tiles a picture is cut into, held against the released image processor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import decode
from owl_stream.assemble.resizers import SimdResizer
from owl_stream.layouts.internvl.tiles import choose_tiles, count_tiles, draw
from tests.support.families_tiles import Resizer, noise, normalised, pillow
from tests.support.images import PHOTOS, photo

SIZES = st.integers(1, 5000)
PICTURES = sorted(path.name for path in PHOTOS.iterdir() if path.suffix in (".jpg", ".png"))


def released_grid(width: int, height: int, side: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """(rows, cols) as the processor chooses them; uncached, since the rule itself is asked."""
    cols, rows = get_optimal_tiled_canvas.__wrapped__((height, width), (side, side), min_tiles, max_tiles)
    return rows, cols


def processor(side: int, max_tiles: int, min_tiles: int = 1) -> transformers.GotOcr2ImageProcessorPil:
    """The released image processor, cutting."""
    return transformers.GotOcr2ImageProcessorPil(
        size={"height": side, "width": side}, crop_to_patches=True, min_patches=min_tiles, max_patches=max_tiles
    )


def drawn(pixels: NDArray[np.uint8], side: int, max_tiles: int, resize: Any) -> NDArray[np.uint8]:
    """The tiles of a picture, uint8 [tiles, 3, side, side]."""
    grid = choose_tiles(pixels.shape[1], pixels.shape[0], side, 1, max_tiles)
    out = np.full((count_tiles(grid), 3, side, side), 77, np.uint8)
    draw(pixels, grid, out, resize)
    return out


@settings(max_examples=500, deadline=None)
@given(SIZES, SIZES, st.sampled_from([28, 224, 336, 448]), st.integers(1, 6), st.integers(1, 24))
def test_any_size_has_the_processors_grid_and_number_of_tiles(
    width: int, height: int, side: int, min_tiles: int, max_tiles: int
) -> None:
    """Any picture, tile and limits, also limits that no grid meets."""
    grid = choose_tiles(width, height, side, min_tiles, max_tiles)
    assert grid == released_grid(width, height, side, min_tiles, max_tiles)
    released = processor(side, max_tiles, min_tiles).get_number_of_image_patches(height, width)
    assert count_tiles(grid) == released


def ties(max_tiles: int) -> Iterator[tuple[int, int]]:
    """Sizes whose aspect ratio is a grid's, or lies in the middle between two grids', as small as they can be."""
    sides = range(1, max_tiles + 1)
    ratios = sorted({(c // math.gcd(c, r), r // math.gcd(c, r)) for c in sides for r in sides if c * r <= max_tiles})
    for (a, b), (c, d) in itertools.product(ratios, repeat=2):
        width, height = a * d + c * b, 2 * b * d
        yield width // math.gcd(width, height), height // math.gcd(width, height)


@pytest.mark.parametrize("max_tiles", [6, 12])
def test_ties_go_to_the_processors_grid(max_tiles: int) -> None:
    """Equally close grids, at sizes around half of each grid's pixels."""
    side = 28
    for width, height in set(ties(max_tiles)):
        for tiles in range(1, max_tiles + 1):
            scale = math.sqrt(tiles * side * side / 2 / (width * height))
            for times in {max(1, math.floor(scale)), math.floor(scale) + 1}:
                size = (width * times, height * times)
                assert choose_tiles(*size, side, 1, max_tiles) == released_grid(*size, side, 1, max_tiles), size


def test_of_two_close_grids_the_larger_one_needs_more_than_half_of_its_pixels() -> None:
    """9:40 lies in the middle between 1:4 and 1:5; 9 x 40 pixels are exactly half of five tiles of 12 x 12."""
    sizes = [(9, 40), (18, 80)]
    assert [choose_tiles(*size, 12, 1, 5) for size in sizes] == [(4, 1), (5, 1)]
    assert [released_grid(*size, 12, 1, 5) for size in sizes] == [(4, 1), (5, 1)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 12))
def test_pixels_equal_the_processors(width: int, height: int, max_tiles: int) -> None:
    """Tiles row by row and the thumbnail last, with Pillow's bicubic filter, to 1e-6 after normalisation."""
    released, pixels = processor(28, max_tiles), noise(width, height)
    expected = released(pillow(pixels), return_tensors="np")
    tiles = drawn(pixels, 28, max_tiles, Resizer(Image.Resampling.BICUBIC))
    assert [len(tiles)] == list(expected["num_patches"])
    assert np.abs(normalised(tiles, released) - expected["pixel_values"]).max() <= 1e-6


@pytest.mark.parametrize("name", ["rocket.jpg", "page.png", "text.png"])
def test_photographs_equal_the_processors_at_the_released_size(name: str) -> None:
    """Tiles of 448 pixels, up to twelve of them; the canvas is made first, then the thumbnail."""
    pixels = decode(photo(name), probe(photo(name), 10**8)).pixels
    released, resize = processor(448, 12), Resizer(Image.Resampling.BICUBIC)
    expected = released(pillow(pixels), return_tensors="np")["pixel_values"]
    assert np.abs(normalised(drawn(pixels, 448, 12, resize), released) - expected).max() <= 1e-6
    assert len(resize.sizes) == 2
    assert resize.sizes[1] == (448, 448)


@pytest.mark.parametrize("name", PICTURES)
def test_simd_tiles_are_within_50_db_of_pillows(name: str) -> None:
    """Every picture of scikit-image and each of its tiles, at the released size."""
    pixels = decode(photo(name), probe(photo(name), 10**8)).pixels
    exact = drawn(pixels, 448, 12, Resizer(Image.Resampling.BICUBIC))
    for tile, reference in zip(drawn(pixels, 448, 12, SimdResizer()), exact, strict=True):
        error = np.mean((tile.astype(float) - reference.astype(float)) ** 2)
        assert 10 * math.log10(255**2 / max(error, 1e-9)) >= 50
