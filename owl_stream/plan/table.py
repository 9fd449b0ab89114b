"""What the plan reads of an index: pool sizes, ids and costs, never a byte of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from owl_stream.shards import TOWER_POOLS, Costs, Pool


class Table(Protocol):
    """The part of an index that the plan reads. Every method is a pure function of the manifest."""

    def pool_size(self, pool: Pool) -> int:
        """Samples in the pool."""

    def pool_ids(self, pool: Pool, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Manifest ids at these positions of the pool, int64 [n]."""

    def pool_counts_by_shard(self, pool: Pool) -> NDArray[np.int64]:
        """Samples of the pool in each shard, int64 [shards], in manifest order."""

    def costs(self, ids: NDArray[np.int64]) -> Costs:
        """Costs of these samples."""


def pools_of(modality: Literal["pure", "off"]) -> Sequence[Pool]:
    """The pools whose steps make up an epoch, those without a sample included."""
    return TOWER_POOLS if modality == "pure" else ("all",)
