"""The vocabulary of layouts: what goes in (turns, media, a tokenizer), what comes out (rows), and what a layout is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from owl_stream.config import Recipe

IGNORE = -100
"""The label that the loss leaves out (PyTorch's default `ignore_index`)."""


class Turn(Protocol):
    """One message of a conversation; `owl_stream.shards.Message` is one."""

    @property
    def role(self) -> str:
        """`system`, `user` or `assistant`."""

    @property
    def content(self) -> str:
        """Text; in user turns `<|image|>` and `<|video|>` stand where media go."""

    @property
    def learned(self) -> bool:
        """Whether an assistant turn is learned; a turn that is not has labels -100."""


class Image(NamedTuple):
    """A picture's size in pixels, as decoded (after EXIF orientation, if the decoder applies it)."""

    width: int
    height: int


@dataclass(frozen=True)
class Video:
    """All frames that the record has, in order; the layout chooses which of them are used."""

    frames: tuple[Image, ...]


Medium = Image | Video
"""What one `<|image|>` or `<|video|>` stands for. Media come in their order of appearance in the conversation."""


class Tokens(NamedTuple):
    """A tokenised text: ids, and for each the range [start, end) of characters that it covers."""

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]]


class Tokenizer(Protocol):
    """What a layout needs of a tokenizer. Special tokens that are spelled out in a text become their single ids."""

    @property
    def pad_id(self) -> int:
        """The id of `<|endoftext|>`."""

    def encode(self, text: str) -> Tokens:
        """Tokenise one chunk of text as it stands: nothing is added in front or behind."""


class View(NamedTuple):
    """One picture and the crops that it yields, in the order in which they lie in `pixel_values`.

    `medium` and `frame` name the picture (frame 0 of an image). `grid` None is the whole picture as one crop;
    (rows, cols) are rows * cols crops, row by row, and the whole picture behind them.
    """

    medium: int
    frame: int
    grid: tuple[int, int] | None
    crops: int


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """One sample as text tensors, T tokens long, unpadded.

    `input_ids`: int64 [T]. `supervised`: ranges [begin, end) of the tokens that are learned, in order, apart.
    `crop_starts`: int64 [C], strictly increasing, the position of the first piece of each crop's `<|image|>`.
    `views`: their crops sum to C. `truncated`: tokens, and perhaps media, behind `max_length` were left out.
    """

    input_ids: NDArray[np.int64]
    supervised: tuple[tuple[int, int], ...]
    crop_starts: NDArray[np.int64]
    views: tuple[View, ...]
    truncated: bool = False

    @property
    def text_tokens(self) -> int:
        """T."""
        return len(self.input_ids)

    @property
    def supervised_tokens(self) -> int:
        """How many tokens are learned."""
        return sum([end - begin for begin, end in self.supervised])

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [T]: the token where it is learned, else -100 (the model shifts labels itself)."""
        labels = np.empty_like(self.input_ids)
        self.write_labels(labels)
        return labels

    def write_labels(self, out: NDArray[np.int64]) -> None:
        """Write the labels into `out`, int64 [L] with L >= T, and -100 behind them."""
        out[:] = IGNORE
        for begin, end in self.supervised:
            out[begin:end] = self.input_ids[begin:end]

    @property
    def crops(self) -> int:
        """C."""
        return len(self.crop_starts)

    def masked(self) -> EncodedRow:
        """The same row, same ids, crops and shape, from which nothing is learned: labels all -100."""
        return replace(self, supervised=())


@dataclass(frozen=True)
class TensorShape:
    """Name, numpy dtype name and shape of a tensor of a batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OffsetReport:
    """What the contract check saw. `query_rows`: rows whose tokens the model's cross-attention takes as queries."""

    rows_with_images: int
    text_only_rows: int
    crops: int
    query_rows: int


class Layout(Protocol):
    """A model family's batch contract. Stateless; one instance serves every thread."""

    @property
    def name(self) -> str:
        """What a recipe calls it."""

    def encode(
        self, messages: Sequence[Turn], media: Sequence[Medium], tokenizer: Tokenizer, recipe: Recipe
    ) -> EncodedRow:
        """Turn a conversation into a row, at most `recipe.max_length` tokens long, with a supervised token.

        Raises:
            SampleError: the conversation does not fit the layout, its media or the length.
        """

    def filler(self, tokenizer: Tokenizer) -> EncodedRow:
        """A row that completes a last step: one attended pad token, nothing to learn, no crop."""

    def tensors(self, row_lengths: Sequence[int], crops: Sequence[int]) -> tuple[TensorShape, ...]:
        """The text tensors of a batch whose rows have these tokens and crops, before anything is encoded."""

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """Write the text tensors of `rows` into arrays shaped as `tensors` says; every element is written."""

    def check(self, tensors: Mapping[str, Any], crops: int) -> OffsetReport:
        """Hold a batch's `media_offset` against the contract; `crops` is the length of its `pixel_values`.

        Raises:
            MediaOffsetError: naming row, position, expected and got.
        """
