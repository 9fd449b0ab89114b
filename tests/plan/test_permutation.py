"""Permutations without memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from owl_stream.plan.permutation import Permutation, derive_key

Mapping = Callable[[NDArray[np.int64]], NDArray[np.int64]]


PINNED_KEYS = (0xE220A8397B1DCDAF, 0x177449921422E6C0)
PINNED_TWELVE = [4, 1, 11, 6, 5, 3, 0, 7, 2, 10, 9, 8]
PINNED_LARGE = [34866759, 41352311, 38413712, 16770794, 67684743]


def all_of(size: int, mapping: Mapping) -> NDArray[np.int64]:
    """Where every place goes."""
    return mapping(np.arange(size, dtype=np.int64))


@pytest.mark.parametrize("key", [0, 1, derive_key(7)])
def test_is_a_bijection_for_every_small_size(key: int) -> None:
    """Sizes 0 to 260 hit squares, primes and the smallest networks."""
    for size in range(261):
        assert sorted(all_of(size, Permutation(size, key)).tolist()) == list(range(size))


@given(st.integers(1, 20_000), st.integers(0, 2**64 - 1))
def test_is_a_bijection(size: int, key: int) -> None:
    """Whatever the size and the key."""
    assert np.array_equal(np.sort(all_of(size, Permutation(size, key))), np.arange(size))


@pytest.mark.parametrize("size", [100_000_000, 2**32 - 1, 2**40 + 15])
def test_large_sizes_stay_in_range_and_distinct(size: int) -> None:
    """Both ends and a hundred thousand places between."""
    rng = np.random.default_rng(size)
    places = np.unique(np.concatenate([np.arange(1000), size - 1 - np.arange(1000), rng.integers(0, size, 100_000)]))
    values = Permutation(size, 5)(places.astype(np.int64))
    assert values.min() >= 0
    assert values.max() < size
    assert len(np.unique(values)) == len(places)


def test_one_place_at_a_time_gives_the_same_order() -> None:
    """The walk along a cycle does not depend on what else is asked."""
    permutation = Permutation(997, 3)
    together = all_of(997, permutation)
    assert [int(permutation(np.array([place]))[0]) for place in range(997)] == together.tolist()


def test_the_order_never_changes_silently() -> None:
    """Pinned: a change here changes every saved run's order, so PLAN_VERSION must rise with it."""
    assert derive_key(0) == PINNED_KEYS[0]
    assert derive_key(3, 1, 2) == PINNED_KEYS[1]
    assert all_of(12, Permutation(12, derive_key(0))).tolist() == PINNED_TWELVE
    assert Permutation(100_000_000, derive_key(1))(np.arange(5)).tolist() == PINNED_LARGE


def test_keys_depend_on_every_word_and_its_place() -> None:
    """Epochs, pools and seeds never share an order by accident."""
    words = [(), *itertools.product(range(4), repeat=1), *itertools.product(range(4), repeat=2)]
    keys = {derive_key(seed, *more) for seed in range(4) for more in words}
    assert len(keys) == 4 * len(words)


@pytest.mark.parametrize(("size", "permutations"), [(2, 2), (3, 6), (4, 24), (5, 120)])
def test_small_permutations_are_equally_likely(size: int, permutations: int) -> None:
    """Chi-square over all permutations of a small size, 20 expected of each; 5 standard deviations allowed."""
    seen = Counter(tuple(all_of(size, Permutation(size, derive_key(9, n))).tolist()) for n in range(20 * permutations))
    statistic = sum((count - 20) ** 2 / 20 for count in seen.values()) + 20 * (permutations - len(seen))
    assert statistic < (permutations - 1) + 5 * (2 * (permutations - 1)) ** 0.5


def spread(values: NDArray[np.int64], cells: int = 20) -> float:
    """Chi-square of (where a place lies, where it goes) on a grid, in standard deviations from what chance gives."""
    size = len(values)
    grid = np.zeros((cells, cells))
    np.add.at(grid, (np.arange(size) * cells // size, values * cells // size), 1)
    expected = size / cells**2
    freedom = (cells - 1) ** 2
    return float((((grid - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


def neighbours(values: NDArray[np.int64], cells: int = 20) -> float:
    """The same of (where a place goes, where the next one goes)."""
    size = len(values)
    grid = np.zeros((cells, cells))
    np.add.at(grid, (values[:-1] * cells // size, values[1:] * cells // size), 1)
    expected = (size - 1) / cells**2
    freedom = (cells - 1) ** 2
    return float((((grid - expected) ** 2 / expected).sum() - freedom) / (2 * freedom) ** 0.5)


@pytest.mark.parametrize("size", [4_000, 40_000, 65_536])
@pytest.mark.parametrize("statistic", [spread, neighbours])
def test_looks_random(size: int, statistic: Callable[[NDArray[np.int64]], float]) -> None:
    """Neither where a sample goes nor what follows it can be told from its place; keys are fixed, so is the result."""
    values = [statistic(all_of(size, Permutation(size, derive_key(11, key)))) for key in range(20)]
    assert max(values) < 5
    assert abs(float(np.mean(values))) < 1.5


@pytest.mark.parametrize("statistic", [spread, neighbours])
@pytest.mark.parametrize("mapping", [lambda places: places, lambda places: places * 4_001 % 40_000])
def test_the_randomness_test_can_fail(mapping: Mapping, statistic: Callable[[NDArray[np.int64]], float]) -> None:
    """The identity and a linear order are told from a random one."""
    assert statistic(all_of(40_000, mapping)) > 5


def test_epochs_are_not_each_others_shift() -> None:
    """Two keys agree on about as many places as chance would have it."""
    first, second = (all_of(40_000, Permutation(40_000, derive_key(0, epoch))) for epoch in (0, 1))
    assert Counter((second - first) % 40_000).most_common(1)[0][1] < 12
