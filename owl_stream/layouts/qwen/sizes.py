"""How large the Qwen-VL processors make a picture or a clip before it is cut into patches.

Both sides become multiples of `factor`, the side of one token in pixels (patch size times merge size: 28 or 32), and
the area lies within [`min_pixels`, `max_pixels`] (`size.shortest_edge` and `size.longest_edge` of the processor).
Floating-point steps come in the processor's order, so that a size on the edge between two falls on the same side.
"""

from __future__ import annotations

import math

from owl_stream.errors import SampleError

MAX_ASPECT = 200
"""The longer side over the shorter one: more is refused by the processors."""

FRAMES_PER_PATCH = 2
"""How many frames one temporal patch covers (`temporal_patch_size`); the last frame is repeated to fill it."""

CLIP_TOKENS = 128_000
"""Qwen2-VL's `max_video_tokens`: the context length that `cap_pixels_per_frame` assumes."""

FRAME_TOKENS = 768
"""Qwen3-VL's `max_video_tokens`: how many tokens `cap_pixels_per_frame` leaves one frame."""


def fit(width: int, height: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the (width, height) of an image in all four families: `smart_resize` of `Qwen2VLImageProcessor`.

    The multiples of `factor` next to the sides (a half goes to the even one, as Python rounds) unless their area is
    outside the limits; then the sides are scaled to the limit and rounded towards the allowed area. At least one
    `factor` a side, so a very long picture may exceed `max_pixels`.

    Raises:
        SampleError: `aspect_ratio`.
    """
    _demand_aspect(width, height)
    return _within(width, height, factor, min_pixels, max_pixels)


def fit_frames(
    frames: int, width: int, height: int, factor: int, min_pixels: int, max_pixels: int, *, capped: bool = False
) -> tuple[int, int]:
    """Return the (width, height) of every frame of a clip in Qwen2-VL and Qwen2.5-VL: `Qwen2VLVideoProcessor.resize`.

    A frame is an image with limits of its own; the number of frames plays no part unless `capped`
    (`cap_pixels_per_frame`): then a frame pair gets at most its share of nine tenths of `CLIP_TOKENS`, but never less
    than 1.05 `min_pixels`.

    Raises:
        SampleError: `aspect_ratio`, `video_frames`.
    """
    _demand_frames(frames, 1)
    if capped:
        share = int(CLIP_TOKENS * factor * factor * 0.9) * FRAMES_PER_PATCH // frames
        max_pixels = max(min(max_pixels, share), int(min_pixels * 1.05))
    return fit(width, height, factor, min_pixels, max_pixels)


def fit_clip(
    frames: int, width: int, height: int, factor: int, min_pixels: int, max_pixels: int, *, capped: bool = False
) -> tuple[int, int]:
    """Return the (width, height) of every frame of a clip in Qwen3-VL and Qwen3.5: `Qwen3VLVideoProcessor.resize`.

    Here the limits are for the pixels of all frames together, so long clips get small frames. Whether they hold is
    asked with the frames rounded to even (halves to a multiple of 4), how far to scale with the frames as they are. A
    frame smaller than `factor` is enlarged first. `capped` (`cap_pixels_per_frame`) allows a frame at most
    `FRAME_TOKENS` or its share of `max_pixels`, but never less than 1.05 `min_pixels`.

    Raises:
        SampleError: `aspect_ratio`, `video_frames` (a single frame: the processor refuses it).
    """
    _demand_frames(frames, FRAMES_PER_PATCH)
    if capped:
        share = min(FRAME_TOKENS * factor * factor, max_pixels // frames)
        max_pixels = max(share, int(min_pixels * 1.05)) * frames
    if width < factor or height < factor:
        scale = max(factor / height, factor / width)
        width, height = int(width * scale), int(height * scale)
    _demand_aspect(width, height)
    counted = round(frames / FRAMES_PER_PATCH) * FRAMES_PER_PATCH
    return _within(width, height, factor, min_pixels, max_pixels, frames, counted)


def frame_pairs(frames: int) -> int:
    """How many temporal patches a clip has: the grid's `t`."""
    return -(-frames // FRAMES_PER_PATCH)


def _within(
    width: int, height: int, factor: int, min_pixels: int, max_pixels: int, frames: int = 1, counted: int = 1
) -> tuple[int, int]:
    """The multiples of `factor` next to the sides, scaled if `counted` such frames are outside the limits."""
    wide, high = round(width / factor) * factor, round(height / factor) * factor
    if counted * wide * high > max_pixels:
        scale = math.sqrt(frames * height * width / max_pixels)
        wide, high = (max(factor, math.floor(side / scale / factor) * factor) for side in (width, height))
    elif counted * wide * high < min_pixels:
        scale = math.sqrt(min_pixels / (frames * height * width))
        wide, high = (math.ceil(side * scale / factor) * factor for side in (width, height))
    return wide, high


def _demand_aspect(width: int, height: int) -> None:
    if max(width, height) / min(width, height) > MAX_ASPECT:
        raise SampleError(
            "aspect_ratio",
            f"expected at most {MAX_ASPECT} times as long as short, got {width}x{height}: cut or pad the picture",
        )


def _demand_frames(frames: int, least: int) -> None:
    if frames < least:
        raise SampleError(
            "video_frames",
            f"expected a video of at least {least} frames, got {frames}: give one frame as an image, or twice",
        )
