"""Which characters of a rendered conversation are learned: those that the model itself would have to write.

A template that marks them (`{% generation %}`) is believed. From any other they follow by prefix: the text of the turns
before an answer, with the prompt for one, must begin the text with the answer, and that the whole text. What is between
the two is learned: the answer, and whatever closes its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from owl_stream.errors import SampleError
from owl_stream.layouts.template_sandbox import Rendering

_QUOTED = 60
"""How many characters of two texts that should be equal an error shows."""


class Write(Protocol):
    """Renders a conversation's first `count` turns, with the prompt for an answer behind them if asked."""

    def __call__(self, count: int, prompt: bool = False) -> Rendering:
        """Render."""


def by_marks(whole: Rendering, wanted: Mapping[int, bool]) -> list[tuple[int, int]]:
    """Ranges of characters from the template's marks. `wanted`: for each assistant turn whether it is learned.

    Raises:
        SampleError: `template_marks`, a mark is not where its text is, or some turn is not learned and the template
            does not tell which turn a mark is for.
    """
    if not any(wanted.values()):
        return []
    text, every, ranges, behind = whole.text, all(wanted.values()), [], 0
    for begin, marked, turn in whole.marks:
        end = begin + len(marked)
        if begin < behind or text[begin:end] != marked:
            detail = f"expected {_quoted(marked)} at character {begin}, got {_quoted(text[begin:end])}"
            raise SampleError("template_marks", f"{detail}; the chat template changes text that it has marked")
        if turn is None and not every:
            detail = f"expected a mark for one assistant turn, got {_quoted(marked)} at character {begin} for none"
            raise SampleError("template_marks", f"{detail} or several; learn all turns, or render without marks")
        if every or (turn is not None and wanted[turn]):
            ranges.append((begin, end))
        behind = end
    return ranges


def by_prefix(text: str, turns: int, wanted: Mapping[int, bool], write: Write) -> list[tuple[int, int]]:
    """Ranges of characters of the learned turns of a conversation of `turns` turns, whose whole text is `text`.

    Only learned turns are looked at, so each text is written once, and a template that rewrites earlier turns still
    serves where just the last one is learned.

    Raises:
        SampleError: `template_prefix`, naming the turn and where the texts differ.
    """
    ranges = []
    for turn in [turn for turn, learned in wanted.items() if learned]:
        before = write(turn, prompt=True).text
        answered = text if turn + 1 == turns else write(turn + 1).text
        _check_begins(
            turn, "the turns before it, with the prompt for an answer, to begin that with it", before, answered
        )
        _check_begins(turn, "the turns up to it to begin the whole text", answered, text)
        ranges.append((len(before), len(answered)))
    return ranges


def joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same characters in ranges that are neither empty nor touch each other."""
    out: list[tuple[int, int]] = []
    for begin, end in ranges:
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        elif begin < end:
            out.append((begin, end))
    return tuple(out)


def _check_begins(turn: int, expected: str, short: str, long: str) -> None:
    if long.startswith(short):
        return
    at = next((at for at, (one, other) in enumerate(zip(short, long, strict=False)) if one != other), len(long))
    raise SampleError(
        "template_prefix",
        f"message {turn} (assistant): expected the text of {expected}, but from character {at} on they are "
        f"{_quoted(short[at:])} and {_quoted(long[at:])}: the chat template rewrites earlier turns; learn only the "
        "last one (`train_on: last`), or use a template with `{% generation %}` marks",
    )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}...")
