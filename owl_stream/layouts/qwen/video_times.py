"""When the frames of a clip were taken, as the Qwen-VL processors tell the model: in the text or beside it."""

from __future__ import annotations

from collections.abc import Sequence

from owl_stream.layouts.qwen.sizes import FRAMES_PER_PATCH

DEFAULT_FPS = 24.0
"""Frames per second that the processors assume of a video that does not say: every list of frames without metadata."""


def pair_seconds(frame_indices: Sequence[int], fps: float = DEFAULT_FPS) -> tuple[float, ...]:
    """Return the time of each frame pair, in seconds: the mean of its first and last frame's times.

    `frame_indices`: of the frames that are used, in the video that runs at `fps`. Frames given as pictures, all of them
    used, have 0, 1, 2, .... The last frame is repeated to complete a pair. The rule is `Qwen3VLProcessor`'s
    (`_calculate_timestamps`), with its order of operations, because the text has but one decimal.
    """
    times = [index / fps for index in frame_indices]
    times += times[-1:] * (-len(times) % FRAMES_PER_PATCH)
    last = FRAMES_PER_PATCH - 1
    return tuple((times[i] + times[i + last]) / 2 for i in range(0, len(times), FRAMES_PER_PATCH))


def seconds_per_grid(frames: int, fps: float = DEFAULT_FPS, of: int | None = None) -> float:
    """Return Qwen2.5-VL's `second_per_grid_ts` of a video: `Qwen2_5_VLProcessor._process_videos`.

    `frames`: how many are used, spread over the `of` frames (default: all are used) of a video that runs at `fps`. A
    model gets it as float32.
    """
    return FRAMES_PER_PATCH / (frames / (frames if of is None else of) * fps)
