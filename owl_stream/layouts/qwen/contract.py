"""Holds a batch of a Qwen-VL model against its contract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ContractError, SampleError
from owl_stream.layouts.qwen.positions import (
    IMAGE,
    VIDEO,
    PositionRule,
    RowMedia,
    positions,
    stretches,
    token_types,
)
from owl_stream.layouts.qwen.settings import QwenSettings
from owl_stream.layouts.qwen.tensors import IMAGE_GRIDS, IMAGES, SECONDS, VIDEO_GRIDS, VIDEOS
from owl_stream.layouts.text import attended_lengths
from owl_stream.layouts.types import BatchReport


def check(tensors: Mapping[str, Any], settings: QwenSettings, rule: PositionRule) -> BatchReport:
    """See `Layout.check`: placeholders, grids, patches, types and positions agree, row by row."""
    images = _Waiting(tensors.get(IMAGE_GRIDS), tensors.get(IMAGES), IMAGE_GRIDS, IMAGES)
    videos = _Waiting(tensors.get(VIDEO_GRIDS), tensors.get(VIDEOS), VIDEO_GRIDS, VIDEOS)
    seconds, merged = tensors.get(SECONDS), settings.merge_size**2
    lengths, ids = attended_lengths(tensors["attention_mask"]), np.asarray(tensors["input_ids"])
    attended = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
    types = token_types(ids, settings.image_id, settings.video_id)
    types *= attended
    places = np.empty((3, *ids.shape), np.int64)
    counts = [np.count_nonzero(types == kind, axis=1).tolist() for kind in (IMAGE, VIDEO)]
    for b, (row, image_tokens, video_tokens) in enumerate(zip(stretches(types, lengths), *counts, strict=True)):
        grids, before = images.take(b, image_tokens * merged), videos.taken
        clips = videos.take(b, video_tokens * merged)
        times = [1.0] * len(clips) if seconds is None else np.asarray(seconds)[before : videos.taken]
        try:
            positions(row, RowMedia(grids, clips, times), rule, places[:, b])
        except SampleError as exc:
            raise ContractError(f"row {b}: {exc.detail}") from exc
    images.finish()
    videos.finish()
    for name, want in (("mm_token_type_ids", types), ("position_ids", places)):
        if tensors.get(name) is not None:  # else the model makes it
            _compare(name, np.asarray(tensors[name]), want, attended)
    with_media = int(np.count_nonzero(types.any(axis=1)))
    return BatchReport(with_media, len(ids) - with_media, images.taken + videos.taken)


def _compare(name: str, got: NDArray[Any], want: NDArray[np.int64], attended: NDArray[np.bool_]) -> None:
    """Hold the attended tokens of a tensor [..., B, L] against what they must be."""
    wrong = (got != want) & attended
    if wrong.any():
        b, at = np.argwhere(wrong.any(axis=tuple(range(wrong.ndim - 2))))[0].tolist()
        expected, found = want[..., b, at].tolist(), got[..., b, at].tolist()
        raise ContractError(f"{name}, row {b}, token {at}: expected {expected}, got {found}")


class _Waiting:
    """Grids and patches of a batch that are handed to its rows in order."""

    def __init__(self, grids: Any, pixels: Any, name: str, pixels_name: str) -> None:
        self._grids = [] if grids is None else np.asarray(grids).tolist()
        self._patches, self._name, self._pixels = 0 if pixels is None else len(pixels), name, pixels_name
        self.taken = 0

    def take(self, b: int, patches: int) -> list[list[int]]:
        """The next grids, of so many patches together."""
        first, left = self.taken, patches
        while left > 0 and self.taken < len(self._grids):
            left -= math.prod(self._grids[self.taken])
            self.taken += 1
        if left:
            raise ContractError(
                f"row {b}: expected {self._name} for the {patches} patches that its placeholders stand for, got grids "
                f"{self._grids[first : self.taken]}"
            )
        return self._grids[first : self.taken]

    def finish(self) -> None:
        """Nothing is left, and the patches are those of the grids."""
        total = sum(math.prod(grid) for grid in self._grids)
        if self.taken < len(self._grids):
            raise ContractError(
                f"{self._name}: expected {self.taken} grids, as rows have media, got {len(self._grids)}"
            )
        if total != self._patches:
            raise ContractError(f"{self._pixels}: expected {total} patches, as {self._name} says, got {self._patches}")
