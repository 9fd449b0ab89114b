"""The layout of Gemma 3: pictures of one size, which see themselves in both directions (`token_type_ids`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import ContractError, SampleError
from owl_stream.layouts.gemma3 import pan_and_scan
from owl_stream.layouts.gemma3.pan_and_scan import Box, PanAndScan, choose_crops
from owl_stream.layouts.gemma3.text import ImageTokens, image_text, token_types
from owl_stream.layouts.image_settings import Colours, ImageSettings
from owl_stream.layouts.settling import number, refuse, settle_vision
from owl_stream.layouts.template import MediumKind
from owl_stream.layouts.templated import MediumPlan, TextSettings, need_model
from owl_stream.layouts.text import attended_lengths
from owl_stream.layouts.tiled import TiledLayout
from owl_stream.layouts.types import (
    BatchReport,
    Choices,
    EncodedRow,
    Filter,
    Image,
    Medium,
    Pixels,
    Resize,
    SpecialTokens,
    Visual,
    tensor,
)
from owl_stream.models import PROCESSOR_FILE
from owl_stream.wire import SchemaEntry

TYPES = "token_type_ids"


@dataclass(frozen=True)
class Gemma3Settings:
    """`side`: of a picture in pixels. `picture_tokens`: text tokens for one picture; `patches`: its vision tokens."""

    text: TextSettings
    pad: str
    names: ImageTokens
    soft_id: int
    side: int
    picture_tokens: int
    patches: int
    pan_and_scan: PanAndScan | None
    colours: Colours
    filter: Filter


class Gemma3Layout(TiledLayout):
    """A unit is a picture: the whole image, or one of its crops under pan and scan."""

    name: ClassVar[str] = "gemma3"
    released: ClassVar[str] = "google/gemma-3-4b-it"
    unit: ClassVar[str] = "picture"
    extra: ClassVar[tuple[SchemaEntry, ...]] = (tensor(TYPES, "int64", "B", "L"),)

    @classmethod
    def settle(cls, choices: Choices) -> Gemma3Settings:
        """See `Layout.settle`: `vision: {pan_and_scan: off | on, min_crop_size, max_crops}`."""
        refuse(choices, cls.name, "chat", "positions")
        model = need_model(choices, cls.name)
        half = (0.5, 0.5, 0.5)
        images = ImageSettings(model, model.images, size=224, resample=2, image_mean=half, image_std=half)
        vision = settle_vision(
            choices.vision,
            {
                "pan_and_scan": (("off", "on"), "off"),
                "min_crop_size": (number(1, 4096), PanAndScan.min_crop_size),
                "max_crops": (number(1, 64), PanAndScan.max_crops),
            },
        )
        scan = PanAndScan(vision["min_crop_size"], vision["max_crops"]) if vision["pan_and_scan"] == "on" else None
        side, patch = images.side(), model.whole("vision_config.patch_size", 14)
        names = ImageTokens(
            model.token("boi_token", "<start_of_image>") or "<start_of_image>",
            model.token("image_token", "<image_soft_token>") or "<image_soft_token>",
            model.token("eoi_token", "<end_of_image>") or "<end_of_image>",
        )
        soft = "image_token_index" if model.config("image_token_id") is None else "image_token_id"
        return Gemma3Settings(
            text=TextSettings.of(choices),
            pad=model.token("pad_token", "<pad>") or "<pad>",
            names=names,
            soft_id=model.whole(soft, least=0),
            side=side,
            picture_tokens=model.whole(
                "image_seq_length", model.whole("mm_tokens_per_image", 256), file=PROCESSOR_FILE
            ),
            patches=(side // patch) ** 2,
            pan_and_scan=scan,
            colours=images.colours,
            filter=images.filter,
        )

    def __init__(self, settings: Gemma3Settings) -> None:
        super().__init__(settings.text, settings.side, settings.colours)
        self._settings, names = settings, settings.names
        self.tokens = SpecialTokens(settings.pad, {names.begin: None, names.end: None, names.soft: settings.soft_id})
        self.placeholders: Mapping[MediumKind, str] = {"image": names.begin}
        self.placeholder_ids = (settings.soft_id,)
        self.reserved = (names.soft,)
        self.unit_tokens = settings.picture_tokens

    def plan(self, index: int, medium: Medium) -> MediumPlan:
        """See `TemplatedLayout.plan`."""
        of = self._settings
        if not isinstance(medium, Image):
            raise SampleError("video_unsupported", "expected images, got a video: Gemma 3 takes frames as images")
        crops = choose_crops(*medium, of.pan_and_scan)
        count, text = 1 + len(crops), image_text(len(crops), of.picture_tokens, of.names)
        form = tuple(edge for crop in crops for edge in crop)
        visual = Visual(index, 0, self.pixels, 0, count, form)
        units = tuple((run, 0) for run in range(count))
        return MediumPlan(text.text, text.runs, units, (visual,), (self.pixels, count), count, count * of.patches)

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """See `Layout.collate`."""
        super().collate(rows, pad_id, out)
        for b, row in enumerate(rows):
            out[TYPES][b, : len(row.input_ids)] = token_types(row.input_ids, self._settings.soft_id)
            out[TYPES][b, len(row.input_ids) :] = 0

    def check(self, tensors: Mapping[str, Any]) -> BatchReport:
        """See `Layout.check`; also `token_type_ids`, without which the model is causal and says nothing."""
        report = super().check(tensors)
        if TYPES not in tensors:
            raise ContractError(f"{TYPES}: expected it, without which the model attends causally and says nothing")
        for b, length in enumerate(attended_lengths(tensors["attention_mask"])):
            want = token_types(np.asarray(tensors["input_ids"][b]), self._settings.soft_id)
            want[length:] = 0
            got = np.asarray(tensors[TYPES][b])
            if not np.array_equal(got, want):
                at = int(np.flatnonzero(got != want)[0])
                raise ContractError(f"{TYPES}, row {b}, token {at}: expected {want[at]}, got {got[at]}")
        return report

    def targets(self, visual: Visual) -> Sequence[tuple[int, int]]:
        """See `Layout.targets`."""
        return [(self._settings.side, self._settings.side)]

    @property
    def most_target_pixels(self) -> int:
        """See `Layout.most_target_pixels`."""
        return self._settings.side**2

    def draw(self, pixels: Pixels, visual: Visual, out: NDArray[np.uint8], resize: Resize) -> None:
        """See `Layout.draw`."""
        edges = visual.form
        crops = [Box(*edges[first : first + 4]) for first in range(0, len(edges), 4)]
        pan_and_scan.draw(pixels, crops, out, partial(resize, filter=self._settings.filter))
