"""Whether batches are trained on in the order in which the dataset gives them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from owl_client.batch import BatchMeta

log = logging.getLogger("owl_client")

Place = tuple[int, int, int]
"""Epoch, step, micro-batch."""


class TrainingOrder:
    """Warns of a batch that does not follow the one before: something shuffles, drops or repeats batches.

    Nothing tells a dataset who reads it, but every trainer asks `step_loss` of each batch that it trains on.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], tuple[Place, Place]] = {}
        """By data and rank: the batch that was trained on last, and the one that comes next."""
        self._warned = False

    def begin(self) -> None:
        """Forget what was seen: a dataset was made or moved, and any batch may come next."""
        self._seen.clear()
        self._warned = False

    def note(self, meta: BatchMeta) -> None:
        """Called with each batch that is trained on, once or more often; warns once after each `begin`."""
        state = meta.state
        here, after = _place(meta), (state["epoch"], state["step"], state["micro"])
        before = self._seen.get(_data(meta))
        self._seen[_data(meta)] = (here, after)
        if before is None or here in before or self._warned:
            return
        self._warned = True
        log.warning(
            "after epoch %d, step %d, micro-batch %d comes epoch %d, step %d, micro-batch %d; expected epoch %d, "
            "step %d, micro-batch %d. Unless you left batches out on purpose, something between the dataset and the "
            "trainer shuffles, drops or repeats batches: steps are no longer the plan's, and a checkpoint's state is "
            "wrong. Take it away",
            *before[0],
            *here,
            *before[1],
        )

    def is_latest(self, meta: BatchMeta) -> bool:
        """Whether this batch was noted last of its data."""
        seen = self._seen.get(_data(meta))
        return seen is not None and seen[0] == _place(meta)


def _place(meta: BatchMeta) -> Place:
    return meta.epoch, meta.step, meta.micro


def _data(meta: BatchMeta) -> tuple[Any, ...]:
    return meta.state.get("dataset"), meta.state.get("fingerprint"), meta.rank, meta.world_size


ORDER = TrainingOrder()
"""This process's."""
