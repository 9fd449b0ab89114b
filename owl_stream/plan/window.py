"""Steps of one pool: how many an epoch has, which window holds each, and which rows a window's step takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from owl_stream.plan.permutation import Permutation
from owl_stream.shards import Costs, Pool


@dataclass(frozen=True)
class PoolSteps:
    """The arithmetic of one pool: `rows` samples in steps of `global_batch_size`, windows of `bucket_window` steps."""

    pool: Pool
    rows: int
    global_batch_size: int
    bucket_window: int
    last: Literal["fill", "drop"]

    @property
    def steps(self) -> int:
        """Steps in an epoch, a filled one included."""
        return self.rows // self.global_batch_size + (self.fillers > 0)

    @property
    def fillers(self) -> int:
        """Filler rows that complete the partial step."""
        return -self.rows % self.global_batch_size if self.last == "fill" else 0

    @property
    def dropped(self) -> int:
        """Rows of the partial step that is not there."""
        return self.rows % self.global_batch_size if self.last == "drop" else 0

    def locate(self, step: int) -> tuple[int, int]:
        """(window, slot in the window) of a step of this pool."""
        return divmod(step, self.bucket_window)

    def places(self, window: int) -> range:
        """The places of the pool's order that a window sorts. The last one holds the rows of the partial step too."""
        width = self.global_batch_size * self.bucket_window
        return range(min(window * width, self.rows), min((window + 1) * width, self.rows))

    def cut(self, window: int, slot: int, key: int) -> slice:
        """Rows of the sorted window that the step in this slot takes; the steps are permuted by `key`.

        The window is sorted longest first, so the partial step takes its shortest rows.
        """
        steps = min(self.bucket_window, self.steps - window * self.bucket_window)
        cut = int(_slots(steps, key)[slot])
        return slice(cut * self.global_batch_size, (cut + 1) * self.global_batch_size)


@lru_cache(maxsize=32)
def _slots(steps: int, key: int) -> NDArray[np.int64]:
    """A window's whole permutation costs what one slot of it does; at most half a megabyte."""
    return Permutation(steps, key)(np.arange(steps, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class SortedWindow:
    """Rows of a window, longest text first, ties by place in the order. `ids`: int64 [n]."""

    ids: NDArray[np.int64]
    costs: Costs

    @classmethod
    def of(cls, ids: NDArray[np.int64], costs: Costs) -> SortedWindow:
        """Sort rows that come in order. Vision cost has no say here: it would destroy the padding."""
        longest_first = np.argsort(-costs.text_tokens, kind="stable")
        return cls(ids[longest_first], costs[longest_first])

    def cut(self, rows: slice) -> SortedWindow:
        """Some of the rows, as read-only copies: whoever keeps a step does not keep its window."""
        ids, table = self.ids[rows].copy(), self.costs.table[rows].copy()
        for column in (ids, table):
            column.flags.writeable = False
        return SortedWindow(ids, Costs(table))
