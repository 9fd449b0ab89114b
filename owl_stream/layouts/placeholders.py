"""Media in a text as runs of one placeholder: written once a run, tokenised, then repeated as ids.

A processor writes a picture's placeholder hundreds of times into the text and tokenises all of it. The placeholder is
an added token of the tokenizer, so it never merges with what is beside it. Hence a text that holds one placeholder a
run gives the same ids after its id has been repeated, and the text around it is still tokenised as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import SampleError


class Replacement(NamedTuple):
    """What replaces one medium's marker: a text with one placeholder a run, and how many tokens each run has."""

    text: str
    runs: tuple[int, ...]


class FilledText(NamedTuple):
    """A text whose markers are replaced.

    `runs`: tokens of each run, in the order of the text. `spans`: characters [first, end) of each replacement.
    """

    text: str
    runs: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


class RepeatedIds(NamedTuple):
    """Ids with each run at its full length, T tokens made of t.

    `input_ids`: int64 [T]. `starts`: int64 [t + 1], where each of the t tokens begins in them; the last one is T. So
    tokens [a, b) of the short text are [starts[a], starts[b]) of the long one.
    """

    input_ids: NDArray[np.int64]
    starts: NDArray[np.int64]


def fill(text: str, replacements: Mapping[str, Sequence[Replacement]]) -> FilledText:
    """Replace markers in the order of the text, as `ProcessorMixin.get_text_with_replacements` does in transformers.

    `replacements`: per marker what replaces its first, second, ... place. Markers within replacements stay.

    Raises:
        SampleError: `placeholder_count`, the text has more or fewer of a marker than it has replacements.
    """
    for marker, given in replacements.items():
        _check_count(marker, text.count(marker), len(given))
    waiting = {marker: iter(given) for marker, given in replacements.items()}
    parts: list[str] = []
    runs: list[int] = []
    spans: list[tuple[int, int]] = []
    length = behind = 0
    for start, marker in _found(text, replacements):
        replacement = next(waiting[marker])
        parts += [text[behind:start], replacement.text]
        length += start - behind
        spans.append((length, length + len(replacement.text)))
        runs += replacement.runs
        length, behind = spans[-1][1], start + len(marker)
    return FilledText("".join([*parts, text[behind:]]), tuple(runs), tuple(spans))


def repeat(ids: Sequence[int], placeholders: Sequence[int], runs: Sequence[int]) -> RepeatedIds:
    """Repeat each of `placeholders` in `ids` as often as its run has tokens; `runs` come in the order of `ids`.

    Raises:
        SampleError: `placeholder_count`, there are more or fewer placeholders than runs: the text spells one out.
    """
    short = np.asarray(ids, dtype=np.int64)
    places = np.flatnonzero(np.isin(short, placeholders))
    _check_count(f"token {' or '.join(map(str, placeholders))}", len(places), len(runs))
    counts = np.ones(len(short), dtype=np.int64)
    counts[places] = runs
    starts = np.zeros(len(short) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return RepeatedIds(np.repeat(short, counts), starts)


def _found(text: str, markers: Mapping[str, object]) -> Iterator[tuple[int, str]]:
    """Where markers stand: (first character, marker)."""
    if markers:
        for match in re.finditer("|".join(map(re.escape, markers)), text):
            yield match.start(), match.group()


def _check_count(marker: str, got: int, expected: int) -> None:
    if got != expected:
        raise SampleError(
            "placeholder_count",
            f"expected {marker} {expected} times, once for each medium or part of one, got {got}; a text that spells "
            "it out must write it differently",
        )
