"""Conversation -> tokens as the mPLUG-Owl3 templates of ms-swift have it: `chat: swift`.

Written from what ms-swift 4.6.0 makes (tests/golden/make_swift.py), its peculiarities included. A text that neither a
medium nor a border of what is learned interrupts is tokenised as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from owl_stream.layouts.conversation import MARKER
from owl_stream.layouts.owl3.chat import END, END_OF_TEXT, START
from owl_stream.layouts.owl3.chat_tokens import ChatTokens, ChatWriter
from owl_stream.layouts.owl3.media import split_at_images
from owl_stream.layouts.types import Tokenizer, Turn

TURN_END = f"{END}\n"


def encode_swift(messages: Sequence[Turn], prompts: Sequence[str], tokenizer: Tokenizer) -> ChatTokens:
    """Tokenise a checked conversation; `prompts` replace its media markers one by one, each with a newline behind it.

    A turn's end is learned with the answer before it. The last turn's end is learned even if its answer is not, and
    left out where the answer has spelled it out itself.
    """
    writer, waiting = ChatWriter(tokenizer), iter(prompts)
    text = _Text(writer)
    system = messages[0].content if messages[0].role == "system" else ""
    text.add(f"{START}system\n{system}{TURN_END}")
    rounds = list(_rounds(messages))
    for number, (question, answers) in enumerate(rounds, 1):
        _write_question(text, question, waiting)
        for answer in answers:
            text.add(answer.content, answer.learned)
        text.flush()
        if number < len(rounds):
            writer.write(TURN_END, supervised=writer.ends_supervised)
        elif answers and not answers[-1].content.endswith((END, END_OF_TEXT)):
            writer.write(TURN_END, supervised=True)
    return writer.finish()


def _rounds(messages: Sequence[Turn]) -> Iterator[tuple[str, list[Turn]]]:
    """Questions and the answers to each. Neighbours of one role count as one; a leading answer answers nothing."""
    question: str | None = None
    for role, turns in groupby(messages, key=lambda turn: turn.role):
        if role == "user":
            question = "".join(turn.content for turn in turns)
        elif role == "assistant":
            yield question or "", list(turns)
            question = None
    if question is not None:
        yield question, []


def _write_question(text: _Text, question: str, prompts: Iterator[str]) -> None:
    """A user's turn and the assistant's header: media apart from the text around them."""
    asked = f"{START}user\n{question}{TURN_END}{START}assistant\n"
    behind = 0
    for marker in MARKER.finditer(asked):
        text.add(asked[behind : marker.start()])
        text.flush()
        _write_prompt(text.writer, next(prompts))
        text.add("\n")
        behind = marker.end()
    text.add(asked[behind:])


def _write_prompt(writer: ChatWriter, prompt: str) -> None:
    """A medium's prompt. What follows its last `<|image|>` (`<|end_cut|>`) is tokenised letter by letter."""
    *chunks, (start, tail) = split_at_images(prompt)
    writer.write_media([*chunks, *enumerate(tail, start)], [(0, len(prompt))])


@dataclass
class _Text:
    """Gathers pieces of text into chunks: one ends where what is learned begins or ends."""

    writer: ChatWriter
    pieces: list[str] = field(default_factory=list)
    learned: bool = False

    def add(self, piece: str, learned: bool = False) -> None:
        """Append a piece."""
        if learned != self.learned:
            self.flush()
        self.learned = learned
        self.pieces.append(piece)

    def flush(self) -> None:
        """Write what was gathered as one chunk."""
        self.writer.write("".join(self.pieces), supervised=self.learned)
        self.pieces.clear()
