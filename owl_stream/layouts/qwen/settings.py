"""What a Qwen-VL model's files settle, and what a configuration chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from owl_stream.errors import ConfigError
from owl_stream.layouts.image_settings import CLIP_MEAN, CLIP_STD, Colours, ImageSettings
from owl_stream.layouts.qwen.sizes import FRAMES_PER_PATCH
from owl_stream.layouts.settling import choice, number, refuse, settle_vision
from owl_stream.layouts.templated import TextSettings, need_model
from owl_stream.layouts.types import Choices, Filter
from owl_stream.models import ModelFiles


class Family(Protocol):
    """What tells one family from another; the classes of layouts have it."""

    name: str
    split_videos: bool
    video_tokens: int
    has_seconds: bool


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


def settle(choices: Choices, family: Family) -> QwenSettings:
    """The settings of a model of the family, and what the configuration chooses.

    Raises:
        ConfigError: the files lack something, or what they say or the configuration chooses is not offered.
    """
    refuse(choices, family.name, "chat")
    model = need_model(choices, family.name)
    defaults: dict[str, Any] = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "resample": 3}
    images = ImageSettings(model, model.images, image_mean=CLIP_MEAN, image_std=CLIP_STD, **defaults)
    patch, merge = images.whole("patch_size", 64), images.whole("merge_size", 8)
    if images.whole("temporal_patch_size") != FRAMES_PER_PATCH:
        raise ConfigError(f"model {model.name}: `temporal_patch_size`: expected {FRAMES_PER_PATCH}")
    videos = _video_settings(model, images, family, (patch, merge))
    vision = _vision(choices, patch * merge, images.limits(56 * 56, 28 * 28 * 1280), videos)
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
        tokens_per_second=_tokens_per_second(model) if family.has_seconds else None,
        positions=choice("positions", choices.positions or "v5", ("v5", "v4")),  # type: ignore[arg-type] # checked
    )


def _vision(choices: Choices, side: int, limits: tuple[int, int], videos: ImageSettings) -> dict[str, Any]:
    """What `vision` chooses; `side` of a token in pixels, `limits` of an image's pixels in the model's files."""
    video_least, video_most = videos.limits(128 * side**2, 768 * side**2)
    pixels = number(side**2, 1 << 28)
    vision = settle_vision(
        choices.vision,
        {
            "min_pixels": (pixels, limits[0]),
            "max_pixels": (pixels, limits[1]),
            "video_min_pixels": (pixels, video_least),
            "video_max_pixels": (pixels, video_most),
            "fps": (number(1, 1000), 24),
        },
    )
    if vision["min_pixels"] > vision["max_pixels"]:
        raise ConfigError(f"`vision.min_pixels`: expected at most max_pixels = {vision['max_pixels']}")
    return vision


def _tokens_per_second(model: ModelFiles) -> int:
    return model.whole("vision_config.tokens_per_second", 4, least=0)


def _video_settings(
    model: ModelFiles, images: ImageSettings, family: Family, patches: tuple[int, int]
) -> ImageSettings:
    """The video processor's settings; what they do not say is as for images.

    Raises:
        ConfigError: patches unlike those of images, which the same tower takes.
    """
    values = dict(model.videos)
    if family.split_videos:  # this processor reads `size` alone
        values |= {"min_pixels": None, "max_pixels": None}
    same = {key: images.get(key) for key in ("image_mean", "image_std", "resample")}
    fixed: dict[str, Any] = {
        "patch_size": patches[0],
        "merge_size": patches[1],
        "temporal_patch_size": FRAMES_PER_PATCH,
        "max_video_tokens": family.video_tokens,
    }
    videos = ImageSettings(model, values, of="video processor", **same, **fixed)
    for key, expected in fixed.items():
        if (got := videos.get(key)) != expected:
            raise ConfigError(f"model {model.name}: video processor: `{key}`: expected {expected}, got {got!r:.80}")
    return videos
