"""Holds a batch of a Qwen-VL model against its contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ContractError, SampleError
from owl_stream.layouts.qwen.positions import IMAGE, VIDEO, PositionRule, positions, token_types
from owl_stream.layouts.qwen.settings import QwenSettings
from owl_stream.layouts.qwen.tensors import IMAGE_GRIDS, IMAGES, SECONDS, VIDEO_GRIDS, VIDEOS
from owl_stream.layouts.text import attended_lengths
from owl_stream.layouts.types import BatchReport


def check(tensors: Mapping[str, Any], settings: QwenSettings, rule: PositionRule) -> BatchReport:
    """See `Layout.check`: placeholders, grids, patches, types and positions agree, row by row."""
    images = _Waiting(tensors.get(IMAGE_GRIDS), tensors.get(IMAGES), IMAGE_GRIDS, IMAGES)
    videos = _Waiting(tensors.get(VIDEO_GRIDS), tensors.get(VIDEOS), VIDEO_GRIDS, VIDEOS)
    seconds = tensors.get(SECONDS)
    with_media = 0
    lengths = attended_lengths(tensors["attention_mask"])
    for b, (ids, length) in enumerate(zip(tensors["input_ids"], lengths, strict=True)):
        types = token_types(np.asarray(ids)[:length], settings.image_id, settings.video_id)
        with_media += bool(types.any())
        merged = settings.merge_size**2
        mine = images.take(b, int(np.count_nonzero(types == IMAGE)) * merged)
        before = videos.taken
        clips = videos.take(b, int(np.count_nonzero(types == VIDEO)) * merged)
        times = None if seconds is None else np.asarray(seconds)[before : videos.taken]
        _check_row(b, types, _expected(b, types, (mine, clips, times), rule), tensors)
    images.finish()
    videos.finish()
    return BatchReport(with_media, len(tensors["input_ids"]) - with_media, images.taken + videos.taken)


def _expected(b: int, types: NDArray[np.int64], media: tuple[Any, Any, Any], rule: PositionRule) -> NDArray[np.int64]:
    """A row's positions; `media`: grids of its images and of its videos, and the latters' seconds."""
    images, videos, seconds = media
    try:
        return positions(types, images, videos, rule, seconds)
    except SampleError as exc:
        raise ContractError(f"row {b}: {exc.detail}") from exc


def _check_row(b: int, types: NDArray[np.int64], expected: NDArray[np.int64], tensors: Mapping[str, Any]) -> None:
    for name, want in (("mm_token_type_ids", types), ("position_ids", expected)):
        if tensors.get(name) is None:
            continue  # the model makes it
        got = np.asarray(tensors[name])[..., b, : len(types)]
        if not np.array_equal(got, want):
            at = int(np.argwhere(np.atleast_2d(got != want).any(axis=0))[0, 0])
            raise ContractError(
                f"{name}, row {b}, token {at}: expected {want[..., at].tolist()}, got {got[..., at].tolist()}"
            )


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
            left -= int(np.prod(self._grids[self.taken]))
            self.taken += 1
        if left:
            raise ContractError(
                f"row {b}: expected {self._name} for the {patches} patches that its placeholders stand for, got grids "
                f"{self._grids[first : self.taken]}"
            )
        return self._grids[first : self.taken]

    def finish(self) -> None:
        """Nothing is left, and the patches are those of the grids."""
        total = sum(int(np.prod(grid)) for grid in self._grids)
        if self.taken < len(self._grids):
            raise ContractError(
                f"{self._name}: expected {self.taken} grids, as rows have media, got {len(self._grids)}"
            )
        if total != self._patches:
            raise ContractError(f"{self._pixels}: expected {total} patches, as {self._name} says, got {self._patches}")
