"""A conversation in tokens, and how it is written: chunk by chunk, because chunks are tokenised one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.conversation import IMAGE
from owl_stream.layouts.types import Tokenizer


@dataclass(frozen=True, eq=False)
class ChatTokens:
    """A whole conversation in tokens, of any length.

    `input_ids`: int64 [T]. `supervised`: ranges [begin, end) of the answers' tokens. `crop_starts`: int64 [C].
    `media_texts`: where media prompts stand, as far as `groups` needs it.
    """

    input_ids: NDArray[np.int64]
    supervised: tuple[tuple[int, int], ...]
    crop_starts: NDArray[np.int64]
    media_texts: tuple[MediaText, ...]

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Per medium the range [first, end) of tokens that must stay or go together: the medium's prompt, whatever is
        fused to it, and one token to see its last crop. Only a conversation that is too long asks for them.
        """
        return tuple(group for text in self.media_texts for group in text.groups())


class MediaText(NamedTuple):
    """A text with media prompts. `first`: position of its first token; `crop_starts`: those of its crops' first ones.

    `chunks`: first character and the tokens' character ranges within the chunk. `spans`: characters of each prompt.
    """

    first: int
    chunks: tuple[tuple[int, Sequence[tuple[int, int]]], ...]
    spans: tuple[tuple[int, int], ...]
    crop_starts: tuple[int, ...]

    def groups(self) -> Iterator[tuple[int, int]]:
        """Find the tokens of each span of characters."""
        ranges = np.array(
            [(start + begin, start + end) for start, offsets in self.chunks for begin, end in offsets], dtype=np.int64
        )
        for start, end in self.spans:
            inside = np.flatnonzero((ranges[:, 1] > start) & (ranges[:, 0] < end)) + self.first
            begin, stop = int(inside[0]), int(inside[-1]) + 1
            # A crop that starts at a row's last token is seen by no token at all: the model would not count it.
            stop = max(stop, *(crop + 2 for crop in self.crop_starts if crop < stop))
            yield begin, stop


@dataclass
class ChatWriter:
    """A conversation that grows by one chunk at a time; its fields become those of `ChatTokens`."""

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    supervised: list[tuple[int, int]] = field(default_factory=list)
    crop_starts: list[int] = field(default_factory=list)
    media_texts: list[MediaText] = field(default_factory=list)

    def write(self, text: str, supervised: bool = False) -> Sequence[tuple[int, int]]:
        """Append one chunk; returns the character range of each of its tokens, which may be costly to read."""
        if not text:
            return ()
        tokens, first, joined = self.tokenizer.encode(text), len(self.ids), self.ends_supervised
        self.ids += tokens.ids
        if supervised:
            if joined:
                first = self.supervised.pop()[0]
            self.supervised.append((first, len(self.ids)))
        return tokens.offsets

    def write_media(self, chunks: Iterable[tuple[int, str]], spans: Sequence[tuple[int, int]]) -> None:
        """Append a text with media: chunks by their first character, each crop's `<|image|>` one of its own.

        `spans`: the characters [first, end) of each medium's prompt.
        """
        first, first_crop = len(self.ids), len(self.crop_starts)
        written: list[tuple[int, Sequence[tuple[int, int]]]] = []
        for start, chunk in chunks:
            if chunk == IMAGE:
                self.crop_starts.append(len(self.ids))
            written.append((start, self.write(chunk)))
        if spans:
            crop_starts = tuple(self.crop_starts[first_crop:])
            self.media_texts.append(MediaText(first, tuple(written), tuple(spans), crop_starts))

    @property
    def ends_supervised(self) -> bool:
        """Whether the last token so far is learned."""
        return bool(self.supervised) and self.supervised[-1][1] == len(self.ids)

    def finish(self) -> ChatTokens:
        """What was written."""
        return ChatTokens(
            np.array(self.ids, dtype=np.int64),
            tuple(self.supervised),
            np.array(self.crop_starts, dtype=np.int64),
            tuple(self.media_texts),
        )
