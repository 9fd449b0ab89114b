"""Which frames of a video are used."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from owl_stream.layouts.frames import MAX_FRAMES, sample_frames


@given(st.integers(1, 200_000))
def test_frames_are_few_distinct_and_evenly_spaced(frames: int) -> None:
    """At most 16, increasing, both ends included, gaps that differ by at most one frame."""
    chosen = sample_frames(frames)
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert len(chosen) == min(frames, MAX_FRAMES)
    assert (chosen[0], chosen[-1]) == (0, frames - 1)
    assert all(gap >= 1 for gap in gaps)
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_the_formula_is_the_documented_one() -> None:
    """i * (n - 1) / 15, rounded: pinned, because it is part of what a fingerprint stands for."""
    assert sample_frames(3) == (0, 1, 2)
    assert sample_frames(17) == (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16)
    assert sample_frames(46) == tuple(range(0, 46, 3))
