"""A batch frame read back into rows: runs of tokens that see the same crops, and the crops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import FrameError
from owl_stream.wire import BatchHeader, Frame, RowInfo, tensor_views

IGNORE = -100
PALETTE = ("cyan", "green", "yellow", "magenta", "blue", "red")

Speller = Callable[[Iterable[int]], list[bytes]]
"""Ids -> the bytes that each stands for."""


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens that have all this in common. `sees`: how many of the row's crops they may attend to."""

    text: str
    tokens: int
    sees: int
    supervised: bool
    padding: bool


@dataclass(frozen=True, eq=False)
class BatchRow:
    """One row. `crops`: uint8 [n, 3, S, S]."""

    info: RowInfo
    runs: tuple[Run, ...]
    crops: NDArray[np.uint8]

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        return sum(run.tokens for run in self.runs if not run.padding)

    @property
    def supervised_tokens(self) -> int:
        """Tokens that are learned."""
        return sum(run.tokens for run in self.runs if run.supervised)

    def describe(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "shard": self.info.shard,
            "key": self.info.key,
            "status": self.info.status,
            "reason": self.info.reason,
            "replaces": self.info.replaces,
            "tokens": self.tokens,
            "supervised_tokens": self.supervised_tokens,
            "crops": len(self.crops),
            "runs": [vars(run) for run in self.runs],
        }


def read_rows(frame: Frame, spell: Speller | None) -> list[BatchRow]:
    """The rows of a batch frame; without a speller a run's text is its ids.

    Raises:
        FrameError: not a batch, or one without the tensors that every layout has.
    """
    header = frame.header
    if not isinstance(header, BatchHeader):
        raise FrameError(f"expected a batch, got a frame of kind {header.kind}")
    tensors = tensor_views(frame.payload, header.tensors)
    missing = {"input_ids", "labels", "attention_mask", "media_offset"} - tensors.keys()
    if missing:
        raise FrameError(f"a batch without {', '.join(sorted(missing))}")
    ragged = tensors.get("media_offset_lengths")
    views = _shifted(tensors["media_offset"]) if ragged is None else _ragged(tensors, ragged)
    pixels = tensors.get("pixel_values", np.empty((0, 3, 1, 1), np.uint8))
    rows = []
    for number, (info, (sees, first, last)) in enumerate(zip(header.rows, views, strict=True)):
        ids, learned = tensors["input_ids"][number], tensors["labels"][number] != IGNORE
        padding = tensors["attention_mask"][number] == 0
        rows.append(BatchRow(info, tuple(_runs(ids, sees, learned, padding, spell)), pixels[first:last]))
    return rows


_View = tuple[NDArray[np.int64], int, int]
"""How many crops each token sees, and which crops of the batch are the row's: first, last + 1."""


def _shifted(offsets: NDArray[np.int64]) -> Iterator[_View]:
    """240728: [..., 0] is where the row's crops begin, [..., 1] one behind the last that a token sees."""
    for row in offsets:
        first, last = int(row[-1, 0]), int(row[-1, 1])
        yield np.maximum(row[:, 1] - row[:, 0], 0), first, max(last, first)


def _ragged(tensors: dict[str, NDArray[Any]], lengths: NDArray[np.int64]) -> Iterator[_View]:
    """241101: where in its row each crop starts; a token sees those that start at it or before it."""
    positions = np.arange(tensors["input_ids"].shape[1])
    ends = [0, *np.cumsum(lengths).tolist()]
    for first, last in pairwise(ends):
        yield np.searchsorted(tensors["media_offset"][first:last], positions, side="right"), first, last


def _runs(
    ids: NDArray[np.int64],
    sees: NDArray[np.int64],
    learned: NDArray[np.bool_],
    padding: NDArray[np.bool_],
    spell: Speller | None,
) -> Iterator[Run]:
    alike = (np.diff(sees) == 0) & (np.diff(learned) == 0) & (np.diff(padding) == 0)
    edges = [0, *(np.flatnonzero(~alike) + 1).tolist(), len(ids)]
    for start, end in pairwise(edges):
        tokens = ids[start:end].tolist()
        if spell is None:
            text = "".join(f"{token} " for token in tokens)
        else:
            text = b"".join(spell(tokens)).decode("utf-8", "replace")
        yield Run(text, end - start, int(sees[start]), bool(learned[start]), bool(padding[start]))
