"""A bounded local search over deals: swap two rows while that makes the dearest rank cheaper, then the padding less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

_PAIRS = 1 << 13
"""Swaps weighed at a time; more candidate rows than that are thinned out evenly."""

_MAX_SWAPS = 256
_WORK = 1 << 18
"""Swaps weighed in all, so that a global batch of 65536 costs about what one of 512 does."""

_FRACTION_BITS = 20
"""Of a padding growth per gain, which is compared in whole numbers so that every platform deals alike."""


@dataclass(frozen=True)
class Weights:
    """What dealing weighs a padded text token and a vision token."""

    text_token: int
    vision_token: int


class Hand:
    """The rows of a step while they are dealt: `lengths` and `vision` tokens, int64 [G]; the first `good` are no
    fillers.

    A deal is `groups`, int64 [W * M, m]: micro-batches of row numbers, rank r's are r*M to (r+1)*M - 1.
    """

    def __init__(
        self, lengths: NDArray[np.int64], vision: NDArray[np.int64], good: int, world_size: int, weights: Weights
    ) -> None:
        self.lengths, self.vision, self.good = lengths, vision, good
        self.world_size, self.weights = world_size, weights

    def padded(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Text tokens of each micro-batch, padding included."""
        padded: NDArray[np.int64] = self.lengths[groups].max(axis=1) * groups.shape[1]
        return padded

    def group_costs(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Cost of each micro-batch."""
        vision: NDArray[np.int64] = self.vision[groups].sum(axis=1)
        costs: NDArray[np.int64] = self.padded(groups) * self.weights.text_token + vision * self.weights.vision_token
        return costs

    def score(self, groups: NDArray[np.int64]) -> tuple[int, int]:
        """(cost of the dearest rank, padded tokens of all): less is better."""
        ranks = self.group_costs(groups).reshape(self.world_size, -1).sum(axis=1)
        return int(ranks.max()), int(self.padded(groups).sum())


def search(hand: Hand, balanced: NDArray[np.int64], tight: NDArray[np.int64]) -> NDArray[np.int64]:
    """The best of three deals after swaps, by `hand.score`. Pure and deterministic.

    How cheap the dearest rank can be is found first, from the `balanced` start and from the `tight` one, which pads
    least. Then the tight one is brought down to just that, in swaps that pad as little as they can.
    """
    tables = [_Table(hand, start.copy()) for start in (balanced, tight, tight)]
    for table in tables[:2]:
        _repeat(table.make_cheaper)
    ceiling = min(int(table.rank_costs.max()) for table in tables[:2])
    _repeat(partial(tables[2].make_gently_cheaper, ceiling=ceiling))
    _repeat(partial(tables[2].make_cheaper, ceiling=ceiling))
    cheapest = [table for table in tables if table.rank_costs.max() <= ceiling]
    for table in cheapest:
        _repeat(table.make_tighter)
    return min((table.groups for table in cheapest), key=hand.score)


def _repeat(swap: Callable[[int], int]) -> None:
    """Swap until no swap helps or the work is done."""
    work = 0
    for turn in range(_MAX_SWAPS):
        pairs = swap(turn)
        work += pairs
        if pairs == 0 or work > _WORK:
            return


class _Table:
    """A deal under change, with what the next swap needs to know of it."""

    def __init__(self, hand: Hand, groups: NDArray[np.int64]) -> None:
        self.hand, self.groups, self._flat = hand, groups, groups.reshape(-1)
        self.width = groups.shape[1]
        self.micros = len(groups) // hand.world_size
        self._slots = np.arange(groups.size)
        self._look()

    def make_cheaper(self, turn: int, ceiling: int = 0) -> int:
        """Do the swap that leaves the dearest rank cheapest; swaps weighed, or 0 if none helps or none is needed."""
        if self.rank_costs.max() <= ceiling:
            return 0
        swaps, cost = self._swaps_of_dearest(turn)
        return self._do(swaps, swaps.dearer < cost, swaps.dearer, swaps.growth)

    def make_gently_cheaper(self, turn: int, ceiling: int) -> int:
        """Do the swap that pads least for what it gains towards the ceiling; as `make_cheaper`."""
        if self.rank_costs.max() <= ceiling:
            return 0
        swaps, cost = self._swaps_of_dearest(turn)
        gain = np.maximum(cost - np.maximum(swaps.dearer, ceiling), 1)
        return self._do(swaps, swaps.dearer < cost, (swaps.growth << _FRACTION_BITS) // gain, swaps.dearer)

    def make_tighter(self, turn: int) -> int:
        """Do the swap that saves most padding and makes no rank dearer than the dearest; as `make_cheaper`."""
        alone = np.flatnonzero(self.longest > self.second)
        lengths = self.hand.lengths[self.groups[alone]]
        swaps = _Swaps(self, alone * self.width + lengths.argmax(axis=1), self._slots, turn)
        fits = (swaps.growth < 0) & (swaps.dearer <= self.rank_costs.max())
        return self._do(swaps, fits, swaps.growth, swaps.dearer)

    def _swaps_of_dearest(self, turn: int) -> tuple[_Swaps, int]:
        dearest = int(self.rank_costs.argmax())
        span = self.micros * self.width
        ours = self._slots[dearest * span : (dearest + 1) * span]
        return _Swaps(self, ours, self._slots, turn), int(self.rank_costs[dearest])

    def _do(self, swaps: _Swaps, helps: NDArray[np.bool_], *order: NDArray[np.int64]) -> int:
        candidates = np.flatnonzero(helps & swaps.allowed)
        if not candidates.size:
            return 0
        for values in order:
            chosen = values.ravel()[candidates]
            candidates = candidates[chosen == chosen.min()]
        ours, theirs = np.unravel_index(candidates[0], helps.shape)
        here, there = swaps.ours[ours], swaps.theirs[theirs]
        self._flat[[here, there]] = self._flat[[there, here]]
        self._look()
        return helps.size

    def _look(self) -> None:
        lengths = np.sort(self.hand.lengths[self.groups], axis=1)
        self.longest: NDArray[np.int64] = lengths[:, -1]
        self.second: NDArray[np.int64] = lengths[:, -2] if self.width > 1 else np.zeros_like(self.longest)
        self.good: NDArray[np.int64] = (self.groups < self.hand.good).sum(axis=1)
        costs = self.hand.group_costs(self.groups)
        self.rank_costs: NDArray[np.int64] = costs.reshape(self.hand.world_size, -1).sum(axis=1)


class _Swaps:
    """What swapping a row of `ours` with one of `theirs` (slots of the table) would change, as [ours, theirs].

    `growth`: of the longest rows of both micro-batches together. `dearer`: cost of the dearer of both ranks after it.
    """

    def __init__(self, table: _Table, ours: NDArray[np.int64], theirs: NDArray[np.int64], turn: int) -> None:
        self.ours, self.theirs = _thinned(ours, theirs, turn)
        one, two = _Side(table, self.ours[:, None]), _Side(table, self.theirs[None, :])
        growth_one = np.maximum(one.rest, two.lengths) - one.longest
        growth_two = np.maximum(two.rest, one.lengths) - two.longest
        self.growth = growth_one + growth_two
        token = table.width * table.hand.weights.text_token
        moved = two.vision_costs - one.vision_costs
        self.dearer = np.maximum(
            one.rank_costs + growth_one * token + moved, two.rank_costs + growth_two * token - moved
        )
        if table.micros > 1:
            self.dearer = np.where(one.ranks == two.ranks, one.rank_costs + self.growth * token, self.dearer)
        self.allowed = one.groups != two.groups
        if table.hand.good < len(table.hand.lengths):
            self.allowed &= (two.good | ~one.last_good) & (one.good | ~two.last_good)


class _Side:
    """One side of the swaps: what stands in its slots, looked up once per slot rather than once per pair.

    `rest`: longest row of the micro-batch once this one has left. `last_good`: the row is the only one there that is no
    filler, so it is not swapped for a filler.
    """

    def __init__(self, table: _Table, slots: NDArray[np.int64]) -> None:
        hand = table.hand
        rows = table.groups.ravel()[slots]
        self.groups = slots // table.width
        self.ranks = self.groups // table.micros
        self.rank_costs = table.rank_costs[self.ranks]
        self.lengths = hand.lengths[rows]
        self.longest = table.longest[self.groups]
        self.rest = np.where(self.lengths == self.longest, table.second[self.groups], self.longest)
        self.vision_costs = hand.vision[rows] * hand.weights.vision_token
        self.good = rows < hand.good
        self.last_good = self.good & (table.good[self.groups] == 1)


def _thinned(
    ours: NDArray[np.int64], theirs: NDArray[np.int64], turn: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every n-th slot of either, so that the pairs stay few; another turn takes other slots."""
    most = max(_PAIRS // max(len(ours), 1), int(_PAIRS**0.5))
    step = -(-len(theirs) // most)
    theirs = theirs[turn % step :: step]
    step = max(1, -(-len(ours) * len(theirs) // _PAIRS))
    return ours[turn % step :: step], theirs
