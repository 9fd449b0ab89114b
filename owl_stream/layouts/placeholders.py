"""Media in a text as runs of one placeholder: written once a run, tokenised, then repeated as ids.

A processor writes a picture's placeholder hundreds of times into the text and tokenises all of it. The placeholder is
an added token of the tokenizer, so it never merges with what is beside it. Hence a text that holds one placeholder a
run gives the same ids after its id has been repeated, and the text around it is still tokenised as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import SampleError


class Replacement(NamedTuple):
    """What replaces one medium's marker: a text with one placeholder a run, and how many tokens each run has."""

    text: str
    runs: tuple[int, ...]


class RepeatedIds(NamedTuple):
    """Ids with each run at its full length, T tokens made of t.

    `input_ids`: int64 [T]. `starts`: int64 [t + 1], where each of the t tokens begins in them; the last one is T. So
    tokens [a, b) of the short text are [starts[a], starts[b]) of the long one.
    """

    input_ids: NDArray[np.int64]
    starts: NDArray[np.int64]


def repeat(ids: Sequence[int], placeholders: Sequence[int], runs: Sequence[int]) -> RepeatedIds:
    """Repeat each of `placeholders` in `ids` as often as its run has tokens; `runs` come in the order of `ids`.

    Raises:
        SampleError: `placeholder_count`, there are more or fewer placeholders than runs: the text spells one out.
    """
    short = np.asarray(ids, dtype=np.int64)
    places = np.flatnonzero(np.isin(short, placeholders))
    if len(places) != len(runs):
        raise SampleError(
            "placeholder_count",
            f"expected token {' or '.join(map(str, placeholders))} {len(runs)} times, once for each medium or part of "
            f"one, got {len(places)}; a text that spells it out must write it differently",
        )
    counts = np.ones(len(short), dtype=np.int64)
    counts[places] = runs
    starts = np.zeros(len(short) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return RepeatedIds(np.repeat(short, counts), starts)
