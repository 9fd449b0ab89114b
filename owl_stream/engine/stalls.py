"""Shards whose storage stalls. Frames that need one take one worker at a time; the others are free for other frames."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from owl_stream.assemble import Dataset, Job
from owl_stream.blocking import Running
from owl_stream.errors import ReadError


class HeldBackError(Exception):
    """A shard that a job needs was found to stall while the job was queued. The job has to wait for its turn."""


@dataclass
class _Stall:
    what: str
    since: float
    until: float


class Stalls:
    """The shards that stall now, by `Dataset.frames` and number.

    A shard is suspected until a frame of it has been made, or for `forget_s` after it was last seen to stall.
    """

    def __init__(self, forget_s: float) -> None:
        self._forget_s = forget_s
        self._found: dict[tuple[str, int], _Stall] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def suspects(self, dataset: Dataset, job: Job) -> Collection[int]:
        """Those of the job's shards that were seen to stall."""
        if not self._found:
            return ()
        self._forget()
        return {shard for shard in shards_of(job) if (dataset.frames, shard) in self._found}

    def found(self, dataset: Dataset, job: Job, row: int) -> None:
        """A job took too long, at this row; -1: nobody knows at which."""
        now = time.monotonic()
        for shard in [job.row_at(row).shard] if row >= 0 else shards_of(job):
            what = f"shard {dataset.shards[shard].name} of {dataset.name}"
            stall = self._found.setdefault((dataset.frames, shard), _Stall(what, now, now))
            stall.until = now + self._forget_s

    def made(self, dataset: Dataset, job: Job) -> None:
        """A frame was made of the job's shards."""
        for shard in self.suspects(dataset, job):
            del self._found[dataset.frames, shard]

    @asynccontextmanager
    async def turn(self, dataset: Dataset, job: Job, patience_s: float) -> AsyncIterator[bool]:
        """A job that needs a suspected shard waits here for its turn: one of a dataset at a time. Others pass at once.

        Yields whether the job needs such a shard.

        Raises:
            ReadError: its turn did not come within `patience_s`.
        """
        if not self.suspects(dataset, job):
            yield False
            return
        turn = self._turns[dataset.frames]
        try:
            async with asyncio.timeout(patience_s):
                await turn.acquire()
        except TimeoutError as exc:
            raise stall_error(dataset, job, *self.suspects(dataset, job)) from exc
        try:
            yield True
        finally:
            turn.release()

    def now(self) -> list[Running]:
        """What stalls, and for how long it has been known to."""
        self._forget()
        now = time.monotonic()
        return [Running(stall.what, now - stall.since) for stall in self._found.values()]

    def _forget(self) -> None:
        now = time.monotonic()
        self._found = {key: stall for key, stall in self._found.items() if stall.until > now}


def shards_of(job: Job) -> set[int]:
    """The shards that a job's rows lie in."""
    return {row.shard for row in job.rows if row is not None}


def stall_error(dataset: Dataset, job: Job, *shards: int) -> ReadError:
    """The error of a job that is not tried, because another one waits for its shards already."""
    names = ", ".join(sorted(dataset.shards[shard].name for shard in shards)) or "a shard"
    return ReadError(
        f"{job}: storage of {names} seems to stall, and another frame waits for it already; look at it, then ask again"
    )
