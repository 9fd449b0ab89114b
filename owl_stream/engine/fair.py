"""A queue in which consumers take turns: each gets an equal share of the work, however much it asks for at a time.

Start-time fair queueing (Goyal, Vin, Cheng, 1996). Everything asked for is stamped with a virtual time, at which its
consumer would be served if all were served at once and equally fast; the earliest stamp goes first. A consumer that was
silent begins at the present and saves up no claims.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Generic, TypeVar

Item = TypeVar("Item")

_FORGET_AT = 256
"""Consumers that are remembered before those without a claim are forgotten."""


class FairQueue(Generic[Item]):
    """Unbounded: what is in it is bounded by those who ask. For one event loop."""

    def __init__(self) -> None:
        self._items: asyncio.PriorityQueue[tuple[float, int, Item]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._claims: dict[int, float] = {}
        self._now = 0.0

    def put(self, item: Item, consumer: int, cost: float) -> None:
        """Ask for work of so much cost on behalf of a consumer."""
        start = max(self._now, self._claims.get(consumer, 0.0))
        self._claims[consumer] = start + cost
        self._items.put_nowait((start, next(self._numbers), item))
        if len(self._claims) > _FORGET_AT:
            self._claims = {each: claim for each, claim in self._claims.items() if claim > self._now}

    async def get(self) -> Item:
        """The next item, waiting for one."""
        start, _, item = await self._items.get()
        self._now = max(self._now, start)
        return item

    def drain(self) -> list[Item]:
        """Take out all that is left."""
        return [self._items.get_nowait()[2] for _ in range(self._items.qsize())]

    def __len__(self) -> int:
        return self._items.qsize()
