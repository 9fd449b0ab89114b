"""Conversation -> tokens: the ChatML text of mPLUG-Owl3, tokenised chunk by chunk.

Chunks are tokenised one at a time because the released processor does so and a byte pair encoding of the whole text
would merge across their borders. Media prompts are put into the text *before* it is split at `<|image|>`, so the text
of neighbouring prompts shares a chunk and may share a token; hence groups are ranges that can overlap by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.layouts.media import IMAGE, MARKER
from owl_stream.layouts.types import Tokenizer, Turn

START, END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


@dataclass(frozen=True, eq=False)
class ChatTokens:
    """A whole conversation in tokens, of any length.

    `input_ids`: int64 [T]. `supervised`: ranges [begin, end) of the answers' tokens. `crop_starts`: int64 [C].
    `turns`: the user's, as far as `groups` needs them.
    """

    input_ids: NDArray[np.int64]
    supervised: tuple[tuple[int, int], ...]
    crop_starts: NDArray[np.int64]
    turns: tuple[UserTurn, ...]

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Per medium the range [first, end) of tokens that must stay or go together: the medium's prompt, whatever is
        fused to it, and one token to see its last crop. Only a conversation that is too long asks for them.
        """
        return tuple(group for turn in self.turns for group in turn.groups())


class UserTurn(NamedTuple):
    """A user's turn with media. `first`: position of its first token; `crop_starts`: those of its crops' first ones.

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


def encode_chat(messages: Sequence[Turn], prompts: Sequence[str], tokenizer: Tokenizer) -> ChatTokens:
    """Tokenise a checked conversation; `prompts` replace its media markers one by one."""
    writer, waiting = _Writer(tokenizer), iter(prompts)
    if messages[0].role != "system":
        writer.write(f"{START}system\n{END}")
    for turn in messages:
        if turn.role == "system":
            writer.write(f"{START}system\n{turn.content}{END}")
        elif turn.role == "user":
            writer.write_user(turn.content, waiting)
        else:
            writer.write(f"\n{START}assistant\n")
            writer.write(f"{turn.content}{END}", supervised=turn.learned)
            writer.write(END_OF_TEXT, supervised=turn.learned)
    return writer.finish()


@dataclass
class _Writer:
    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    supervised: list[tuple[int, int]] = field(default_factory=list)
    crop_starts: list[int] = field(default_factory=list)
    turns: list[UserTurn] = field(default_factory=list)

    def write(self, text: str, supervised: bool = False) -> Sequence[tuple[int, int]]:
        """Append one chunk; returns the character range of each of its tokens, which may be costly to read."""
        if not text:
            return ()
        tokens, first = self.tokenizer.encode(text), len(self.ids)
        self.ids += tokens.ids
        if supervised:
            if self.supervised and self.supervised[-1][1] == first:
                first = self.supervised.pop()[0]
            self.supervised.append((first, len(self.ids)))
        return tokens.offsets

    def write_user(self, content: str, prompts: Iterator[str]) -> None:
        """Append a user turn whose markers are replaced by the next prompts."""
        text, spans = _with_prompts(f"\n{START}user\n{content}{END}", prompts)
        first, first_crop = len(self.ids), len(self.crop_starts)
        chunks: list[tuple[int, Sequence[tuple[int, int]]]] = []
        for start, chunk in _chunks(text):
            if chunk == IMAGE:
                self.crop_starts.append(len(self.ids))
            chunks.append((start, self.write(chunk)))
        if spans:
            self.turns.append(UserTurn(first, tuple(chunks), tuple(spans), tuple(self.crop_starts[first_crop:])))

    def finish(self) -> ChatTokens:
        return ChatTokens(
            np.array(self.ids, dtype=np.int64),
            tuple(self.supervised),
            np.array(self.crop_starts, dtype=np.int64),
            tuple(self.turns),
        )


def _with_prompts(text: str, prompts: Iterator[str]) -> tuple[str, list[tuple[int, int]]]:
    """Replace each media marker by the next prompt; also returns where each prompt lies in the new text."""
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    length = behind = 0
    for marker in MARKER.finditer(text):
        prompt = next(prompts)
        length += marker.start() - behind
        spans.append((length, length + len(prompt)))
        parts += [text[behind : marker.start()], prompt]
        length, behind = length + len(prompt), marker.end()
    return "".join([*parts, text[behind:]]), spans


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """Split at every `<|image|>`, which is a chunk of its own; yields (first character, chunk)."""
    start = 0
    while (found := text.find(IMAGE, start)) >= 0:
        if found > start:
            yield start, text[start:found]
        yield found, IMAGE
        start = found + len(IMAGE)
    yield start, text[start:]
