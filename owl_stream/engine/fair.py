"""A queue in which consumers take turns: each gets an equal share of the work, however much it asks for at a time.

Start-time fair queueing (Goyal, Vin, Cheng, 1996). Everything asked for is stamped with a virtual time, at which its
consumer would be served if all were served at once and equally fast; the earliest stamp goes first. A consumer that was
silent begins at the present and saves up no claims.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

_FORGET_AT = 256
"""Consumers that are remembered before those without a claim are forgotten."""


class FairQueue(Generic[Item]):
    """Unbounded: what is in it is bounded by those who ask. For one event loop."""

    def __init__(self) -> None:
        self._items: list[tuple[float, int, Item]] = []
        self._numbers = itertools.count()
        self._claims: dict[int, float] = {}
        self._now = 0.0
        self._waiting: deque[tuple[Callable[[], int], asyncio.Future[None]]] = deque()

    def put(self, item: Item, consumer: int, cost: float) -> None:
        """Ask for work of so much cost on behalf of a consumer."""
        start = max(self._now, self._claims.get(consumer, 0.0))
        self._claims[consumer] = start + cost
        heapq.heappush(self._items, (start, next(self._numbers), item))
        if len(self._claims) > _FORGET_AT:
            self._claims = {each: claim for each, claim in self._claims.items() if claim > self._now}
        self._wake()

    async def get(self, leave: Callable[[], int] = lambda: 0) -> Item:
        """The next item, once there are more than `leave()` says must be left for others; asked whenever one comes."""
        while len(self._items) <= leave():
            woken = asyncio.get_running_loop().create_future()
            self._waiting.append((leave, woken))
            try:
                await woken
            except BaseException:
                self._waiting = deque(each for each in self._waiting if each[1] is not woken)
                if woken.done() and not woken.cancelled():
                    self._wake()  # what it was woken for is somebody else's now
                raise
            if len(self._items) <= leave():  # somebody was quicker: it may be for another one then
                self._wake()
        start, _, item = heapq.heappop(self._items)
        self._now = max(self._now, start)
        return item

    def drain(self) -> list[Item]:
        """Take out all that is left."""
        left = [item for _, _, item in sorted(self._items, key=lambda each: each[:2])]
        self._items.clear()
        return left

    def __len__(self) -> int:
        return len(self._items)

    def _wake(self) -> None:
        for at, (leave, woken) in enumerate(self._waiting):
            if not woken.done() and len(self._items) > leave():
                del self._waiting[at]
                woken.set_result(None)
                return
