"""The order of a pool in an epoch: which of its samples stands at place p. Never holds a list of samples."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from owl_stream.plan.permutation import Permutation, derive_key


class Order(Protocol):
    """A bijection from the places of an epoch to the positions of a pool."""

    def positions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pool positions of the samples at these places, int64 [n]."""


class FileOrder:
    """Manifest order, every epoch the same."""

    def positions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places themselves."""
        return places


class FullOrder:
    """Every order is possible, so any two samples may stand side by side."""

    def __init__(self, size: int, key: int) -> None:
        self._permutation = Permutation(size, key)

    def positions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Permuted over the whole pool."""
        return self._permutation(places)


class BlockOrder:
    """Shards are permuted and taken `block_shards` at a time; samples are permuted inside such a block.

    So only one block's shards are read at a time (two where a window crosses into the next). Holds a few numbers per
    shard. Shards without a sample of the pool take no part.
    """

    def __init__(self, counts_by_shard: NDArray[np.int64], block_shards: int, key: int) -> None:
        self._key = key
        counts = np.asarray(counts_by_shard, dtype=np.int64)
        starts = np.cumsum(counts) - counts
        shards = np.flatnonzero(counts).astype(np.int64)
        shards = shards[Permutation(len(shards), derive_key(key, 0))(np.arange(len(shards), dtype=np.int64))]
        self._ends = np.cumsum(counts[shards])
        self._shift = starts[shards] - (self._ends - counts[shards])
        self._block_ends = np.append(self._ends[block_shards - 1 : -1 : block_shards], self._ends[-1:])
        self._block_starts = np.concatenate([np.zeros(1, dtype=np.int64), self._block_ends[:-1]])

    def positions(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Permuted shard by shard, then inside the block."""
        shuffled = np.empty_like(places)
        blocks = np.searchsorted(self._block_ends, places, side="right")
        for block in np.unique(blocks).tolist():
            here = blocks == block
            start, end = int(self._block_starts[block]), int(self._block_ends[block])
            permutation = Permutation(end - start, derive_key(self._key, 1, block))
            shuffled[here] = permutation(places[here] - start) + start
        return shuffled + self._shift[np.searchsorted(self._ends, shuffled, side="right")]
