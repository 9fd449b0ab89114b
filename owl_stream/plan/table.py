"""What the plan reads of an index: pool sizes, ids and costs, never a byte of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Pool = Literal["all", "image", "text"]
"""all: every sample; image: samples with crops; text: samples without. Each keeps manifest order."""


class Costs(Protocol):
    """Costs of n samples as int64 [n] columns."""

    @property
    def text_tokens(self) -> NDArray[np.int64]:
        """Tokens of the row before padding."""

    @property
    def supervised_tokens(self) -> NDArray[np.int64]:
        """Tokens with a label."""

    @property
    def crops(self) -> NDArray[np.int64]:
        """Image tensors that the vision tower sees."""


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


@dataclass(frozen=True, eq=False)
class RowCosts:
    """Costs of the rows of a window or a step, int64 [n] each."""

    text_tokens: NDArray[np.int64]
    supervised_tokens: NDArray[np.int64]
    crops: NDArray[np.int64]

    @classmethod
    def of(cls, costs: Costs) -> RowCosts:
        """The same costs as int64 columns."""
        columns = (costs.text_tokens, costs.supervised_tokens, costs.crops)
        return cls(*(np.asarray(column, dtype=np.int64) for column in columns))

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> RowCosts:
        return RowCosts(self.text_tokens[rows], self.supervised_tokens[rows], self.crops[rows])

    def copy(self) -> RowCosts:
        """Columns of their own memory."""
        return RowCosts(self.text_tokens.copy(), self.supervised_tokens.copy(), self.crops.copy())


def pools_of(modality: Literal["pure", "off"]) -> Sequence[Pool]:
    """The pools whose steps make up an epoch."""
    return ("image", "text") if modality == "pure" else ("all",)
