"""A row of a batch, as a server or an assembler describes it, as runs of text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from owl_stream.wire import LookRow

PALETTE = ("cyan", "green", "yellow", "magenta", "blue", "red")

Speller = Callable[[Iterable[int]], list[bytes]]
"""Ids -> the bytes that each stands for."""


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens that have all this in common. `sees`: how many of the row's units they may attend to."""

    text: str
    tokens: int
    sees: int
    supervised: bool


def runs_of(row: LookRow, spell: Speller | None) -> list[Run]:
    """The tokens of a row that are not padding; without a speller a run's text is its ids."""
    sees, learned = np.zeros(len(row.ids), dtype=np.int64), np.zeros(len(row.ids), dtype=bool)
    for run in row.runs:
        sees[run.begin : run.end] = run.sees
    for begin, end in row.supervised:
        learned[begin:end] = True
    changes = np.flatnonzero((np.diff(sees) != 0) | (np.diff(learned) != 0)) + 1
    return [
        Run(_text(row.ids[begin:end], spell), end - begin, int(sees[begin]), bool(learned[begin]))
        for begin, end in pairwise([0, *changes.tolist(), len(row.ids)])
        if begin < end
    ]


def pictures_of(row: LookRow) -> list[NDArray[np.uint8]]:
    """The pictures of a row's units: uint8 [height, width, 3]."""
    return [np.frombuffer(each.rgb, np.uint8).reshape(each.height, each.width, 3) for each in row.pictures]


def supervised_tokens(row: LookRow) -> int:
    """How many tokens are learned."""
    return sum(end - begin for begin, end in row.supervised)


def _text(ids: Sequence[int], spell: Speller | None) -> str:
    if spell is None:
        return "".join(f"{token} " for token in ids)
    return b"".join(spell(ids)).decode("utf-8", "replace")
