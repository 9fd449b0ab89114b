"""A global step: the rows that all ranks consume together, whatever their number."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from owl_stream.plan.deal import Dealt, deal
from owl_stream.plan.search import Weights
from owl_stream.shards import Costs, Pool

_REMEMBERED_DEALS = 8
"""World and micro-batch sizes that ask for the same step at a time; a client may ask for any."""


@dataclass(frozen=True, eq=False)
class GlobalStep:
    """One optimizer step of an epoch.

    `ids`: int64 [r], manifest ids, longest text first, ties by place in the order; `costs`: of these rows. `fillers`
    rows complete the step to the global batch. The arrays are read-only and shared: the plan owns them.
    """

    epoch: int
    step: int
    pool: Pool
    ids: NDArray[np.int64]
    costs: Costs
    fillers: int
    weights: Weights
    _dealt: dict[tuple[int, int], Dealt] = field(default_factory=dict, repr=False)

    @property
    def supervised_tokens(self) -> int:
        """The plan's count for the whole step, before anything is masked."""
        return int(self.costs.supervised_tokens.sum())

    def deal(self, world_size: int, micro_batch_size: int) -> Dealt:
        """The step as W ranks x M micro-batches x m rows; remembered, for a rank asks once per micro-batch.

        Raises:
            RequestError: world_size * micro_batch_size does not divide the global batch size.
        """
        key = (world_size, micro_batch_size)
        dealt = self._dealt.get(key)
        if dealt is None:
            size = len(self.ids) + self.fillers
            dealt = deal(self.costs, size, world_size, micro_batch_size, self.weights)
            if len(self._dealt) >= _REMEMBERED_DEALS:
                self._dealt.clear()
            self._dealt[key] = dealt
        return dealt
