"""Somebody who reads a dataset's frames in order."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Iterable

from owl_stream.assemble import Dataset, Job
from owl_stream.engine.coordinate import Coordinate

PLANNED_TOGETHER = 8
"""Handing work to a thread and back costs more than planning a frame does, so several frames go at a time."""

_REMEMBERED = 4
"""Runs of places that are kept: more than a stream has on its way. A place of an older one is planned by itself."""

_numbers = itertools.count(1)


class Consumer:
    """Reads `places` of a dataset, in order, for as long as this object lives.

    Where workers are short, each consumer gets an equal share of their work. `number` is its own and never used again.
    """

    def __init__(self, dataset: Dataset, places: Iterable[Coordinate] = ()) -> None:
        self._dataset, self._places = dataset, iter(places)
        self._ahead: deque[Coordinate] = deque()
        self._runs: deque[_Run] = deque(maxlen=_REMEMBERED)
        self._together = 1  # the first frame waits for no other one
        self.number = next(_numbers)

    def next(self) -> Coordinate | None:
        """The next place to ask the engine for; None behind the last one."""
        if not self._ahead:
            self._ahead.extend(itertools.islice(self._places, self._together))
            self._together = PLANNED_TOGETHER
            self._runs.append(_Run(self._dataset, tuple(self._ahead)))
        return self._ahead.popleft() if self._ahead else None

    async def job(self, at: Coordinate) -> Job:
        """What has to be done for the frame at a place; planned with those that follow it, if `next` has named it.

        Raises:
            RequestError, ReadError: see `Dataset.job`.
        """
        planned_with = next((run for run in self._runs if at in run.places), None)
        return await (planned_with or _Run(self._dataset, (at,))).job(at)


class _Run:
    """Places that are planned in one go, once the first of them is asked for."""

    def __init__(self, dataset: Dataset, places: tuple[Coordinate, ...]) -> None:
        self._dataset, self.places = dataset, places
        self._planning: asyncio.Task[dict[Coordinate, Job | Exception]] | None = None

    async def job(self, at: Coordinate) -> Job:
        if self._planning is None:
            epoch, step, micro, rank, *_ = self.places[0]
            what = f"planning {self._dataset.name}, epoch {epoch}, step {step}, micro {micro}, rank {rank}"
            self._planning = asyncio.create_task(self._dataset.planning.run(what, self._plan))
            self._planning.add_done_callback(_heard)
        # Whoever is cancelled while waiting must not take the plan away from the others.
        outcome = (await asyncio.shield(self._planning))[at]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _plan(self) -> dict[Coordinate, Job | Exception]:
        planned: dict[Coordinate, Job | Exception] = {}
        for at in self.places:
            try:
                planned[at] = self._dataset.job(*at)
            except Exception as exc:  # each is told to the one who asks for its place
                planned[at] = exc
        return planned


def _heard(planning: asyncio.Task[dict[Coordinate, Job | Exception]]) -> None:
    """An error is told to those who wait; that nobody does any more is no fault."""
    if not planning.cancelled():
        planning.exception()
