"""Which frames of a video are used."""

from __future__ import annotations

MAX_FRAMES = 16
"""The released examples feed at most 16 frames per video."""


def sample_frames(frames: int, limit: int = MAX_FRAMES) -> tuple[int, ...]:
    """Return the indices of at most `limit` of `frames` frames, increasing.

    All of them if they are few enough; else the middle one of each of `limit` equal parts, as the released examples
    take them: frame i * gap + gap / 2 with gap = frames / limit, rounded down. These are floating-point numbers there
    and here.
    """
    if frames <= limit:
        return tuple(range(frames))
    gap = frames / limit
    return tuple(int(i * gap + gap / 2) for i in range(limit))
