"""The local search: what it believes of a swap is what the swap does."""

from __future__ import annotations

import numpy as np
import pytest

from owl_stream.plan import search
from owl_stream.plan.search import Hand, Weights


@pytest.mark.parametrize(
    ("world_size", "micros", "width", "good"), [(3, 2, 3, 18), (2, 3, 2, 9), (3, 1, 4, 5), (1, 4, 1, 4)]
)
def test_a_swap_changes_what_was_foretold(world_size: int, micros: int, width: int, good: int) -> None:
    """Growth of the longest rows, cost of the dearer rank, and whether a micro-batch loses its last row."""
    rng = np.random.default_rng(good)
    size = world_size * micros * width
    lengths = np.where(np.arange(size) < good, rng.integers(2, 9, size), 1)
    crops = np.where(np.arange(size) < good, rng.integers(0, 4, size), 0)
    hand = Hand(lengths, crops, good, world_size, Weights(2, 7))
    spread = rng.permutation(size).reshape(world_size * micros, width)
    table = search._Table(hand, spread.copy())
    slots = np.arange(size)
    swaps = search._Swaps(table, slots, slots, 0)
    for one, two in np.ndindex(size, size):
        after = spread.copy().reshape(-1)
        after[[one, two]] = after[[two, one]]
        after = after.reshape(spread.shape)
        if one // width == two // width:
            assert not swaps.allowed[one, two]
            continue
        before_good, after_good = (spread < good).any(axis=1), (after < good).any(axis=1)
        assert swaps.allowed[one, two] == bool((after_good | ~before_good).all())
        assert swaps.growth[one, two] * width == hand.padded(after).sum() - hand.padded(spread).sum()
        ranks = hand.group_costs(after).reshape(world_size, -1).sum(axis=1)
        involved = [one // width // micros, two // width // micros]
        assert swaps.dearer[one, two] == ranks[involved].max()


def test_many_slots_are_thinned_evenly_and_every_turn_takes_others() -> None:
    """However many there are, the pairs stay few; few slots are all taken."""
    ours, theirs = np.arange(8192), np.arange(65536)
    turns = [search._thinned(ours, theirs, turn) for turn in range(50)]
    for mine, yours in turns:
        assert len(mine) * len(yours) <= 1.1 * search._PAIRS
        assert mine[-1] - mine[0] > 0.9 * len(ours)
        assert yours[-1] - yours[0] > 0.9 * len(theirs)
    assert len({int(mine[0]) for mine, _ in turns}) == len({int(yours[0]) for _, yours in turns}) == 50
    few = search._thinned(np.arange(8), np.arange(32), 5)
    assert (len(few[0]), len(few[1])) == (8, 32)
