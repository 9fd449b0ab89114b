"""Tables for the plan's tests: arithmetic columns of any size, and a record of what was read of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owl_stream.config import PlanSettings
from owl_stream.plan import Pool, RowCosts


def settings(**changes: object) -> PlanSettings:
    """Plan settings as the configuration's defaults make them, but for what a test changes."""
    values: dict[str, object] = {
        "global_batch_size": 8,
        "seed": 0,
        "shuffle": "full",
        "shuffle_block_shards": 2,
        "bucket_window": 4,
        "modality": "pure",
        "last": "fill",
        "text_token_cost": 1,
        "vision_token_cost": 1,
        "vision_tokens_per_crop": 729,
    }
    return PlanSettings(**{**values, **changes})  # type: ignore[arg-type]


@dataclass
class ColumnTable:
    """A table of real columns, small enough to hold."""

    text_tokens: NDArray[np.int64]
    crops: NDArray[np.int64]
    shard_of: NDArray[np.int64]

    @property
    def samples(self) -> int:
        """N of the manifest."""
        return len(self.text_tokens)

    def members(self, pool: Pool) -> NDArray[np.int64]:
        """Ids of the pool in manifest order."""
        chosen = {"all": self.crops >= 0, "image": self.crops > 0, "text": self.crops == 0}[pool]
        return np.flatnonzero(chosen).astype(np.int64)

    def pool_size(self, pool: Pool) -> int:
        """As Table."""
        return len(self.members(pool))

    def pool_ids(self, pool: Pool, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """As Table."""
        return self.members(pool)[positions]

    def pool_counts_by_shard(self, pool: Pool) -> NDArray[np.int64]:
        """As Table."""
        counts = np.bincount(self.shard_of[self.members(pool)], minlength=int(self.shard_of.max(initial=0)) + 1)
        return counts.astype(np.int64)

    def costs(self, ids: NDArray[np.int64]) -> RowCosts:
        """As Table; a third of every row is supervised."""
        tokens = self.text_tokens[ids]
        return RowCosts(tokens, np.maximum(tokens // 3, 1), self.crops[ids])


def column_table(samples: int, seed: int = 0, *, text_share: float = 0.3, shards: int = 7) -> ColumnTable:
    """Random costs: 60 to 400 text tokens, 1 to 6 crops where there are any, some shards empty."""
    rng = np.random.default_rng(seed)
    crops = np.where(rng.random(samples) < text_share, 0, rng.integers(1, 7, samples))
    return ColumnTable(rng.integers(60, 401, samples), crops, np.sort(rng.integers(0, shards, samples)))


@dataclass
class ArithmeticTable:
    """Any number of samples without a column in memory; every fourth one is text-only. Counts what is read."""

    samples: int
    shards: int = 1000
    ids_read: int = 0
    costs_read: int = 0
    calls: list[str] = field(default_factory=list)

    def pool_size(self, pool: Pool) -> int:
        """As Table."""
        text = -(-self.samples // 4)
        return {"all": self.samples, "text": text, "image": self.samples - text}[pool]

    def pool_ids(self, pool: Pool, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """As Table."""
        self.calls.append("pool_ids")
        self.ids_read += len(positions)
        if pool == "text":
            return positions * 4
        return positions if pool == "all" else positions // 3 * 4 + 1 + positions % 3

    def pool_counts_by_shard(self, pool: Pool) -> NDArray[np.int64]:
        """As Table."""
        self.calls.append("pool_counts_by_shard")
        edges = np.arange(self.shards + 1, dtype=np.int64) * self.pool_size(pool) // self.shards
        return np.diff(edges)

    def costs(self, ids: NDArray[np.int64]) -> RowCosts:
        """As Table."""
        self.calls.append("costs")
        self.costs_read += len(ids)
        return RowCosts(60 + ids * 7919 % 341, 1 + ids % 50, np.where(ids % 4 == 0, 0, 1 + ids * 31 % 6))
