"""The layout of any model that has a Hugging Face processor: what its batches hold is found by asking it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ConfigError, SampleError
from owl_stream.layouts.image_settings import Colours, ImageSettings
from owl_stream.layouts.processor import batches, contract
from owl_stream.layouts.processor.becoming import draw_tiles, find_becoming
from owl_stream.layouts.processor.files import Files, read_files
from owl_stream.layouts.processor.form import Becoming, Form
from owl_stream.layouts.processor.probing import Prober
from owl_stream.layouts.processor.released import INSTALL, Released, make_released
from owl_stream.layouts.settling import refuse
from owl_stream.layouts.template import ChatMessage, MediumKind, Part
from owl_stream.layouts.templated import MediumPlan, TemplatedLayout, TextSettings, need_model
from owl_stream.layouts.types import (
    BatchReport,
    Chat,
    Choices,
    EncodedRow,
    Image,
    LengthLimit,
    Medium,
    Pixels,
    Resize,
    RowLook,
    SpecialTokens,
    Tokenizer,
    Transparency,
    Visual,
)
from owl_stream.models import ModelFiles
from owl_stream.shards import RowSize

_SIZES_KEPT = 1 << 16
"""Sizes of pictures for which a process remembers what becomes of them."""
_TRIAL = "Is it 1 owl or 12?\n<a>  Ünïcödé, \u732b\u3002</a> _x_y"


@dataclass(frozen=True)
class ProcessorSettings:
    """A model's files as text, and what was found of its batches. `vision`: JSON of settings of its image processor.

    `transformers`: the version that made them. `trial`: tokens of a text, by which another tokenizer is known.
    """

    text: TextSettings
    pad: str
    form: Form
    colours: Colours
    vision: str
    transformers: str
    trial: tuple[int, ...]
    files: Files = field(repr=False)


class ProcessorLayout(TemplatedLayout):
    """A unit is a tile, where each has as many tokens, and else a picture."""

    name: ClassVar[str] = "processor"
    released: ClassVar[str] = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
    unit: ClassVar[str] = "picture"
    transparency: ClassVar[Transparency] = "white"

    @classmethod
    def settle(cls, choices: Choices) -> ProcessorSettings:
        """See `Layout.settle`: `vision` holds settings of the model's image processor, by their names there."""
        refuse(choices, cls.name, "chat", "positions")
        model = need_model(choices, cls.name)
        text = TextSettings.of(choices)
        try:
            vision = json.dumps(dict(choices.vision), sort_keys=True)
        except TypeError as exc:
            raise ConfigError(f"`vision`: expected values of JSON: {exc}") from exc
        try:
            return _settled(read_files(model), text, vision, _patch(model))
        except ConfigError as exc:
            raise ConfigError(f"model {model.name}: `layout: {cls.name}`: {exc}") from exc

    def __init__(self, settings: ProcessorSettings) -> None:
        super().__init__(settings.text)
        self._settings, self._form = settings, settings.form
        self._released = _running(settings)
        form = settings.form
        self.unit = "tile" if form.by_tile else "picture"  # type: ignore[misc] # here it goes by the model
        self.tokens = SpecialTokens(settings.pad, {form.token: form.token_id})
        self.placeholders: Mapping[MediumKind, str] = {"image": form.placeholder}
        self.placeholder_ids = (form.token_id,)
        self.reserved = () if form.token == form.placeholder else (form.token,)
        self.schema = batches.schema_of(form, settings.colours)
        self._becoming = lru_cache(maxsize=_SIZES_KEPT)(self._find_becoming)
        self._known_tokenizer: Tokenizer | None = None

    def _find_becoming(self, size: tuple[int, int], context: int) -> Becoming:
        return find_becoming(self._released, self._form, size, context)

    def plan(self, index: int, medium: Medium) -> MediumPlan:
        """See `TemplatedLayout.plan`: of a picture that is alone in its row."""
        return self._plan(index, medium, 1)

    def plans(self, media: Sequence[Medium]) -> list[MediumPlan]:
        """See `TemplatedLayout.plans`."""
        context = self._context(len(media))
        return [self._plan(index, medium, context) for index, medium in enumerate(media)]

    def _context(self, pictures: int) -> int:
        return min(pictures, self._form.contexts)

    def _plan(self, index: int, medium: Medium, context: int) -> MediumPlan:
        if not isinstance(medium, Image):
            raise SampleError(
                "video_unsupported", "expected images, got a video: `layout: processor` takes its frames as images"
            )
        form, became = self._form, self._becoming(tuple(medium), context)
        numbers = tuple(number for values in became.values for number in values)
        visual = Visual(index, 0, form.pixels, 0, became.tiles, (context, *numbers))
        units: tuple[tuple[int, int], ...] = ((0, 0),)
        if form.by_tile:
            units = batches.starts_of_tiles(became.runs, became.tiles)
        return MediumPlan(
            became.text,
            became.runs,
            units,
            (visual,),
            (form.pixels, became.tiles),
            len(units),
            became.tiles * form.tile_tokens,
        )

    def encode(self, chat: Chat, media: Sequence[Medium], tokenizer: Tokenizer, limit: LengthLimit) -> EncodedRow:
        """See `Layout.encode`.

        Raises:
            SampleError: also `too_long`, where a picture that is cut off would change those that are kept.
            ConfigError: the tokenizer is not the model's.
        """
        self._check_tokenizer(tokenizer)
        row = super().encode(chat, media, tokenizer, limit)
        if row.visuals and self._context(len(row.visuals)) != self._context(len(media)):
            raise SampleError(
                "too_long",
                f"expected at most {limit.max_length} tokens (`max_length`), got more; it cannot be cut between its "
                "pictures, as the model's processor makes others of one alone",
            )
        return row

    def _check_tokenizer(self, tokenizer: Tokenizer) -> None:
        if tokenizer is self._known_tokenizer:
            return
        if tuple(tokenizer.encode(_TRIAL).ids) != self._settings.trial:
            raise ConfigError("`tokenizer`: expected the model's own, which its processor uses: leave `tokenizer` out")
        self._known_tokenizer = tokenizer

    def written(self, chat: Chat) -> str:
        """A conversation as the chat template writes it, with placeholders, as the processor takes it."""
        return self._rendered(chat).text

    def lengths(self, sizes: Sequence[RowSize]) -> dict[str, int]:
        """See `Layout.lengths`."""
        return batches.lengths_of_rows(self._form, sizes)

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """See `Layout.collate`."""
        batches.collate(self._form, rows, pad_id, out)

    def check(self, tensors: Mapping[str, Any]) -> BatchReport:
        """See `Layout.check`."""
        return contract.check(self._form, tensors)

    def targets(self, visual: Visual) -> Sequence[tuple[int, int]]:
        """See `Layout.targets`: as if its tiles lay in a square."""
        columns = math.ceil(math.sqrt(visual.rows))
        side = math.ceil(math.sqrt(math.prod(self._form.tile) / 3))
        return [(columns * side, math.ceil(visual.rows / columns) * side)]

    @property
    def most_target_pixels(self) -> int:
        """See `Layout.most_target_pixels`: twice what was seen, as a processor has copies."""
        return 2 * self._form.most_tiles * math.prod(self._form.tile)

    def draw(self, pixels: Pixels, visual: Visual, out: NDArray[np.uint8], resize: Resize) -> None:
        """See `Layout.draw`. The processor resizes by its own rule; `resize` is not asked."""
        picture = np.ascontiguousarray(pixels[..., :3])
        out[...] = draw_tiles(self._released, self._form, picture, visual.form[0], visual.rows)

    def look(self, tensors: Mapping[str, NDArray[Any]]) -> Sequence[RowLook]:
        """See `Layout.look`."""
        return contract.look(self._form, tensors)


def _patch(model: ModelFiles) -> int:
    """Side of what the tower takes for a token: for costs only."""
    found = model.config("vision_config.patch_size", 14)
    return found if isinstance(found, int) and found > 0 else 14


def _running(settings: ProcessorSettings) -> Released:
    try:
        installed = version("transformers")
    except ModuleNotFoundError as exc:  # PackageNotFoundError
        raise ConfigError(f"it needs transformers: {INSTALL}") from exc
    if installed != settings.transformers:
        raise ConfigError(
            f"transformers: expected {settings.transformers}, by which the recipe was made, got {installed}"
        )
    return make_released(settings.files, settings.vision)


@lru_cache(maxsize=4)
def _settled(files: Files, text: TextSettings, vision: str, patch: int) -> ProcessorSettings:
    """Takes seconds: the processor is asked for a dozen batches."""
    from owl_stream.layouts.processor.proof import prove  # noqa: PLC0415 # it makes a layout to hold against

    released = make_released(files, vision)
    if released.pad_token is None:
        raise ConfigError("expected `pad_token` in tokenizer_config.json, got none")
    tokenizer = released.tokenizer()
    values = ImageSettings(ModelFiles("of its processor", {}), released.settings)
    try:
        form = Prober(released, _placeholder(text, released)).find(tokenizer.id_of, patch)
        settings = ProcessorSettings(
            text=text,
            pad=released.pad_token,
            form=form,
            colours=values.colours,
            vision=vision,
            transformers=version("transformers"),
            trial=tuple(tokenizer.encode(_TRIAL).ids),
            files=files,
        )
        prove(ProcessorLayout(settings), released)
    except SampleError as exc:
        raise ConfigError(f"{exc.reason}: {exc.detail}") from exc
    return settings


def _placeholder(text: TextSettings, released: Released) -> str:
    """What the chat template writes for a picture."""
    turn = ChatMessage("user", (Part("image"), Part("text", "What?")))
    written = text.build().render([turn]).text
    for token in dict.fromkeys([released.image_token, *released.others]):
        if written.count(token) == 1:
            return token
    raise ConfigError(f"expected the chat template to write {released.image_token} once for a picture, got {written!r}")
