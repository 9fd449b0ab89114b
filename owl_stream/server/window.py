"""How far ahead of its reader one stream has frames assembled."""

from __future__ import annotations

import asyncio
from collections import deque

from owl_stream.engine import Consumer, Coordinate, Engine, FrameLease
from owl_stream.server.journey import Journey

MAX_AHEAD = 16
"""Frames assembled ahead of a reader, whatever the byte budget allows."""


class Window:
    """Frames on their way to one reader, in order: as many as fit the byte budget, at least one.

    What a frame takes is known from its plan, before it is assembled. So a run of small frames lets no more of the
    large ones behind it in than there is room for.
    """

    def __init__(self, engine: Engine, journey: Journey, prefetch_bytes: int) -> None:
        self._engine, self._dataset, self._prefetch_bytes = engine, journey.dataset, prefetch_bytes
        self._consumer = Consumer(journey.dataset, journey.coordinates())
        self._tasks: deque[asyncio.Task[FrameLease]] = deque()
        self._in_hand: FrameLease | None = None
        self._rooms: deque[int] = deque()
        """Bytes of the frame in hand, if there is one, and of those let in behind it."""
        self._in_turn = asyncio.Lock()
        self._taken = asyncio.Event()
        self._exhausted = False

    def fill(self) -> None:
        """Ask for the frames to come; each goes to the engine once there is room for it.

        Behind the last one the consumer leaves: before the reader hears of the end, and comes back as another one.
        """
        # The frame that is being sent is in memory too; beside it one may always be on its way.
        ahead = MAX_AHEAD - 1 if self._in_hand is not None else 2
        while not self._exhausted and len(self._tasks) < ahead:
            at = self._consumer.next()
            if at is None:
                self._exhausted = True
            else:
                self._tasks.append(asyncio.create_task(self._frame(at)))
        if self._exhausted and not self._tasks:
            self._engine.leave(self._consumer)

    async def _frame(self, at: Coordinate) -> FrameLease:
        async with self._in_turn:  # in order: else a later frame has the room that an earlier one waits for
            try:
                room = self._engine.room(self._dataset, await self._consumer.job(at))
            except Exception:  # the engine meets it too, counts it and says what it means
                room = 0
            while self._on_their_way and sum(self._rooms) + room > self._prefetch_bytes:
                self._taken.clear()
                await self._taken.wait()
            self._rooms.append(room)
        return await self._engine.frame(self._dataset, at, self._consumer)

    @property
    def _on_their_way(self) -> int:
        """Frames that were let in, beside the one in hand."""
        return len(self._rooms) - (self._in_hand is not None)

    @property
    def next(self) -> asyncio.Task[FrameLease] | None:
        """The frame that is to be sent next; None at the end of the journey."""
        return self._tasks[0] if self._tasks else None

    def take(self) -> FrameLease:
        """The next frame, which must be done; the one taken before must have been released.

        Closing the window releases it too. Raises what its assembly raised.
        """
        lease = self._tasks.popleft().result()
        if self._in_hand is not None:
            self._rooms.popleft()
        self._in_hand = lease
        self._taken.set()
        return lease

    async def aclose(self) -> None:
        """Give everything back, also where this is cancelled; then wait until what was under way has ended."""
        tasks, self._tasks = list(self._tasks), deque()
        if self._in_hand is not None:
            self._in_hand.release()
        for task in tasks:
            task.cancel()
            task.add_done_callback(_give_back)
        self._engine.leave(self._consumer)
        await asyncio.gather(*tasks, return_exceptions=True)


def _give_back(task: asyncio.Task[FrameLease]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().release()
