"""Where a frame stands."""

from __future__ import annotations

from typing import NamedTuple


class Coordinate(NamedTuple):
    """Which micro-batch of a dataset: all whole numbers from 0, sizes from 1."""

    epoch: int
    step: int
    micro: int
    rank: int
    world_size: int
    micro_batch_size: int
