"""How far `resize: simd` is from the released processor's pixels, which `resize: pillow` has exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray

from owl_stream.assemble.crops import Cutter
from owl_stream.assemble.header import probe
from owl_stream.assemble.images import Pixels, decode
from owl_stream.config import RELEASED_SIDE
from owl_stream.layouts.grid import choose_grid

PICTURES = sorted(
    path for path in (Path(skimage.__file__).parent / "data").iterdir() if path.suffix in (".jpg", ".png")
)
NOT_EXACT = 30.0
"""PSNR in dB that even patterns of single black and white pixels keep."""


def crops(pixels: Pixels, size: int, grid: tuple[int, int] | None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The same picture by both resizers, uint8 [C, 3, S, S]."""
    count = math.prod(grid) + 1 if grid else 1
    simd, pillow = (np.zeros((count, 3, size, size), np.uint8) for _ in range(2))
    Cutter(size, "simd").cut(pixels, grid, simd)
    Cutter(size, "pillow").cut(pixels, grid, pillow)
    return simd, pillow


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
    for size in RELEASED_SIDE.values():
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
