"""Assembly in the server's own process, one frame at a time: for tests, debugging and very small machines."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from owl_stream.assemble import Assembler, Dataset, Job
from owl_stream.blocking import Running, Threads
from owl_stream.engine.consumer import Consumer
from owl_stream.engine.shared import Engine, Memory
from owl_stream.engine.stalls import shards_of, stalls
from owl_stream.errors import ReadError

_Made = tuple[Memory, Assembler]


class InlineEngine(Engine):
    """Assembles in threads, one frame of a dataset at a time. A decoder that crashes takes the whole process with it.

    A frame that takes longer than `job_timeout_s` waits for storage: it is a retryable error, and its thread is stuck.
    """

    def __init__(self, *, job_timeout_s: float = 120.0) -> None:
        super().__init__()
        self._job_timeout_s = job_timeout_s
        self._places: dict[str, _Place] = {}
        """By `Dataset.frames`."""

    async def _assemble(self, dataset: Dataset, job: Job, consumer: Consumer | None) -> Memory:
        place = self._places.get(dataset.frames)
        if place is None:
            place = self._places[dataset.frames] = _Place(dataset, self._job_timeout_s)
        return await place.assemble(job)

    def stuck(self) -> list[Running]:
        """See `Engine.stuck`."""
        return [each for place in self._places.values() for each in place.threads.stuck()]

    def running(self) -> list[Running]:
        """See `Engine.running`."""
        return [each for place in self._places.values() for each in place.threads.running()]

    async def aclose(self) -> None:
        """Stop, and close the shards that assemblers hold open."""
        await super().aclose()
        for place in self._places.values():
            place.close()


@dataclass
class _Work:
    """A job in a thread: the row that it is at (-1: none), and whether the thread has left it."""

    job: Job
    row: int = -1
    done: bool = False

    def progress(self, row: int) -> None:
        self.row = row

    @property
    def shards(self) -> set[int]:
        """Those of which one is being read, as far as is known."""
        return shards_of(self.job) if self.row < 0 else {self.job.row_at(self.row).shard}


class _Place:
    """Where the frames of one dataset are made. An assembler belongs to the thread that uses it until that returns.

    While a thread is stuck at a shard no other one tries it: frames of other shards must find threads.
    """

    def __init__(self, dataset: Dataset, job_timeout_s: float) -> None:
        self.threads = Threads(f"assembling {dataset.name}", 4, job_timeout_s)
        self._dataset = dataset
        self._assembler: Assembler | None = None
        self._turn = asyncio.Lock()
        self._stuck: list[_Work] = []

    async def assemble(self, job: Job) -> Memory:
        self._check(job)
        async with self._turn:
            self._check(job)
            work = _Work(job)
            assembler, self._assembler = self._assembler, None
            what = f"assembling {self._dataset.name}, {job}"
            try:
                made: _Made = await self.threads.run(what, self._make, work, assembler, unwanted=_throw_away)
            except ReadError:
                if not work.done:
                    self._stuck.append(work)
                raise
            memory, self._assembler = made
        return memory

    def close(self) -> None:
        if self._assembler is not None:
            self._assembler.close()

    def _check(self, job: Job) -> None:
        """Raise ReadError where a thread is stuck at a shard that the job needs too."""
        self._stuck = [work for work in self._stuck if not work.done]
        for shard in {shard for work in self._stuck for shard in work.shards} & shards_of(job):
            raise stalls(self._dataset, job, shard)

    def _make(self, work: _Work, assembler: Assembler | None) -> _Made:
        try:
            assembler = assembler or self._dataset.assembler()
            try:
                buffer = memoryview(bytearray(self._dataset.capacity(work.job)))
                assembled = assembler.assemble(work.job, buffer, work.progress)
            except BaseException:
                assembler.close()
                raise
        finally:
            work.done = True
        view = buffer[assembled.start : assembled.start + assembled.nbytes].toreadonly()
        return Memory(view, assembled, view.release, view.nbytes), assembler


def _throw_away(made: _Made) -> None:
    memory, assembler = made
    memory.release()
    assembler.close()
