"""A batch of a Qwen-VL model for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.qwen.positions import IMAGE
from owl_stream.layouts.qwen.settings import QwenSettings
from owl_stream.layouts.qwen.tensors import IMAGE_GRIDS, IMAGES, VIDEO_GRIDS, VIDEOS
from owl_stream.layouts.types import RowLook

_PICTURES_SHOWN = 8
"""Frames of a video that are shown side by side."""


def look(tensors: Mapping[str, NDArray[Any]], settings: QwenSettings) -> Sequence[RowLook]:
    """See `Layout.look`: attention is causal, so a token sees the media that begin at it or before it."""
    images = _pictures(tensors, IMAGE_GRIDS, IMAGES, settings)
    videos = _pictures(tensors, VIDEO_GRIDS, VIDEOS, settings)
    looks = []
    for b, types in enumerate(tensors["mm_token_type_ids"]):
        unit = np.full(len(types), -1, dtype=np.int64)
        pictures: list[NDArray[np.uint8]] = []
        for kind, begin, end, picture in _units(types, images, videos, settings.merge_size**2):
            unit[begin:end] = np.where(types[begin:end] == kind, len(pictures), -1)
            pictures.append(picture)
        sees = np.maximum.accumulate(unit) + 1
        axes = tensors["position_ids"][:, b].T.tolist()
        says = [f"position {time}, {row}, {column}" for time, row, column in axes]
        looks.append(RowLook(unit, sees, says, pictures))
    return looks


def _units(types: NDArray[np.int64], images: Any, videos: Any, merged: int) -> list[tuple[int, int, int, Any]]:
    """(kind, begin, end, picture) of each medium of a row; text may stand between the runs of a video.

    `merged`: patches that one token stands for.
    """
    found, at = [], 0
    while (rest := np.flatnonzero(types[at:])).size:
        begin = at + int(rest[0])
        kind = int(types[begin])
        grid, picture = next(images if kind == IMAGE else videos)
        left = int(np.prod(grid)) // merged
        of_kind = begin + np.flatnonzero(types[begin:] == kind)
        at = int(of_kind[left - 1]) + 1
        found.append((kind, begin, at, picture))
    return found


def _pictures(tensors: Mapping[str, NDArray[Any]], grids: str, pixels: str, settings: QwenSettings) -> Any:
    """(grid, picture) of each medium of a batch; of a video its frames side by side, some where it has many."""
    first, side, merge = 0, settings.patch_size, settings.merge_size
    for pairs, high, wide in tensors.get(grids, np.empty((0, 3), np.int64)).tolist():
        patches = tensors[pixels][first : first + pairs * high * wide]
        first += len(patches)
        frames = patches[:, :, None] if pixels == IMAGES else patches
        frames = frames.reshape(pairs, high // merge, wide // merge, merge, merge, 3, -1, side, side)
        whole = frames.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(-1, high * side, wide * side, 3)
        step = -(-len(whole) // _PICTURES_SHOWN)
        yield (pairs, high, wide), np.concatenate(list(whole[::step]), axis=1)
