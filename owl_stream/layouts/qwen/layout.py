"""The layouts of Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: patches of native resolution, and positions on three axes.

Tensors have the names and, once the client has finished the pixels, the values of the models' own processors
(transformers 5). What each family does otherwise is a line of `_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError, ContractError, SampleError
from owl_stream.layouts.image_settings import CLIP_MEAN, CLIP_STD, Colours, ImageSettings
from owl_stream.layouts.qwen.patches import write_frame, write_patches
from owl_stream.layouts.qwen.positions import IMAGE, PADDING, VIDEO, PositionRule, positions, token_types
from owl_stream.layouts.qwen.sizes import (
    CLIP_TOKENS,
    FRAME_TOKENS,
    FRAMES_PER_PATCH,
    fit,
    fit_clip,
    fit_frames,
    frame_pairs,
)
from owl_stream.layouts.qwen.video_text import replaced_span, video_text
from owl_stream.layouts.qwen.video_times import pair_seconds, seconds_per_grid
from owl_stream.layouts.settling import choice, number, refuse, settle_vision
from owl_stream.layouts.template import MediumKind, MediumPlace
from owl_stream.layouts.templated import MediumPlan, TemplatedLayout, TextSettings, lengths_of, need_model
from owl_stream.layouts.text import TEXT_TENSORS, attended_lengths, collate_text
from owl_stream.layouts.types import (
    BatchReport,
    Choices,
    EncodedRow,
    Filter,
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
from owl_stream.models import ModelFiles
from owl_stream.shards import RowSize
from owl_stream.wire import SchemaEntry

IMAGES, VIDEOS = "pixel_values", "pixel_values_videos"
IMAGE_GRIDS, VIDEO_GRIDS, SECONDS = "image_grid_thw", "video_grid_thw", "second_per_grid_ts"

_START, _IMAGE_PAD, _VIDEO_PAD, _END = "<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>"
_PICTURES_SHOWN = 8
"""Frames of a video that are shown side by side."""


@dataclass(frozen=True)
class QwenSettings:
    """What a Qwen-VL model's files say, and what the configuration chooses.

    Pixel limits are per image; those of videos as each family means them (`sizes.py`), `video_capped` included. `fps`
    is told of a video's frames, which are all used.
    """

    text: TextSettings
    pad: str
    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    video_min_pixels: int
    video_max_pixels: int
    video_capped: bool
    fps: float
    colours: Colours
    video_colours: Colours
    filter: Filter
    video_filter: Filter
    image_id: int
    video_id: int
    start_id: int
    end_id: int
    tokens_per_second: int | None
    positions: Literal["v5", "v4"]


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
        refuse(choices, cls.name, "chat")
        model = need_model(choices, cls.name)
        defaults: dict[str, Any] = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "resample": 3}
        images = ImageSettings(model, model.images, image_mean=CLIP_MEAN, image_std=CLIP_STD, **defaults)
        patch, merge = images.whole("patch_size", 64), images.whole("merge_size", 8)
        if images.whole("temporal_patch_size") != FRAMES_PER_PATCH:
            raise ConfigError(f"model {model.name}: `temporal_patch_size`: expected {FRAMES_PER_PATCH}")
        least, most = images.limits(56 * 56, 28 * 28 * 1280)
        videos = cls._videos(model, images, patch, merge)
        video_least, video_most = videos.limits(128 * (patch * merge) ** 2, 768 * (patch * merge) ** 2)
        pixels = number((patch * merge) ** 2, 1 << 28)
        vision = settle_vision(
            choices.vision,
            {
                "min_pixels": (pixels, least),
                "max_pixels": (pixels, most),
                "video_min_pixels": (pixels, video_least),
                "video_max_pixels": (pixels, video_most),
                "fps": (number(1, 1000), 24),
            },
        )
        if vision["min_pixels"] > vision["max_pixels"]:
            raise ConfigError(f"`vision.min_pixels`: expected at most max_pixels = {vision['max_pixels']}")
        return QwenSettings(
            text=TextSettings.of(choices),
            pad=model.token("pad_token", "<|endoftext|>") or "<|endoftext|>",
            patch_size=patch,
            merge_size=merge,
            **vision,
            video_capped=bool(videos.get("cap_pixels_per_frame")),
            colours=images.colours,
            video_colours=videos.colours,
            filter=images.filter,
            video_filter=videos.filter,
            image_id=model.whole("image_token_id", least=0),
            video_id=model.whole("video_token_id", least=0),
            start_id=model.whole("vision_start_token_id", least=0),
            end_id=model.whole("vision_end_token_id", least=0),
            tokens_per_second=model.whole("vision_config.tokens_per_second", 4, least=0) if cls.has_seconds else None,
            positions=choice("positions", choices.positions or "v5", ("v5", "v4")),  # type: ignore[arg-type] # checked
        )

    @classmethod
    def _videos(cls, model: ModelFiles, images: ImageSettings, patch: int, merge: int) -> ImageSettings:
        """The video processor's settings; what they do not say is as for images.

        Raises:
            ConfigError: patches unlike those of images, which the same tower takes.
        """
        values = dict(model.videos)
        if cls.split_videos:  # this processor reads `size` alone
            values |= {"min_pixels": None, "max_pixels": None}
        same = {key: images.get(key) for key in ("image_mean", "image_std", "resample")}
        fixed: dict[str, Any] = {
            "patch_size": patch,
            "merge_size": merge,
            "temporal_patch_size": FRAMES_PER_PATCH,
            "max_video_tokens": cls.video_tokens,
        }
        videos = ImageSettings(model, values, of="video processor", **same, **fixed)
        for key, expected in fixed.items():
            if (got := videos.get(key)) != expected:
                raise ConfigError(f"model {model.name}: video processor: `{key}`: expected {expected}, got {got!r:.80}")
        return videos

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
        images, videos, seconds = [], [], []
        for b, row in enumerate(rows):
            length = len(row.input_ids)
            types = token_types(row.input_ids, self._settings.image_id, self._settings.video_id)
            grids = _grids(row.visuals)
            out["mm_token_type_ids"][b, :length], out["mm_token_type_ids"][b, length:] = types, 0
            out["position_ids"][:, b, :length] = self._positions(types, grids[IMAGE], grids[VIDEO], grids["frames"])
            out["position_ids"][:, b, length:] = PADDING[self._settings.positions]
            images += grids[IMAGE]
            videos += grids[VIDEO]
            seconds += self._seconds(grids["frames"])
        for name, values in ((IMAGE_GRIDS, images), (VIDEO_GRIDS, videos), (SECONDS, seconds)):
            if name in out:
                out[name][...] = values

    def _seconds(self, frames: Sequence[int]) -> list[float]:
        return [seconds_per_grid(count, self._settings.fps) for count in frames]

    def _positions(
        self, types: NDArray[np.int64], images: Sequence[Any], videos: Sequence[Any], frames: Sequence[int]
    ) -> NDArray[np.int64]:
        seconds = np.array(self._seconds(frames), dtype=np.float32)
        return positions(types, images, videos, self._rule, seconds)

    def check(self, tensors: Mapping[str, Any]) -> BatchReport:
        """See `Layout.check`: placeholders, grids, patches, types and positions agree, row by row."""
        images = _Waiting(tensors.get(IMAGE_GRIDS), tensors.get(IMAGES), IMAGE_GRIDS, IMAGES)
        videos = _Waiting(tensors.get(VIDEO_GRIDS), tensors.get(VIDEOS), VIDEO_GRIDS, VIDEOS)
        seconds = tensors.get(SECONDS)
        with_media = 0
        lengths = attended_lengths(tensors["attention_mask"])
        for b, (ids, length) in enumerate(zip(tensors["input_ids"], lengths, strict=True)):
            types = token_types(np.asarray(ids)[:length], self._settings.image_id, self._settings.video_id)
            with_media += bool(types.any())
            merged = self._settings.merge_size**2
            mine = images.take(b, int(np.count_nonzero(types == IMAGE)) * merged)
            before = videos.taken
            clips = videos.take(b, int(np.count_nonzero(types == VIDEO)) * merged)
            times = None if seconds is None else np.asarray(seconds)[before : videos.taken]
            self._check_row(b, types, length, mine, clips, times, tensors)
        images.finish()
        videos.finish()
        return BatchReport(with_media, len(tensors["input_ids"]) - with_media, images.taken + videos.taken)

    def _check_row(
        self,
        b: int,
        types: NDArray[np.int64],
        length: int,
        images: Sequence[Any],
        videos: Sequence[Any],
        seconds: NDArray[np.float32] | None,
        tensors: Mapping[str, Any],
    ) -> None:
        try:
            expected = positions(types, images, videos, self._rule, seconds)
        except SampleError as exc:
            raise ContractError(f"row {b}: {exc.detail}") from exc
        for name, want in (("mm_token_type_ids", types), ("position_ids", expected)):
            if tensors.get(name) is None:
                continue  # the model makes it
            got = np.asarray(tensors[name])[..., b, :length]
            if not np.array_equal(got, want):
                at = int(np.argwhere(np.atleast_2d(got != want).any(axis=0))[0, 0])
                raise ContractError(
                    f"{name}, row {b}, token {at}: expected {want[..., at].tolist()}, got {got[..., at].tolist()}"
                )

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

    def look(self, tensors: Mapping[str, NDArray[Any]]) -> Sequence[RowLook]:
        """See `Layout.look`: attention is causal, so a token sees the media that begin at it or before it."""
        images = self._shown(tensors, IMAGE_GRIDS, IMAGES)
        videos = self._shown(tensors, VIDEO_GRIDS, VIDEOS)
        looks = []
        for b, types in enumerate(tensors["mm_token_type_ids"]):
            unit = np.full(len(types), -1, dtype=np.int64)
            pictures: list[NDArray[np.uint8]] = []
            for kind, begin, end, picture in self._units(types, images, videos):
                unit[begin:end] = np.where(types[begin:end] == kind, len(pictures), -1)
                pictures.append(picture)
            sees = np.maximum.accumulate(unit) + 1
            axes = tensors["position_ids"][:, b].T.tolist()
            says = [f"position {time}, {row}, {column}" for time, row, column in axes]
            looks.append(RowLook(unit, sees, says, pictures))
        return looks

    def _units(self, types: NDArray[np.int64], images: Any, videos: Any) -> list[tuple[int, int, int, Any]]:
        """(kind, begin, end, picture) of each medium of a row; text may stand between the runs of a video."""
        found, at = [], 0
        while (rest := np.flatnonzero(types[at:])).size:
            begin = at + int(rest[0])
            kind = int(types[begin])
            grid, picture = next(images if kind == IMAGE else videos)
            left = int(np.prod(grid)) // self._settings.merge_size**2
            of_kind = begin + np.flatnonzero(types[begin:] == kind)
            at = int(of_kind[left - 1]) + 1
            found.append((kind, begin, at, picture))
        return found

    def _shown(self, tensors: Mapping[str, NDArray[Any]], grids: str, pixels: str) -> Any:
        """(grid, picture) of each medium of a batch; of a video its frames side by side, some where it has many."""
        first, side, merge = 0, self._settings.patch_size, self._settings.merge_size
        for pairs, high, wide in tensors.get(grids, np.empty((0, 3), np.int64)).tolist():
            patches = tensors[pixels][first : first + pairs * high * wide]
            first += len(patches)
            frames = patches[:, :, None] if pixels == IMAGES else patches
            frames = frames.reshape(pairs, high // merge, wide // merge, merge, merge, 3, -1, side, side)
            whole = frames.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5).reshape(-1, high * side, wide * side, 3)
            step = -(-len(whole) // _PICTURES_SHOWN)
            yield (pairs, high, wide), np.concatenate(list(whole[::step]), axis=1)


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


def _grids(visuals: Sequence[Visual]) -> dict[Any, list[Any]]:
    """A row's grids by kind, and how many frames each video has."""
    found: dict[Any, list[Any]] = {IMAGE: [], VIDEO: [], "frames": []}
    for visual in visuals:
        if visual.tensor == IMAGES:
            found[IMAGE].append(visual.form)
        elif visual.form[3] == 0:
            found[VIDEO].append(visual.form[:3])
            found["frames"].append(visual.form[4])
    return found
