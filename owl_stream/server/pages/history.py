"""The last ten minutes, sampled every second: what the dashboard's chart is drawn from."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

EVERY_S = 1.0
KEPT = 601
"""Ten minutes of differences need one sample more."""


class Sample(NamedTuple):
    """Sums since the server began, at `at_s` seconds of its uptime; `streams` are those open at that moment."""

    at_s: float
    batches: int
    nbytes: int
    rows: int
    tokens: int
    padding: int
    streams: int


class History:
    """A bounded ring of samples, each with a number that grows by one; `take` makes the next sample."""

    def __init__(self, take: Callable[[], Sample]) -> None:
        self._take = take
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._taken = 0

    def sample(self) -> None:
        """Add one sample; the oldest makes room for it."""
        self._samples.append(self._take())
        self._taken += 1

    def since(self, number: int) -> tuple[int, list[Sample]]:
        """The samples from `number` on that are still kept, and the number that the next one will have."""
        missed = self._taken - max(number, self._taken - len(self._samples))
        return self._taken, list(self._samples)[len(self._samples) - missed :] if missed > 0 else []

    async def run(self) -> None:
        """Sample until cancelled. A moment that a busy server missed is left out, not made up for."""
        due = time.monotonic()
        while True:
            self.sample()
            due = max(due + EVERY_S, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
