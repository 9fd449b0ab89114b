"""What both releases of mPLUG-Owl3 share: chat text, grids, truncation, right padding, crops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import SampleError
from owl_stream.layouts.conversation import IMAGE, check_conversation
from owl_stream.layouts.owl3.chat import END, END_OF_TEXT, START, encode_chat
from owl_stream.layouts.owl3.chat_tokens import ChatTokens
from owl_stream.layouts.owl3.frames import sample_frames
from owl_stream.layouts.owl3.grid import GRIDS, choose_grid
from owl_stream.layouts.owl3.media import Prompt, View
from owl_stream.layouts.owl3.offsets import OffsetReport
from owl_stream.layouts.owl3.swift import encode_swift
from owl_stream.layouts.settling import choice, number, refuse, settle_vision
from owl_stream.layouts.text import TEXT_TENSORS, collate_text
from owl_stream.layouts.truncation import cut_position
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
    drawn,
)
from owl_stream.shards import RowSize
from owl_stream.wire import Normalise, SchemaEntry

PIXELS = "pixel_values"

PATCH = 14
"""Side of a patch of the SigLIP tower that both releases use: a crop of S x S costs (S // 14)^2 vision tokens."""

_NORMALISE = Normalise(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), axis=1, repeat=1, flatten=False)


TOKENS = SpecialTokens(END_OF_TEXT, dict.fromkeys((END_OF_TEXT, START, END)))
"""What both releases demand of a vocabulary."""


@dataclass(frozen=True)
class Owl3Settings:
    """`image_size`: side S of a crop. `cut`: which images are cut. `chat`: the processor's text, or ms-swift's."""

    image_size: int
    cut: Literal["off", "single", "all"]
    chat: Literal["release", "swift"]


class Owl3Layout(ABC):
    """The common part; a release adds its prompts and its `media_offset`.

    A unit is a crop: an image tensor [3, S, S].
    """

    name: ClassVar[str]
    released: ClassVar[str]
    unit: ClassVar[str] = "crop"
    transparency: ClassVar[Transparency] = "dropped"
    released_side: ClassVar[int]
    """Side of a crop in the released processor: what the model was trained with."""

    @classmethod
    def settle(cls, choices: Choices) -> Owl3Settings:
        """See `Layout.settle`: `vision: {image_size, cut}`, `chat: release | swift`.

        `cut` is `single`, as release 240728 does, or `all` under `chat: swift`, unless it is chosen.
        """
        refuse(choices, cls.name, "template", "train_on", "positions")
        chat = choice("chat", choices.chat or "release", ("release", "swift"))
        vision = settle_vision(
            choices.vision,
            {
                "image_size": (number(PATCH, 4096), cls.released_side),
                "cut": (("off", "single", "all"), "all" if chat == "swift" else "single"),
            },
        )
        return Owl3Settings(vision["image_size"], vision["cut"], chat)  # type: ignore[arg-type] # `choice` has checked it

    def __init__(self, settings: Owl3Settings) -> None:
        self._settings, self.tokens = settings, TOKENS
        side = settings.image_size
        self._crop_tokens = (side // PATCH) ** 2
        pixels = drawn(PIXELS, "C", 3, side, side, normalise=_NORMALISE)
        self.schema: tuple[SchemaEntry, ...] = (*TEXT_TENSORS, *self._offset_tensors(), pixels)

    def encode(self, chat: Chat, media: Sequence[Medium], tokenizer: Tokenizer, limit: LengthLimit) -> EncodedRow:
        """See `Layout.encode`.

        `cut: single` cuts the image of a sample whose only medium it is; `cut: all` cuts every image, but under
        `chat: swift` none of a sample with a video. Frames of videos are never cut.

        Raises:
            SampleError: those of `check_conversation`, `too_long`, `no_supervised_tokens`.
        """
        check_conversation(chat, media)
        cut = self._cuts(media)
        prompts = [self._prompt(index, medium, cut) for index, medium in enumerate(media)]
        encode = encode_swift if self._settings.chat == "swift" else encode_chat
        tokens = encode(chat.turns, [prompt.text for prompt in prompts], tokenizer)
        row = self._truncated(tokens, prompts, limit)
        if not row.size.supervised_tokens:
            raise SampleError(
                "no_supervised_tokens",
                f"expected an answer within {limit.max_length} tokens, got none; "
                f"the whole conversation has {len(tokens.input_ids)} tokens",
            )
        return row

    def filler(self, tokenizer: Tokenizer) -> EncodedRow:
        """See `Layout.filler`."""
        return EncodedRow(np.array([tokenizer.pad_id], dtype=np.int64), (), np.array([], dtype=np.int64), ())

    def lengths(self, sizes: Sequence[RowSize]) -> dict[str, int]:
        """B rows, L tokens, C crops."""
        return {
            "B": len(sizes),
            "L": max(size.text_tokens for size in sizes),
            "C": sum(size.image_units for size in sizes),
        }

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """See `Layout.collate`. Rows are padded on the right."""
        collate_text(rows, pad_id, out)
        self._collate_offsets(rows, out)

    def check(self, tensors: Mapping[str, Any]) -> BatchReport:
        """See `Layout.check`: `media_offset` against `pixel_values` and `attention_mask`."""
        pixels = tensors.get(PIXELS)
        report = self.check_offsets(tensors, 0 if pixels is None else len(pixels))
        return BatchReport(report.rows_with_images, report.text_only_rows, report.crops)

    def targets(self, visual: Visual) -> Sequence[tuple[int, int]]:
        """See `Layout.targets`: the whole picture as one crop, and its cells where there is a grid."""
        side = self._settings.image_size
        if not visual.form:
            return [(side, side)]
        rows, cols = visual.form
        return [(side, side), (cols * side, rows * side)]

    @property
    def most_target_pixels(self) -> int:
        """See `Layout.most_target_pixels`."""
        return max(rows * cols for rows, cols in GRIDS) * self._settings.image_size**2

    def draw(self, pixels: Pixels, visual: Visual, out: NDArray[np.uint8], resize: Resize) -> None:
        """See `Layout.draw`: uint8 [crops, 3, S, S]; a grid's cells row by row, then the whole picture."""
        side = self._settings.image_size
        if visual.form:
            rows, cols = visual.form
            resized = resize(pixels, cols * side, rows * side)
            cells = resized[..., :3].reshape(rows, side, cols, side, 3).transpose(0, 2, 4, 1, 3)
            out[:-1].reshape(rows, cols, 3, side, side)[...] = cells
        out[-1] = resize(pixels, side, side)[..., :3].transpose(2, 0, 1)

    def look(self, tensors: Mapping[str, NDArray[Any]]) -> Sequence[RowLook]:
        """See `Layout.look`. `says` is what `media_offset` holds for the token."""
        side = self._settings.image_size
        pixels = tensors.get(PIXELS, np.empty((0, 3, side, side), np.uint8)).transpose(0, 2, 3, 1)
        looks, first = [], 0
        for sees, starts, says in self._look_rows(tensors):
            unit = np.full(len(sees), -1, dtype=np.int64)
            unit[starts] = np.arange(len(starts))
            looks.append(RowLook(unit, sees, says, list(pixels[first : first + len(starts)])))
            first += len(starts)
        return looks

    def _cuts(self, media: Sequence[Medium]) -> bool:
        """Whether a sample's images are cut."""
        if self._settings.cut == "all":
            return self._settings.chat == "release" or all(isinstance(medium, Image) for medium in media)
        return self._settings.cut == "single" and len(media) == 1

    def _prompt(self, index: int, medium: Medium, cut: bool) -> Prompt:
        if not isinstance(medium, Image):
            frames = sample_frames(len(medium.frames))
            views = tuple(View(index, frame, None) for frame in frames)
            bare = self._settings.chat == "swift"
            return Prompt(IMAGE * len(frames) if bare else self._video_prompt(len(frames)), views)
        if not cut:
            return Prompt(IMAGE, (View(index, 0, None),))
        grid = choose_grid(medium.width, medium.height, self._settings.image_size)
        return Prompt(self._cut_prompt(*grid), (View(index, 0, grid),))

    def _truncated(self, chat: ChatTokens, prompts: Sequence[Prompt], limit: LengthLimit) -> EncodedRow:
        """Cut a conversation down to `max_length` tokens, if it is longer and that is allowed."""
        tokens = len(chat.input_ids)
        if tokens > limit.max_length and limit.on_too_long == "skip":
            raise SampleError("too_long", f"expected at most {limit.max_length} tokens (`max_length`), got {tokens}")
        if tokens <= limit.max_length:
            return self._row(chat.input_ids, chat.supervised, chat.crop_starts, prompts)
        cut, kept = cut_position(chat.groups, limit.max_length)
        supervised = tuple((begin, min(end, cut)) for begin, end in chat.supervised if begin < cut)
        starts = chat.crop_starts[chat.crop_starts < cut]
        return self._row(chat.input_ids[:cut], supervised, starts, prompts[:kept], truncated=True)

    def _row(
        self,
        input_ids: NDArray[np.int64],
        supervised: tuple[tuple[int, int], ...],
        crop_starts: NDArray[np.int64],
        prompts: Sequence[Prompt],
        *,
        truncated: bool = False,
    ) -> EncodedRow:
        visuals, first = [], 0
        for view in (view for prompt in prompts for view in prompt.views):
            visuals.append(Visual(view.medium, view.frame, PIXELS, first, view.crops, view.grid or ()))
            first += view.crops
        crops = len(crop_starts)
        return EncodedRow(
            input_ids,
            supervised,
            crop_starts,
            tuple(visuals),
            image_units=crops,
            image_tokens=crops * self._crop_tokens,
            truncated=truncated,
        )

    @abstractmethod
    def check_offsets(self, tensors: Mapping[str, Any], crops: int) -> OffsetReport:
        """Hold `media_offset` against the contract; `crops` is the length of `pixel_values`.

        Raises:
            MediaOffsetError: naming row, position, expected and got.
        """

    @abstractmethod
    def _cut_prompt(self, rows: int, cols: int) -> str: ...

    @abstractmethod
    def _video_prompt(self, frames: int) -> str: ...

    @abstractmethod
    def _offset_tensors(self) -> tuple[SchemaEntry, ...]: ...

    @abstractmethod
    def _collate_offsets(self, rows: Sequence[EncodedRow], out: Mapping[str, NDArray[Any]]) -> None: ...

    @abstractmethod
    def _look_rows(
        self, tensors: Mapping[str, NDArray[Any]]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Sequence[str]]]:
        """Row by row: how many crops each token sees, where crops start, what `media_offset` says of each token."""
