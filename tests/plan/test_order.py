"""The order of a pool."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from owl_stream.plan.order import BlockOrder, FileOrder, FullOrder

PINNED = [5, 6, 8, 7, 9, 3, 1, 2, 4, 0]
COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


@given(COUNTS, st.integers(1, 5), st.integers(0, 2**64 - 1))
def test_block_order_is_a_bijection(counts: list[int], block_shards: int, key: int) -> None:
    """Whatever the shards, empty ones included."""
    places = np.arange(sum(counts))
    positions = BlockOrder(np.array(counts), block_shards, key).positions(places)
    assert np.array_equal(np.sort(positions), places)


@given(COUNTS, st.integers(1, 5), st.integers(0, 2**64 - 1))
def test_block_order_reads_a_block_of_shards_to_its_end(counts: list[int], block_shards: int, key: int) -> None:
    """Consecutive places come from `block_shards` shards with samples, and no shard is met in two blocks."""
    positions = BlockOrder(np.array(counts), block_shards, key).positions(np.arange(sum(counts)))
    shards = np.repeat(np.arange(len(counts)), counts)[positions].tolist()
    expected_blocks = -(-np.count_nonzero(counts) // block_shards)
    for _ in range(expected_blocks):
        block = set(dict.fromkeys(shards))
        if len(block) > block_shards:
            first_seen = list(dict.fromkeys(shards))
            block = set(first_seen[:block_shards])
        size = sum(counts[shard] for shard in block)
        assert set(shards[:size]) == block
        shards = shards[size:]
    assert not shards


def test_block_order_mixes_shards_and_samples() -> None:
    """Blocks are not the manifest's neighbours, and inside a block samples do not come shard by shard."""
    positions = BlockOrder(np.full(40, 25), 4, 1).positions(np.arange(1000))
    shards = positions // 25
    first_block = list(dict.fromkeys(shards[:100].tolist()))
    assert sorted(first_block) != list(range(min(first_block), min(first_block) + 4))
    assert np.count_nonzero(np.diff(shards[:100])) > 50


def test_block_order_depends_on_the_key() -> None:
    """Another epoch has other blocks."""
    places, counts = np.arange(1000), np.full(40, 25)
    first, second = (BlockOrder(counts, 4, key).positions(places) for key in (1, 2))
    assert not np.array_equal(first, second)


def test_the_block_order_never_changes_silently() -> None:
    """Pinned; see PLAN_VERSION."""
    assert BlockOrder(np.array([3, 0, 2, 4, 1]), 2, 7).positions(np.arange(10)).tolist() == PINNED


def test_full_order_takes_places_in_any_company() -> None:
    """A place's sample does not depend on which other places are asked."""
    order = FullOrder(100, 5)
    whole = order.positions(np.arange(100))
    assert np.array_equal(order.positions(np.array([99, 3, 50])), whole[[99, 3, 50]])


def test_file_order_is_the_identity() -> None:
    """`shuffle: none` keeps manifest order."""
    assert FileOrder().positions(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
