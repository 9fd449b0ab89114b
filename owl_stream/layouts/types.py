"""The vocabulary of layouts: what goes in (a chat, media, a tokenizer), what comes out (rows), and what a layout is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from owl_stream.models import ModelFiles
from owl_stream.shards import RowSize
from owl_stream.wire import Normalise, SchemaEntry

IGNORE = -100
"""The label that the loss leaves out (PyTorch's default `ignore_index`)."""

Pixels = NDArray[np.uint8]
"""A picture: uint8 [height, width, 4], red, green, blue, and a fourth byte without meaning."""


class Turn(Protocol):
    """One message of a conversation; `owl_stream.records.Message` is one."""

    @property
    def role(self) -> str:
        """`system`, `user`, `assistant` or `tool`."""

    @property
    def content(self) -> str:
        """Text; in turns of users and tools `<|image|>` and `<|video|>` stand where media go."""

    @property
    def learned(self) -> bool:
        """Whether an assistant turn is learned; a turn that is not has labels -100."""

    @property
    def calls(self) -> Sequence[Mapping[str, Any]]:
        """An assistant's calls of tools as chat templates take them: `{type, id, function: {name, arguments}}`."""

    @property
    def reasoning(self) -> str:
        """An assistant's thoughts before it answers; empty without."""

    @property
    def call_id(self) -> str:
        """The id of the call that a tool's turn answers; empty where it has none."""

    @property
    def name(self) -> str:
        """The name of the function whose result a tool's turn is; empty where it has none."""


@dataclass(frozen=True)
class Chat:
    """A conversation: its turns, and the schemas of the tools that the assistant may call, all in order."""

    turns: Sequence[Turn]
    tools: Sequence[Mapping[str, Any]] = ()


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


class SpecialTokens(NamedTuple):
    """What a layout demands of a vocabulary: the token that rows are padded with, and tokens that are one id each.

    `ids`: by token, its id; None where the layout does not mind which.
    """

    pad: str
    ids: Mapping[str, int | None]


class Tokenizer(Protocol):
    """What a layout needs of a tokenizer. Special tokens that are spelled out in a text become their single ids."""

    @property
    def pad_id(self) -> int:
        """The id that rows are padded with."""

    def encode(self, text: str) -> Tokens:
        """Tokenise one chunk of text as it stands: nothing is added in front or behind."""


Transparency = Literal["dropped", "white"]
"""What becomes of a picture's transparency: its colours are taken as they are, or it is laid on white."""

Filter = Literal["bicubic", "bilinear", "lanczos"]
"""Which filter resizes a picture; all look at all source pixels (antialiased), as Pillow's do."""


class Resize(Protocol):
    """Brings a picture to another size."""

    def __call__(self, pixels: Pixels, width: int, height: int, /, filter: Filter = "bicubic") -> Pixels:
        """The picture at that size, valid until the next call."""


ResizeTo = Callable[[Pixels, int, int], Pixels]
"""`Resize` with its filter chosen."""


class Visual(NamedTuple):
    """One picture of a row, and where its pixels go.

    `medium` and `frame` name the picture (frame 0 of an image). It fills rows `first` to `first + rows` of the row's
    part of `tensor`. `form`: the layout's own numbers for drawing it.
    """

    medium: int
    frame: int
    tensor: str
    first: int
    rows: int
    form: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """One sample as tokens, T of them, unpadded.

    `input_ids`: int64 [T]. `supervised`: ranges [begin, end) of the tokens that are learned, in order, apart.
    `unit_starts`: int64 [U], strictly increasing: the position of the first token that stands for each unit.
    `visuals`: the pictures, each tensor's in order. `image_units`, `image_tokens`, `video_units`, `video_tokens`: as in
    `RowSize`; the units sum to U. `truncated`: tokens, and perhaps media, behind `max_length` were left out.
    """

    input_ids: NDArray[np.int64]
    supervised: tuple[tuple[int, int], ...]
    unit_starts: NDArray[np.int64]
    visuals: tuple[Visual, ...]
    image_units: int = 0
    image_tokens: int = 0
    video_units: int = 0
    video_tokens: int = 0
    truncated: bool = False

    @property
    def size(self) -> RowSize:
        """What the row costs."""
        supervised = sum([end - begin for begin, end in self.supervised])
        return RowSize(
            len(self.input_ids),
            supervised,
            self.image_units,
            self.image_tokens,
            self.video_units,
            self.video_tokens,
        )

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

    def masked(self) -> EncodedRow:
        """The same row, same ids, pictures and shape, from which nothing is learned: labels all -100."""
        return replace(self, supervised=())


@dataclass(frozen=True)
class BatchReport:
    """What a layout's check saw of a batch."""

    rows_with_media: int
    text_only_rows: int
    units: int


class Layout(Protocol):
    """A model family's batch contract, with its settings. Stateless; one instance serves every thread.

    `released`: hub id of a model that it is made for. `unit`: what a unit is called. `tokens`: those that a vocabulary
    must have. `schema`: the tensors of its batches. Each has dimensions that are numbers or letters: B rows, L tokens
    of the longest row, and letters of the layout's own. A tensor that is `optional` is left out where one of its
    letters is 0. Those that have `normalise` are drawn, and come last: the first letter of each counts what pictures
    fill.
    """

    name: ClassVar[str]
    released: ClassVar[str]
    unit: ClassVar[str]
    transparency: ClassVar[Transparency]
    tokens: SpecialTokens
    schema: tuple[SchemaEntry, ...]

    @classmethod
    def settle(cls, choices: Choices) -> object:
        """The settings: a frozen dataclass of plain values, which goes into the recipe and so into every digest.

        Raises:
            ConfigError: a choice that the layout does not offer; the message names its key.
        """

    def __init__(self, settings: Any) -> None: ...

    def encode(self, chat: Chat, media: Sequence[Medium], tokenizer: Tokenizer, limit: LengthLimit) -> EncodedRow:
        """Turn a conversation into a row with a supervised token, at most `limit.max_length` tokens long.

        Raises:
            SampleError: the conversation does not fit the layout, its media or the length; or it says something that
                the layout cannot write, such as tools.
        """

    def filler(self, tokenizer: Tokenizer) -> EncodedRow:
        """A row that completes a last step: one attended pad token, nothing to learn, no picture."""

    def lengths(self, sizes: Sequence[RowSize]) -> dict[str, int]:
        """What the letters of `schema` stand for in a batch of rows of these sizes."""

    def collate(self, rows: Sequence[EncodedRow], pad_id: int, out: Mapping[str, NDArray[Any]]) -> None:
        """Write all tensors of `rows` that are not drawn; every element is written."""

    def check(self, tensors: Mapping[str, Any]) -> BatchReport:
        """Hold a batch's tensors against the contract of the model family.

        Raises:
            ContractError: naming row, position, expected and got.
        """

    def targets(self, visual: Visual) -> Sequence[tuple[int, int]]:
        """Width and height of what a picture is resized to, for the memory that takes."""

    @property
    def most_target_pixels(self) -> int:
        """Pixels of all that one picture is resized to, at most."""

    def draw(self, pixels: Pixels, visual: Visual, out: NDArray[np.uint8], resize: Resize) -> None:
        """Write a decoded picture into `out`, the rows of its tensor that `visual` names; every element is written."""

    def look(self, tensors: Mapping[str, NDArray[Any]]) -> Sequence[RowLook]:
        """What each token of a batch sees, for people to look at; one entry a row."""


class LengthLimit(NamedTuple):
    """How long a row may be, and what happens to a conversation that is longer."""

    max_length: int
    on_too_long: Literal["truncate", "skip"]


@dataclass(frozen=True, eq=False)
class RowLook:
    """A row of a batch as the model sees it.

    `unit`: int64 [L], which of the row's units the token stands for, -1 for text and padding. `sees`: int64 [L], how
    many of the row's units, counted from its first, the token may attend to. `says`: for each token, what the tensors
    say of it, in words; equal texts are one object. `pictures`: uint8 [height, width, 3] for each unit, as the tower
    gets it.
    """

    unit: NDArray[np.int64]
    sees: NDArray[np.int64]
    says: Sequence[str]
    pictures: Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class Choices:
    """What a configuration chooses, for a layout to settle; None where it says nothing.

    `vision`: the layout's own choices about pictures. `chat`: the form of the text. `model`: a model's own files.
    `template`: a chat template that takes the place of the model's. `train_on`: which answers are learned, all or the
    last. `positions`: which release's rule counts positions.
    """

    vision: Mapping[str, Any]
    chat: str | None = None
    model: ModelFiles | None = None
    template: str | None = None
    train_on: str | None = None
    positions: str | None = None

    @classmethod
    def none(cls) -> Self:
        """Nothing is chosen."""
        return cls({})


def tensor(name: str, dtype: str, *dims: str | int, optional: bool = False, lengths: str | None = None) -> SchemaEntry:
    """A line of a schema."""
    return SchemaEntry(name, dtype, dims, optional, None, lengths)


def drawn(name: str, *dims: str | int, normalise: Normalise, lengths: str | None = None) -> SchemaEntry:
    """A line for a tensor that pictures are drawn into: uint8, left out where there are none.

    `lengths`: the tensor that cuts it into pieces, which the client pads to the longest with zeros.
    """
    return SchemaEntry(name, "uint8", dims, True, normalise, lengths)
