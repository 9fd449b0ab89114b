"""LLaVA-1.5 as a layout of one's own: an image is one square picture of 336 pixels, which 576 tokens stand for.

Install it where the server runs (`pip install .`) and say `layout: llava` and `model: llava-hf/llava-1.5-7b-hf`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError, SampleError
from owl_stream.layouts import Choices, Filter, Image, Medium, Pixels, Resize, SpecialTokens, Visual
from owl_stream.layouts.image_settings import CLIP_MEAN, CLIP_STD, Colours, ImageSettings
from owl_stream.layouts.pixels import planes
from owl_stream.layouts.settling import refuse, settle_vision
from owl_stream.layouts.templated import MediumKind, MediumPlan, TextSettings, need_model
from owl_stream.layouts.tiled import TiledLayout


@dataclass(frozen=True)
class LlavaSettings:
    """Plain values: they go into the recipe, and so into the fingerprint."""

    text: TextSettings
    pad: str
    image: str
    image_id: int
    side: int
    patch: int
    colours: Colours
    filter: Filter


class LlavaLayout(TiledLayout):
    """A unit is an image. Source of the rules: `LlavaProcessor` and `CLIPImageProcessor` of transformers 5."""

    name: ClassVar[str] = "llava"
    released: ClassVar[str] = "llava-hf/llava-1.5-7b-hf"
    unit: ClassVar[str] = "image"

    @classmethod
    def settle(cls, choices: Choices) -> LlavaSettings:
        """Everything comes from the model's files; there is nothing to choose about pictures."""
        refuse(choices, cls.name, "chat", "positions")
        settle_vision(choices.vision, {})
        model = need_model(choices, cls.name)
        defaults = {"size": 224, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
        images = ImageSettings(model, model.images, **defaults)
        patch = int(model.need_config("vision_config.patch_size"))
        if model.config("vision_feature_select_strategy", "default") != "default":
            raise ConfigError(
                f"model {model.name}: `vision_feature_select_strategy`: expected default: without class token"
            )
        return LlavaSettings(
            text=TextSettings.of(choices),
            pad=model.token("pad_token", "<pad>") or "<pad>",
            image=str(model.processor("image_token", "<image>")),
            image_id=int(model.config("image_token_id") or model.need_config("image_token_index")),
            side=images.side(shortest=True),
            patch=patch,
            colours=images.colours,
            filter=images.filter,
        )

    def __init__(self, settings: LlavaSettings) -> None:
        super().__init__(settings.text, settings.side, settings.colours)
        self._settings = settings
        self.tokens = SpecialTokens(settings.pad, {settings.image: settings.image_id})
        self.placeholders: Mapping[MediumKind, str] = {"image": settings.image}
        self.placeholder_ids = (settings.image_id,)
        self.unit_tokens = (settings.side // settings.patch) ** 2

    def plan(self, index: int, medium: Medium) -> MediumPlan:
        """One run of tokens, one picture."""
        if not isinstance(medium, Image):
            raise SampleError("video_unsupported", "expected images, got a video: LLaVA-1.5 takes frames as images")
        width, height = self._fitted(*medium)
        visual = Visual(index, 0, self.pixels, 0, 1, (width, height))
        tokens = self.unit_tokens
        return MediumPlan(self._settings.image, (tokens,), ((0, 0),), (visual,), (self.pixels, 1), 1, tokens)

    def _fitted(self, width: int, height: int) -> tuple[int, int]:
        """The shorter side becomes S, the longer one keeps the shape, rounded down."""
        side = self._settings.side
        return (side, int(side * height / width)) if width <= height else (int(side * width / height), side)

    def targets(self, visual: Visual) -> Sequence[tuple[int, int]]:
        """The picture before its middle is cut out."""
        width, height = visual.form
        return [(width, height)]

    @property
    def most_target_pixels(self) -> int:
        """A picture that is twenty times as long as it is wide."""
        return 20 * self._settings.side**2

    def draw(self, pixels: Pixels, visual: Visual, out: NDArray[np.uint8], resize: Resize) -> None:
        """Resize, and cut out the middle."""
        (width, height), side = visual.form, self._settings.side
        resized = resize(pixels, width, height, self._settings.filter)
        top, left = (height - side) // 2, (width - side) // 2
        out[0] = planes(resized[top : top + side, left : left + side])
