"""Which frames of a video are used."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from owl_stream.layouts.owl3.frames import MAX_FRAMES, sample_frames


@given(st.integers(1, 200_000))
def test_frames_are_few_distinct_and_evenly_spaced(frames: int) -> None:
    """At most 16, increasing, gaps that differ by at most one frame, as much left out before as behind."""
    chosen = sample_frames(frames)
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert len(chosen) == min(frames, MAX_FRAMES)
    assert abs(chosen[0] - (frames - 1 - chosen[-1])) <= 1
    assert all(gap >= 1 for gap in gaps)
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


@pytest.mark.parametrize("frames", range(17, 301))
def test_long_videos_are_sampled_as_the_released_examples_do(frames: int) -> None:
    """The middle of each of 16 equal parts, computed here in exact fractions: floor((2 i + 1) n / 32)."""
    middles = tuple(math.floor(Fraction((2 * i + 1) * frames, 32)) for i in range(16))
    assert sample_frames(frames) == middles


@given(st.integers(17, 10_000_000))
def test_rounding_never_moves_a_frame(frames: int) -> None:
    """Division by 16 and 2 is exact in floating point, so a video of any length has the frames of exact arithmetic."""
    assert sample_frames(frames) == tuple((2 * i + 1) * frames // 32 for i in range(16))


@pytest.mark.parametrize("frames", range(1, 17))
def test_short_videos_are_used_whole(frames: int) -> None:
    """Up to 16 frames nothing is left out."""
    assert sample_frames(frames) == tuple(range(frames))


def test_the_formula_is_the_documented_one() -> None:
    """Pinned, because it is part of what a fingerprint stands for."""
    assert sample_frames(17) == (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16)
    assert sample_frames(32) == tuple(range(1, 32, 2))
    assert sample_frames(100) == (3, 9, 15, 21, 28, 34, 40, 46, 53, 59, 65, 71, 78, 84, 90, 96)
