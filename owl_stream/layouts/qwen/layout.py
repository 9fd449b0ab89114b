"""The layouts of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: patches of native resolution, and positions on three axes.

Tensors have the names and, once the client has finished the pixels, the values of the models' own processors
(transformers 5). What each family does otherwise is a line of `_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import SampleError
from owl_stream.layouts.qwen.contract import check
from owl_stream.layouts.qwen.patches import write_frame, write_patches
from owl_stream.layouts.qwen.positions import (
    PADDING,
    PositionRule,
    RowMedia,
    positions,
    stretches,
    token_types,
)
from owl_stream.layouts.qwen.settings import QwenSettings, settle
from owl_stream.layouts.qwen.shown import look
from owl_stream.layouts.qwen.sizes import (
    CLIP_TOKENS,
    FRAME_TOKENS,
    FRAMES_PER_PATCH,
    fit,
    fit_clip,
    fit_frames,
    frame_pairs,
)
from owl_stream.layouts.qwen.tensors import IMAGE_GRIDS, IMAGES, SECONDS, VIDEO_GRIDS, VIDEOS
from owl_stream.layouts.qwen.video_text import replaced_span, video_text
from owl_stream.layouts.qwen.video_times import pair_seconds, seconds_per_grid
from owl_stream.layouts.template import MediumKind, MediumPlace
from owl_stream.layouts.templated import MediumPlan, TemplatedLayout, lengths_of
from owl_stream.layouts.text import TEXT_TENSORS, collate_text
from owl_stream.layouts.types import (
    BatchReport,
    Choices,
    EncodedRow,
    Image,
    Medium,
    Pixels,
    Resize,
    RowLook,
    SpecialTokens,
    Transparency,
    Visual,
    drawn,
    tensor,
)
from owl_stream.shards import RowSize
from owl_stream.wire import SchemaEntry

_START, _IMAGE_PAD, _VIDEO_PAD, _END = "<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>"


class QwenLayout(TemplatedLayout):
    """The common part. A unit is an image, or a video; the vision tokens are patches, before they are merged."""

    released: ClassVar[str]
    unit: ClassVar[str] = "image"
    transparency: ClassVar[Transparency] = "white"
    made_by_model: ClassVar[tuple[str, ...]] = ("position_ids",)
    """What processors leave to the model, so that `check_batch` does not ask for it."""
    apart: ClassVar[bool] = True
    split_videos: ClassVar[bool] = False
    """Whether a video is a run of placeholders for each pair of frames, with its time as text before it."""
    video_tokens: ClassVar[int] = CLIP_TOKENS
    """What the family's `cap_pixels_per_frame` counts with (`max_video_tokens`)."""
    has_seconds: ClassVar[bool] = False
    """Whether `second_per_grid_ts` says how much time passes between pairs of frames."""

    @classmethod
    def settle(cls, choices: Choices) -> QwenSettings:
        """See `Layout.settle`: `vision: {min_pixels, max_pixels, video_min_pixels, video_max_pixels}`, `positions`."""
        return settle(choices, cls)

    def __init__(self, settings: QwenSettings) -> None:
        super().__init__(settings.text)
        self._settings, side = settings, settings.patch_size
        self._rule = PositionRule(
            settings.positions, settings.merge_size, self.split_videos, settings.tokens_per_second
        )
        still = settings.colours.normalise(repeat=FRAMES_PER_PATCH, flatten=True)
        clip = settings.video_colours.normalise(flatten=True)
        self.placeholders: Mapping[MediumKind, str] = {"image": _IMAGE_PAD, "video": _VIDEO_PAD}
        self.tokens = SpecialTokens(
            settings.pad,
            {
                _IMAGE_PAD: settings.image_id,
                _VIDEO_PAD: settings.video_id,
                _START: settings.start_id,
                _END: settings.end_id,
            },
        )
        self.placeholder_ids = (settings.image_id, settings.video_id)
        self.around = (settings.start_id, settings.end_id)
        self.schema: tuple[SchemaEntry, ...] = (
            *TEXT_TENSORS,
            tensor("mm_token_type_ids", "int64", "B", "L"),
            tensor("position_ids", "int64", 3, "B", "L"),
            tensor(IMAGE_GRIDS, "int64", "N", 3, optional=True),
            tensor(VIDEO_GRIDS, "int64", "M", 3, optional=True),
            *([tensor(SECONDS, "float32", "M", optional=True)] if self.has_seconds else []),
            drawn(IMAGES, "P", 3, side, side, normalise=still),
            drawn(VIDEOS, "V", 3, 2, side, side, normalise=clip),
        )

    def lengths(self, sizes: Sequence[RowSize]) -> dict[str, int]:
        """B rows, L tokens, N images of P patches, M videos of V patches."""
        return {
            **lengths_of(sizes),
            "N": sum(size.image_units for size in sizes),
            "P": sum(size.image_tokens for size in sizes),
            "M": sum(size.video_units for size in sizes),
            "V": sum(size.video_tokens for size in sizes),
        }

    def plan(self, index: int, medium: Medium) -> MediumPlan:
        """See `TemplatedLayout.plan`."""
        of, side = self._settings, self._settings.patch_size
        if isinstance(medium, Image):
            width, height = fit(*medium, side * of.merge_size, of.min_pixels, of.max_pixels)
            high, wide = height // side, width // side
            patches = high * wide
            visual = Visual(index, 0, IMAGES, 0, patches, (1, high, wide))
            run = patches // of.merge_size**2
            return MediumPlan(_IMAGE_PAD, (run,), ((0, 0),), (visual,), (IMAGES, patches), 1, patches)
        frames = medium.frames
        width, height = self._fit_video(frames)
        pairs, high, wide = frame_pairs(len(frames)), height // side, width // side
        patches, tokens = pairs * high * wide, high * wide // of.merge_size**2
        visuals = tuple(
            Visual(index, frame, VIDEOS, 0, patches, (pairs, high, wide, frame, len(frames)))
            for frame in range(len(frames))
        )
        text, runs = self._video_text(len(frames), pairs, tokens)
        return MediumPlan(text, runs, ((0, 0),), visuals, (VIDEOS, patches), 0, 0, 1, patches)

    def _fit_video(self, frames: Sequence[Image]) -> tuple[int, int]:
        of, first, others = self._settings, frames[0], frames[1:]
        if any(frame != first for frame in others):
            raise SampleError(
                "video_frames",
                f"expected frames of one size, {first.width}x{first.height} as the first, got others: resize them",
            )
        fitted = fit_clip if self.split_videos else fit_frames
        factor = of.patch_size * of.merge_size
        limits = of.video_min_pixels, of.video_max_pixels
        return fitted(len(frames), *first, factor, *limits, capped=of.video_capped)

    def _video_text(self, frames: int, pairs: int, tokens: int) -> tuple[str, tuple[int, ...]]:
        if not self.split_videos:
            return _VIDEO_PAD, (pairs * tokens,)
        return video_text(pair_seconds(range(frames), self._settings.fps), 1), (tokens,) * pairs

    def replaced(self, text: str, place: MediumPlace) -> tuple[int, int]:
        """See `TemplatedLayout.replaced`."""
        if place.kind == "image" or not self.split_videos:
            return place.begin, place.end
        return replaced_span(text, place.begin, self._settings.positions)

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """See `Layout.collate`."""
        collate_text(rows, pad_id, out)
        media = [self._media(row.visuals) for row in rows]
        types, places = out["mm_token_type_ids"], out["position_ids"]
        types[...] = token_types(out["input_ids"], self._settings.image_id, self._settings.video_id)
        types *= out["attention_mask"]
        places[...] = PADDING[self._settings.positions]
        for b, row in enumerate(stretches(types, [len(row.input_ids) for row in rows])):
            positions(row, media[b], self._rule, places[:, b])
        for name, values in (
            (IMAGE_GRIDS, [grid for row in media for grid in row.images]),
            (VIDEO_GRIDS, [grid for row in media for grid in row.videos]),
            (SECONDS, [second for row in media for second in row.seconds]),
        ):
            if name in out:
                out[name][...] = values

    def _media(self, visuals: Sequence[Visual]) -> RowMedia:
        first_frames = [visual.form for visual in visuals if visual.tensor == VIDEOS and visual.form[3] == 0]
        return RowMedia(
            [visual.form for visual in visuals if visual.tensor == IMAGES],
            [form[:3] for form in first_frames],
            np.array([seconds_per_grid(form[4], self._settings.fps) for form in first_frames], dtype=np.float32),
        )

    def check(self, tensors: Mapping[str, Any]) -> BatchReport:
        """See `Layout.check`."""
        return check(tensors, self._settings, self._rule)

    def look(self, tensors: Mapping[str, NDArray[Any]]) -> Sequence[RowLook]:
        """See `Layout.look`: attention is causal, so a token sees the media that begin at it or before it."""
        return look(tensors, self._settings)

    def targets(self, visual: Visual) -> Sequence[tuple[int, int]]:
        """See `Layout.targets`."""
        side = self._settings.patch_size
        return [(visual.form[2] * side, visual.form[1] * side)]

    @property
    def most_target_pixels(self) -> int:
        """See `Layout.most_target_pixels`. A very long picture has at least one token along its short side."""
        of = self._settings
        return 2 * max(of.max_pixels, of.video_max_pixels)

    def draw(self, pixels: Pixels, visual: Visual, out: NDArray[np.uint8], resize: Resize) -> None:
        """See `Layout.draw`."""
        of, (_, high, wide, *clip) = self._settings, visual.form
        chosen = of.video_filter if clip else of.filter
        resized = resize(pixels, wide * of.patch_size, high * of.patch_size, chosen)
        if clip:
            frame, frames = clip
            write_frame(resized, out, frame, frames, of.merge_size)
        else:
            write_patches(resized, out, of.merge_size)


class Qwen2VLLayout(QwenLayout):
    """Qwen2-VL, and models that were made from it."""

    name: ClassVar[str] = "qwen2_vl"
    released: ClassVar[str] = "Qwen/Qwen2-VL-7B-Instruct"


class Qwen25VLLayout(QwenLayout):
    """Qwen2.5-VL: time passes by seconds."""

    name: ClassVar[str] = "qwen2_5_vl"
    released: ClassVar[str] = "Qwen/Qwen2.5-VL-7B-Instruct"
    has_seconds: ClassVar[bool] = True


class Qwen3VLLayout(QwenLayout):
    """Qwen3-VL: time is text."""

    name: ClassVar[str] = "qwen3_vl"
    released: ClassVar[str] = "Qwen/Qwen3-VL-8B-Instruct"
    split_videos: ClassVar[bool] = True
    video_tokens: ClassVar[int] = FRAME_TOKENS


class Qwen35Layout(QwenLayout):
    """Qwen3.5: as Qwen3-VL. Its linear attention reads padding, so it must come on the right, as it does here."""

    name: ClassVar[str] = "qwen3_5"
    released: ClassVar[str] = "Qwen/Qwen3.5-4B"
    split_videos: ClassVar[bool] = True
    video_tokens: ClassVar[int] = FRAME_TOKENS
