"""How far `resize: simd` is from the released processor's pixels, which `resize: pillow` has exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image
from PIL.Image import Resampling

from owl_stream.assemble.header import probe
from owl_stream.assemble.images import Pixels, decode
from owl_stream.assemble.resizers import SimdResizer, make_resizer
from owl_stream.layouts import Filter
from owl_stream.layouts.owl3 import Owl3Layout240728, Owl3Layout241101
from owl_stream.layouts.owl3.grid import choose_grid
from tests.assemble.cutting import Cutter, Grid

PICTURES = sorted(
    path for path in (Path(skimage.__file__).parent / "data").iterdir() if path.suffix in (".jpg", ".png")
)
NOT_EXACT = 30.0
"""PSNR in dB that even patterns of single black and white pixels keep."""


SIDES = (Owl3Layout240728.released_side, Owl3Layout241101.released_side)


def crops(pixels: Pixels, size: int, grid: Grid) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The same picture by both resizers, uint8 [C, 3, S, S]."""
    return Cutter(size, "simd").cut(pixels, grid), Cutter(size, "pillow").cut(pixels, grid)


def psnr(difference: NDArray[np.int64]) -> float:
    """Peak signal to noise ratio of two crops in dB."""
    return 10 * math.log10(255**2 / max(float(np.mean(np.square(difference, dtype=float))), 1e-9))


def grey_levels(simd: NDArray[np.uint8], pillow: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How far each value is off."""
    difference: NDArray[np.int64] = np.abs(simd.astype(np.int64) - pillow.astype(np.int64))
    return difference


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_are_within_50_db_and_17_grey_levels(path: Path) -> None:
    """Every picture of scikit-image, whole and cut, at both releases' sizes: what docs/layouts.md says."""
    pixels = decode(data := path.read_bytes(), probe(data, 10**8)).pixels
    for size in SIDES:
        for grid in (None, choose_grid(pixels.shape[1], pixels.shape[0], size)):
            difference = grey_levels(*crops(pixels, size, grid))
            assert difference.max() <= 17
            assert min(psnr(crop) for crop in difference) >= 50
            assert (difference > 1).mean() <= 0.01


def test_single_pixels_at_sharp_edges_are_off_by_more_than_rounding() -> None:
    """The bound above is no accident of soft pictures: a drawing comes near to it."""
    path = next(path for path in PICTURES if path.name == "phantom.png")
    pixels = decode(data := path.read_bytes(), probe(data, 10**8)).pixels
    assert grey_levels(*crops(pixels, 384, None)).max() > 10


@pytest.mark.parametrize("size", [(100, 80), (400, 400), (640, 480)])
def test_patterns_of_single_black_and_white_pixels_are_the_worst(size: tuple[int, int]) -> None:
    """No picture is like that; there the distance is below 50 dB and stays above 30."""
    noise = np.random.default_rng(0).integers(0, 2, (size[1], size[0], 1)) * 255
    difference = grey_levels(*crops(np.repeat(noise, 4, 2).astype(np.uint8), 384, None))
    assert NOT_EXACT <= psnr(difference) < 50
    assert difference.max() <= 32


@pytest.mark.parametrize(
    ("filter", "resampling"),
    [
        ("bicubic", Resampling.BICUBIC),
        ("bilinear", Resampling.BILINEAR),
        ("lanczos", Resampling.LANCZOS),
    ],
)
@pytest.mark.parametrize("size", [(448, 448), (100, 300), (30, 20), (900, 700)])
def test_every_filter_is_pillows_or_near_to_it(filter: Filter, resampling: Resampling, size: tuple[int, int]) -> None:
    """By name, up and down: `pillow` has its very pixels, `simd` is within 50 dB of them."""
    path = next(path for path in PICTURES if path.name == "coffee.png")
    pixels = decode(data := path.read_bytes(), probe(data, 10**8)).pixels
    image = Image.fromarray(pixels[..., :3].copy())
    expected = np.asarray(image.resize(size, resampling))
    assert np.array_equal(make_resizer("pillow")(pixels, *size, filter=filter)[..., :3], expected)
    assert psnr(grey_levels(make_resizer("simd")(pixels, *size, filter=filter)[..., :3], expected)) >= 50


def test_a_resizer_of_any_number_of_sizes_leaves_no_trace() -> None:
    """More sizes than it remembers, in any order: each picture is what a new resizer makes of it."""
    rng, used = np.random.default_rng(0), make_resizer("simd")
    pixels = rng.integers(0, 256, (60, 90, 4), dtype=np.uint8)
    sizes = [(int(width), int(height)) for width, height in rng.integers(1, 120, (150, 2))]
    for number, (width, height) in enumerate([*sizes, *sizes[::-1]]):
        filter: Filter = "bilinear" if number % 3 else "bicubic"
        got = used(pixels, width, height, filter=filter)
        assert got.shape == (height, width, 4)
        assert np.array_equal(got, SimdResizer()(pixels, width, height, filter=filter))
