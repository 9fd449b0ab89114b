"""Where each token of a row stands: positions on three axes (time, height, width), as the Qwen-VL models count them.

Text counts on on all three. A picture behind position p - 1 has its merged patches at (p, p + row, p + column). What
comes after it differs between releases of transformers, though only for videos that are one run of placeholders:

- `v5` (transformers 5.x, `get_rope_index` of `Qwen2VLModel`, `Qwen2_5_VLModel`, `Qwen3VLModel`, `Qwen3_5Model`): the
  text goes on at p + max(rows, columns), even where the steps of time of a long video have gone further.
- `v4` (transformers 4.57, the same methods): it goes on behind the largest position on any axis. And Qwen2.5-VL's
  seconds per grid lose their fraction: at more than two frames a second, time stands still.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import SampleError

TEXT, IMAGE, VIDEO = 0, 1, 2
"""Token types, as in the processors' `mm_token_type_ids`."""

PADDING = {"v5": 0, "v4": 1}
"""The position that each release gives padded tokens of a batch with media."""

_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PositionRule:
    """How a model counts.

    `release`: of transformers. `merge`: patches along one side of a token (`spatial_merge_size`). `split_videos`: time
    is text, and every frame pair a run of its own (Qwen3-VL, Qwen3.5). `tokens_per_second`: that of Qwen2.5-VL's vision
    config; None in the other families, where a frame pair is one step of time.
    """

    release: Literal["v5", "v4"] = "v5"
    merge: int = 2
    split_videos: bool = False
    tokens_per_second: int | None = None

    def times(self, pairs: int, seconds: float) -> _Ints:
        """int64 [`pairs`]: each frame pair's steps of time since the first. 5.x multiplies in float32."""
        if self.tokens_per_second is None:
            return np.arange(pairs)
        if self.release == "v4":
            return np.arange(pairs) * (int(seconds) * self.tokens_per_second)
        step = np.float32(self.tokens_per_second) * np.float32(seconds)
        return (np.arange(pairs, dtype=np.float32) * step).astype(np.int64)


class _Run(NamedTuple):
    """A run of placeholders: `times` int64 [pairs], and the merged rows and columns of each pair."""

    times: _Ints
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return len(self.times) * self.rows * self.columns

    def write(self, out: _Ints, position: int) -> None:
        """Fill `out`, int64 [3, tokens]."""
        out[0].reshape(len(self.times), -1)[...] = (self.times + position)[:, None]
        out[1].reshape(-1, self.rows, self.columns)[...] = np.arange(position, position + self.rows)[:, None]
        out[2].reshape(-1, self.columns)[...] = np.arange(position, position + self.columns)

    def extent(self, release: str) -> int:
        """How far behind its first position the text goes on."""
        sides = max(self.rows, self.columns)
        return max(sides, int(self.times[-1]) + 1) if release == "v4" else sides


def token_types(input_ids: _Ints, image_id: int, video_id: int) -> _Ints:
    """`mm_token_type_ids`, int64 of the shape of `input_ids`: 1 at placeholders of images, 2 at those of videos."""
    types: _Ints = (input_ids == image_id).astype(np.int64)
    types[input_ids == video_id] = VIDEO
    return types


class RowMedia(NamedTuple):
    """The media of one row.

    `images`: grids (t, h, w) in patches, in order, as in `image_grid_thw`; `videos`: those of `video_grid_thw`.
    `seconds`: of each video, as in `second_per_grid_ts`. Only Qwen2.5-VL's rule reads it.
    """

    images: Sequence[Sequence[int]]
    videos: Sequence[Sequence[int]]
    seconds: NDArray[np.float32] | Sequence[float]


Stretch = tuple[int, int, int]
"""(token type, begin, end): a longest piece of a row that has one token type."""


def stretches(types: NDArray[np.integer[Any]], lengths: Sequence[int]) -> list[list[Stretch]]:
    """The pieces of each row; `types`: token types of a batch, [B, L], of which row b has the first `lengths[b]`."""
    flat = np.ascontiguousarray(types).reshape(-1)
    begins = (np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist()
    kinds, width = flat[begins].tolist(), types.shape[1]
    found, at = [], 0
    for b, (length, kind) in enumerate(zip(lengths, types[:, 0].tolist(), strict=True)):
        row, begin, first = [], 0, b * width
        while at < len(begins) and begins[at] < first + length:
            if (end := begins[at] - first) > 0:
                row.append((kind, begin, end))
                kind, begin = kinds[at], end  # noqa: PLW2901 # of the next piece
            at += 1
        while at < len(begins) and begins[at] < first + width:
            at += 1  # padding
        found.append([*row, (kind, begin, length)])
    return found


def positions(row: Sequence[Stretch], media: RowMedia, rule: PositionRule, out: _Ints) -> None:
    """Write the positions of one row.

    Args:
        row: its stretches. Any two media have text between them, as the chat templates write it.
        media: of that row.
        rule: how the model counts.
        out: int64 [3, L]; the row's tokens are written, and nothing behind them.

    Raises:
        SampleError: `media_tokens`: the runs of placeholders are not those of the grids.
    """
    waiting = {IMAGE: iter([_run(grid, 1, rule) for grid in media.images]), VIDEO: _video_runs(media, rule)}
    position = 0
    for kind, begin, end in row:
        if kind == TEXT:
            out[:, begin:end] = np.arange(position, position + end - begin)
            position += end - begin
            continue
        run = next(waiting[kind], None)
        if run is None or run.tokens != end - begin:
            raise _mismatch(kind, run, end - begin)
        run.write(out[:, begin:end], position)
        position += run.extent(rule.release)
    for kind, runs in waiting.items():
        if (left := next(runs, None)) is not None:
            raise _mismatch(kind, left, 0)


def _run(grid: Sequence[int], seconds: float, rule: PositionRule) -> _Run:
    pairs, high, wide = grid
    return _Run(rule.times(pairs, seconds), high // rule.merge, wide // rule.merge)


def _video_runs(media: RowMedia, rule: PositionRule) -> Iterator[_Run]:
    for (pairs, high, wide), seconds in zip(media.videos, media.seconds, strict=True):
        if rule.split_videos:
            yield from [_run((1, high, wide), 1, rule)] * pairs
        else:
            yield _run((pairs, high, wide), seconds, rule)


def _mismatch(kind: int, run: _Run | None, got: int) -> SampleError:
    name = "an image" if kind == IMAGE else "a video"
    expected = f"{run.tokens} placeholders in a row for {name}" if run else f"no more placeholders of {name}"
    return SampleError("media_tokens", f"expected {expected}, got {got}: text must stand between any two media")
