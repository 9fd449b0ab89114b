"""The layout of InternVL (2.5, 3, 3.5, as transformers has it): a picture becomes tiles, all in one run of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError
from owl_stream.layouts.image_settings import CLIP_MEAN, CLIP_STD, Colours, ImageSettings
from owl_stream.layouts.internvl import tiles
from owl_stream.layouts.internvl.text import ImageTokens, image_text, video_text
from owl_stream.layouts.settling import number, refuse, settle_vision
from owl_stream.layouts.template import MediumKind
from owl_stream.layouts.templated import MediumPlan, TextSettings, need_model
from owl_stream.layouts.tiled import TiledLayout
from owl_stream.layouts.types import (
    Choices,
    Filter,
    Image,
    Medium,
    Pixels,
    Resize,
    SpecialTokens,
    Visual,
)
from owl_stream.models import PROCESSOR_FILE, ModelFiles


@dataclass(frozen=True)
class InternVLSettings:
    """`side`: of a tile in pixels. `tile_tokens`: text tokens that stand for one; `tile_patches`: its vision tokens."""

    text: TextSettings
    pad: str
    names: ImageTokens
    context_id: int
    side: int
    min_tiles: int
    max_tiles: int
    tile_tokens: int
    tile_patches: int
    colours: Colours
    filter: Filter


class InternVLLayout(TiledLayout):
    """A unit is a tile. The thumbnail is the last one of a picture that is cut."""

    name: ClassVar[str] = "internvl"
    released: ClassVar[str] = "OpenGVLab/InternVL3-8B-hf"
    unit: ClassVar[str] = "tile"

    @classmethod
    def settle(cls, choices: Choices) -> InternVLSettings:
        """See `Layout.settle`: `vision: {max_tiles}`."""
        refuse(choices, cls.name, "chat", "positions")
        model = need_model(choices, cls.name)
        defaults: dict[str, Any] = {"size": 384, "min_patches": 1, "max_patches": 12, "resample": 3}
        images = ImageSettings(model, model.images, image_mean=CLIP_MEAN, image_std=CLIP_STD, **defaults)
        if model.videos:
            videos = ImageSettings(
                model, model.videos, of="video processor", image_mean=CLIP_MEAN, image_std=CLIP_STD, **defaults
            )
            if (videos.colours, videos.filter, videos.side()) != (images.colours, images.filter, images.side()):
                raise ConfigError(
                    f"model {model.name}: expected image and video processors of equal size, resample, mean and std, "
                    "as both write to pixel_values"
                )
        vision = settle_vision(choices.vision, {"max_tiles": (number(1, 64), images.whole("max_patches", 64))})
        names = ImageTokens(
            model.token("start_image_token", "<img>") or "<img>",
            model.token("end_image_token", "</img>") or "</img>",
            model.token("context_image_token", "<IMG_CONTEXT>") or "<IMG_CONTEXT>",
        )
        side, patch = images.side(), _patch_side(model)
        return InternVLSettings(
            text=TextSettings.of(choices),
            pad=model.token("pad_token", "<|endoftext|>") or "<|endoftext|>",
            names=names,
            context_id=model.whole("image_token_id", least=0),
            side=side,
            min_tiles=images.whole("min_patches", 64),
            max_tiles=vision["max_tiles"],
            tile_tokens=model.whole("image_seq_length", model.whole("image_seq_length", 256), file=PROCESSOR_FILE),
            tile_patches=(side // patch) ** 2,
            colours=images.colours,
            filter=images.filter,
        )

    def __init__(self, settings: InternVLSettings) -> None:
        super().__init__(settings.text, settings.side, settings.colours)
        self._settings, names = settings, settings.names
        self.tokens = SpecialTokens(
            settings.pad, {names.start: None, names.end: None, names.context: settings.context_id}
        )
        self.placeholders: Mapping[MediumKind, str] = {"image": names.context, "video": "<video>"}
        self.placeholder_ids = (settings.context_id,)
        self.unit_tokens = settings.tile_tokens

    def plan(self, index: int, medium: Medium) -> MediumPlan:
        """See `TemplatedLayout.plan`. A frame of a video is one tile."""
        of, each = self._settings, self._settings.tile_tokens
        if isinstance(medium, Image):
            grid = tiles.choose_tiles(*medium, of.side, of.min_tiles, of.max_tiles)
            count = tiles.count_tiles(grid)
            text = image_text(count, each, of.names)
            visuals: tuple[Visual, ...] = (Visual(index, 0, self.pixels, 0, count, grid),)
            units = tuple((0, tile * each) for tile in range(count))
        else:
            count = len(medium.frames)
            text = video_text(count, each, of.names)
            visuals = tuple(Visual(index, frame, self.pixels, frame, 1, (1, 1)) for frame in range(count))
            units = tuple((frame, 0) for frame in range(count))
        patches = count * of.tile_patches
        return MediumPlan(text.text, text.runs, units, visuals, (self.pixels, count), count, patches)

    def targets(self, visual: Visual) -> Sequence[tuple[int, int]]:
        """See `Layout.targets`."""
        (rows, cols), side = visual.form, self._settings.side
        return [(side, side)] if rows * cols == 1 else [(side, side), (cols * side, rows * side)]

    @property
    def most_target_pixels(self) -> int:
        """See `Layout.most_target_pixels`."""
        return max(1, self._settings.max_tiles) * self._settings.side**2

    def draw(self, pixels: Pixels, visual: Visual, out: NDArray[np.uint8], resize: Resize) -> None:
        """See `Layout.draw`."""
        rows, cols = visual.form
        tiles.draw(pixels, (rows, cols), out, partial(resize, filter=self._settings.filter))


def _patch_side(model: ModelFiles) -> int:
    """A number, or a list of two equal ones."""
    found = model.config("vision_config.patch_size", 14)
    if not isinstance(found, list) or len(found) != 2 or found[0] != found[1]:
        return model.whole("vision_config.patch_size", 14)
    if type(found[0]) is not int or found[0] < 1:
        raise ConfigError(
            f"model {model.name}: config.json: `vision_config.patch_size`: expected whole numbers, got {found!r:.80}"
        )
    return found[0]
