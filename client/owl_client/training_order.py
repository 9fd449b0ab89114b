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
    """Warns once of a batch that does not follow the one before: a shuffle buffer, a sampler or a shard is behind us.

    Nothing tells a dataset who reads it, but every trainer asks `step_loss` of each batch that it trains on.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], tuple[Place, Place]] = {}
        """By data and rank: the batch that was trained on last, and the one that comes next."""
        self._warned = False

    def note(self, meta: BatchMeta) -> None:
        """Called with each batch, once or more often."""
        state = meta.state
        data = (state.get("dataset"), state.get("fingerprint"), meta.rank, meta.world_size)
        here, after = (meta.epoch, meta.step, meta.micro), (state["epoch"], state["step"], state["micro"])
        before = self._seen.get(data)
        self._seen[data] = (here, after)
        if before is None or here in before or self._warned:
            return
        self._warned = True
        log.warning(
            "after epoch %d, step %d, micro-batch %d comes epoch %d, step %d, micro-batch %d; expected epoch %d, "
            "step %d, micro-batch %d. Unless you moved the dataset or left batches out, something between it and the "
            "trainer shuffles, drops or repeats batches: steps are no longer the plan's, and a checkpoint's state is "
            "wrong. Take it away",
            *before[0],
            *here,
            *before[1],
        )


ORDER = TrainingOrder()
"""This process's."""
