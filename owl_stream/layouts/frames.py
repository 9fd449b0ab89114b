"""Which frames of a video are used."""

from __future__ import annotations

MAX_FRAMES = 16
"""The released examples feed at most 16 frames per video."""


def sample_frames(frames: int, limit: int = MAX_FRAMES) -> tuple[int, ...]:
    """Return the indices of at most `limit` of `frames` frames, increasing.

    All of them if they are few enough; else evenly spaced with both ends included: index i is i * (frames - 1) /
    (limit - 1) rounded to the nearest whole number, halves up, in integer arithmetic. The contract of the model says
    "uniform sampling" and no more; the ends are included because first and last frame tell most about a change.
    """
    if frames <= limit:
        return tuple(range(frames))
    last = limit - 1
    return tuple((2 * i * (frames - 1) + last) // (2 * last) for i in range(limit))
