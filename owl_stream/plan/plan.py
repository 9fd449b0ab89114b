"""The plan: a pure function from (manifest, settings, epoch, step) to the rows of a global step."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from owl_stream.errors import ConfigError, DataError, RequestError
from owl_stream.plan.cursor import MAX_EPOCH
from owl_stream.plan.order import BlockOrder, FileOrder, FullOrder, Order
from owl_stream.plan.permutation import derive_key
from owl_stream.plan.search import Weights
from owl_stream.plan.step import GlobalStep
from owl_stream.plan.table import Table, pools_of
from owl_stream.plan.window import PoolSteps, SortedWindow
from owl_stream.shards import Pool

if TYPE_CHECKING:
    from owl_stream.config import PlanSettings

PLAN_VERSION = 1
"""Goes into every fingerprint. Raise it with any change of order, windows, steps or dealing."""

MAX_WINDOW_ROWS = 1 << 22
"""A window is sorted in memory, at about 100 bytes a row."""

_CACHED_ROWS = 1 << 21
_POOL_NUMBER: dict[Pool, int] = {"all": 0, "image": 1, "text": 2, "video": 3, "image_video": 4}
_ORDER, _STEPS = 0, 1


class Plan:
    """Global steps of every epoch. Reads the table lazily, one window at a time; safe to share between threads.

    `steps_per_epoch`, `dropped_per_epoch` (rows that `last: drop` leaves out) and `fillers_per_epoch` are the same for
    every epoch.

    Raises:
        DataError: the manifest has no sample.
        ConfigError: the settings leave no step, or a window too large to sort.
    """

    def __init__(self, table: Table, settings: PlanSettings) -> None:
        self._table, self._settings = table, settings
        self._pools = [
            PoolSteps(pool, table.pool_size(pool), settings.global_batch_size, settings.bucket_window, settings.last)
            for pool in pools_of(settings.modality)
        ]
        self._weights = Weights(settings.text_token_cost, settings.vision_token_cost)
        self.steps_per_epoch = sum(pool.steps for pool in self._pools)
        self.dropped_per_epoch = sum(pool.dropped for pool in self._pools)
        self.fillers_per_epoch = sum(pool.fillers for pool in self._pools)
        rows = max(len(pool.places(0)) for pool in self._pools)
        self._check(rows)
        self._order = lru_cache(maxsize=4)(self._make_order)
        self._window = lru_cache(maxsize=max(len(self._pools), min(32, _CACHED_ROWS // rows)))(self._sort_window)
        self._step = lru_cache(maxsize=max(1, min(64, _CACHED_ROWS // settings.global_batch_size)))(self._make_step)

    def step(self, epoch: int, step: int) -> GlobalStep:
        """One global step. Equal arguments give equal steps, in every process and on every platform.

        Raises:
            RequestError: there is no such epoch or step.
        """
        if not 0 <= epoch <= MAX_EPOCH:
            raise RequestError(f"epoch {epoch}: expected a whole number from 0 to {MAX_EPOCH}")
        if not 0 <= step < self.steps_per_epoch:
            raise RequestError(f"step {step}: expected 0 to {self.steps_per_epoch - 1}, the steps of an epoch")
        return self._step(int(epoch), int(step))

    def _make_step(self, epoch: int, step: int) -> GlobalStep:
        pool, pool_step = self._pool_step(step)
        window, slot = pool.locate(pool_step)
        rows = self._window(epoch, pool, window)
        step_rows = rows.cut(pool.cut(window, slot, self._key(epoch, pool, _STEPS, window)))
        fillers = self._settings.global_batch_size - len(step_rows.ids)
        return GlobalStep(epoch, step, pool.pool, step_rows.ids, step_rows.costs, fillers, self._weights)

    def _pool_step(self, step: int) -> tuple[PoolSteps, int]:
        """Which pool's which step stands here: pools are interleaved as evenly as whole numbers allow.

        Each pool in turn is spread over the places that those before it leave free.
        """
        left, total = step, self.steps_per_epoch
        for pool in self._pools[:-1]:
            before, after = ((number * pool.steps + total // 2) // total for number in (left, left + 1))
            if after > before:
                return pool, before
            left, total = left - before, total - pool.steps
        return self._pools[-1], left

    def _sort_window(self, epoch: int, pool: PoolSteps, window: int) -> SortedWindow:
        places = pool.places(window)
        order = self._order(epoch, pool)
        positions = order.positions(np.arange(places.start, places.stop, dtype=np.int64))
        ids = np.asarray(self._table.pool_ids(pool.pool, positions), dtype=np.int64)
        return SortedWindow.of(ids, self._table.costs(ids))

    def _make_order(self, epoch: int, pool: PoolSteps) -> Order:
        settings = self._settings
        key = self._key(epoch, pool, _ORDER)
        if settings.shuffle == "none":
            return FileOrder()
        if settings.shuffle == "full":
            return FullOrder(pool.rows, key)
        return BlockOrder(self._table.pool_counts_by_shard(pool.pool), settings.shuffle_block_shards, key)

    def _key(self, epoch: int, pool: PoolSteps, *purpose: int) -> int:
        """`shuffle: none` promises the same epoch every time, so its keys do not know the epoch."""
        epoch = 0 if self._settings.shuffle == "none" else epoch
        return derive_key(self._settings.seed, epoch, _POOL_NUMBER[pool.pool], *purpose)

    def _check(self, window_rows: int) -> None:
        settings = self._settings
        samples = sum(pool.rows for pool in self._pools)
        if samples == 0:
            raise DataError("the manifest has no good sample, so there is nothing to plan; see the quarantine")
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"last: drop leaves no step of {samples} samples with global_batch_size {settings.global_batch_size}; "
                "use last: fill or a smaller global_batch_size"
            )
        if window_rows > MAX_WINDOW_ROWS:
            raise ConfigError(
                f"bucket_window {settings.bucket_window} x global_batch_size {settings.global_batch_size}: a window "
                f"may hold at most {MAX_WINDOW_ROWS} rows, got {window_rows}; use a smaller bucket_window"
            )
