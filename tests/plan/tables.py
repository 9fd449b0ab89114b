"""Tables for the plan's tests: arithmetic columns of any size, and a record of what was read of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owl_stream.config import PlanSettings
from owl_stream.shards import Costs, Pool, RowSize


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
    }
    return PlanSettings(**{**values, **changes})  # type: ignore[arg-type]


VISION_TOKENS = 729
"""Of one crop."""


def image_costs(
    text: NDArray[np.int64],
    supervised: NDArray[np.int64],
    crops: NDArray[np.int64],
    videos: NDArray[np.int64] | None = None,
) -> Costs:
    """Costs of rows whose images have so many crops; a video has 100 vision tokens."""
    table = np.zeros((len(text), len(RowSize._fields)), dtype=np.int64)
    videos = np.zeros_like(text) if videos is None else videos
    for column, values in enumerate((text, supervised, crops, crops * VISION_TOKENS, videos, videos * 100)):
        table[:, column] = values
    return Costs(table)


@dataclass
class ColumnTable:
    """A table of real columns, small enough to hold."""

    text_tokens: NDArray[np.int64]
    crops: NDArray[np.int64]
    shard_of: NDArray[np.int64]
    videos: NDArray[np.int64] | None = None

    @property
    def samples(self) -> int:
        """N of the manifest."""
        return len(self.text_tokens)

    def members(self, pool: Pool) -> NDArray[np.int64]:
        """Ids of the pool in manifest order."""
        return np.flatnonzero(self.costs(np.arange(self.samples)).in_pool(pool)).astype(np.int64)

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

    def costs(self, ids: NDArray[np.int64]) -> Costs:
        """As Table; a third of every row is supervised."""
        tokens = self.text_tokens[ids]
        videos = None if self.videos is None else self.videos[ids]
        return image_costs(tokens, np.maximum(tokens // 3, 1), self.crops[ids], videos)


def column_table(
    samples: int, seed: int = 0, *, text_share: float = 0.3, shards: int = 7, video_share: float = 0.0
) -> ColumnTable:
    """Random costs: 60 to 400 text tokens, 1 to 6 crops where there are any, a video in some, some shards empty."""
    rng = np.random.default_rng(seed)
    crops = np.where(rng.random(samples) < text_share, 0, rng.integers(1, 7, samples))
    text, shard_of = rng.integers(60, 401, samples), np.sort(rng.integers(0, shards, samples))
    return ColumnTable(text, crops, shard_of, (rng.random(samples) < video_share).astype(np.int64))


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
        return {"all": self.samples, "text": text, "image": self.samples - text}.get(pool, 0)

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

    def costs(self, ids: NDArray[np.int64]) -> Costs:
        """As Table."""
        self.calls.append("costs")
        self.costs_read += len(ids)
        return image_costs(60 + ids * 7919 % 341, 1 + ids % 50, np.where(ids % 4 == 0, 0, 1 + ids * 31 % 6))
