"""What both releases of mPLUG-Owl3 share: chat text, grids, truncation, right padding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import SampleError
from owl_stream.layouts.chat import encode_chat
from owl_stream.layouts.chat_tokens import ChatTokens
from owl_stream.layouts.frames import sample_frames
from owl_stream.layouts.grid import choose_grid
from owl_stream.layouts.media import IMAGE, Prompt, check_conversation
from owl_stream.layouts.swift import encode_swift
from owl_stream.layouts.truncation import cut_position
from owl_stream.layouts.types import (
    EncodedRow,
    Image,
    Medium,
    OffsetReport,
    TensorShape,
    Tokenizer,
    Turn,
    View,
)

if TYPE_CHECKING:
    from owl_stream.config import Recipe


class Owl3Layout(ABC):
    """The common part; a release adds its prompts and its `media_offset`."""

    name: ClassVar[str]

    def encode(
        self, messages: Sequence[Turn], media: Sequence[Medium], tokenizer: Tokenizer, recipe: Recipe
    ) -> EncodedRow:
        """See `Layout.encode`.

        `cut: single` cuts the image of a sample whose only medium it is; `cut: all` cuts every image, but under
        `chat: swift` none of a sample with a video. Frames of videos are never cut.

        Raises:
            SampleError: those of `check_conversation`, `too_long`, `no_supervised_tokens`.
        """
        check_conversation(messages, media)
        cut = _cuts(media, recipe)
        prompts = [self._prompt(index, medium, cut, recipe) for index, medium in enumerate(media)]
        encode = encode_swift if recipe.chat == "swift" else encode_chat
        chat = encode(messages, [prompt.text for prompt in prompts], tokenizer)
        row = _truncated(chat, prompts, recipe)
        if not row.supervised_tokens:
            raise SampleError(
                "no_supervised_tokens",
                f"expected an answer within {recipe.max_length} tokens, got none; "
                f"the whole conversation has {len(chat.input_ids)} tokens",
            )
        return row

    def filler(self, tokenizer: Tokenizer) -> EncodedRow:
        """See `Layout.filler`."""
        return EncodedRow(
            np.array([tokenizer.pad_id], dtype=np.int64),
            (),
            np.array([], dtype=np.int64),
            (),
        )

    def tensors(self, row_lengths: Sequence[int], crops: Sequence[int]) -> tuple[TensorShape, ...]:
        """`input_ids`, `labels`, `attention_mask`: int64 [B, L], and the release's `media_offset`."""
        shape = (len(row_lengths), max(row_lengths))
        text = tuple(TensorShape(name, "int64", shape) for name in ("input_ids", "labels", "attention_mask"))
        return (*text, *self._offset_tensors(shape, sum(crops)))

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """See `Layout.collate`. Rows are padded on the right."""
        for b, row in enumerate(rows):
            length = row.text_tokens
            for name, values, padding in (("input_ids", row.input_ids, pad_id), ("attention_mask", 1, 0)):
                out[name][b, :length] = values
                out[name][b, length:] = padding
            row.write_labels(out["labels"][b])
        self._collate_offsets(rows, out)

    def _prompt(self, index: int, medium: Medium, cut: bool, recipe: Recipe) -> Prompt:
        if not isinstance(medium, Image):
            frames = sample_frames(len(medium.frames))
            views = tuple(View(index, frame, None, 1) for frame in frames)
            bare = recipe.chat == "swift"
            return Prompt(IMAGE * len(frames) if bare else self._video_prompt(len(frames)), views)
        if not cut:
            return Prompt(IMAGE, (View(index, 0, None, 1),))
        rows, cols = choose_grid(medium.width, medium.height, recipe.image_size)
        return Prompt(self._cut_prompt(rows, cols), (View(index, 0, (rows, cols), rows * cols + 1),))

    @abstractmethod
    def _cut_prompt(self, rows: int, cols: int) -> str: ...

    @abstractmethod
    def _video_prompt(self, frames: int) -> str: ...

    @abstractmethod
    def _offset_tensors(self, shape: tuple[int, int], crops: int) -> tuple[TensorShape, ...]: ...

    @abstractmethod
    def _collate_offsets(self, rows: Sequence[EncodedRow], out: Mapping[str, NDArray[Any]]) -> None: ...

    @abstractmethod
    def check(self, tensors: Mapping[str, Any], crops: int) -> OffsetReport:
        """See `Layout.check`."""


def _cuts(media: Sequence[Medium], recipe: Recipe) -> bool:
    """Whether a sample's images are cut."""
    if recipe.cut == "all":
        return recipe.chat == "release" or all(isinstance(medium, Image) for medium in media)
    return recipe.cut == "single" and len(media) == 1


def _truncated(chat: ChatTokens, prompts: Sequence[Prompt], recipe: Recipe) -> EncodedRow:
    """Cut a conversation down to `recipe.max_length` tokens, if it is longer and the recipe allows it."""
    tokens = len(chat.input_ids)
    if tokens > recipe.max_length and recipe.on_too_long == "skip":
        raise SampleError("too_long", f"expected at most {recipe.max_length} tokens (`max_length`), got {tokens}")
    if tokens <= recipe.max_length:
        views = tuple(view for prompt in prompts for view in prompt.views)
        return EncodedRow(chat.input_ids, chat.supervised, chat.crop_starts, views)
    cut, kept = cut_position(chat.groups, recipe.max_length)
    return EncodedRow(
        chat.input_ids[:cut],
        tuple((begin, min(end, cut)) for begin, end in chat.supervised if begin < cut),
        chat.crop_starts[chat.crop_starts < cut],
        tuple(view for prompt in prompts[:kept] for view in prompt.views),
        truncated=True,
    )
