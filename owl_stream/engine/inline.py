"""Assembly in the server's own process, one frame at a time: for tests, debugging and very small machines."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from owl_stream.assemble import Assembler, Dataset, Job
from owl_stream.blocking import Running, Threads
from owl_stream.engine.consumer import Consumer
from owl_stream.engine.shared import Engine, Memory
from owl_stream.engine.stalls import shards_of, stall_error

_Made = tuple[Memory, Assembler]


class InlineEngine(Engine):
    """Assembles in threads, one frame of a dataset at a time. A decoder that crashes takes the whole process with it.

    A frame that takes longer than `job_timeout_s` waits for storage: it is a retryable error, and its thread is stuck.
    """

    def __init__(self, *, job_timeout_s: float = 120.0) -> None:
        super().__init__()
        self._job_timeout_s = job_timeout_s
        self._datasets: dict[str, _DatasetThreads] = {}
        """By `Dataset.frames`."""

    async def _assemble(self, dataset: Dataset, job: Job, consumer: Consumer | None) -> Memory:
        made_in = self._datasets.get(dataset.frames)
        if made_in is None:
            made_in = self._datasets[dataset.frames] = _DatasetThreads(dataset, self._job_timeout_s)
        return await made_in.assemble(job)

    def stuck(self) -> list[Running]:
        """See `Engine.stuck`."""
        return [each for dataset in self._datasets.values() for each in dataset.threads.stuck()]

    def running(self) -> list[Running]:
        """See `Engine.running`."""
        return [each for dataset in self._datasets.values() for each in dataset.threads.running()]

    async def aclose(self) -> None:
        """Stop, and close the shards that assemblers hold open."""
        await super().aclose()
        for dataset in self._datasets.values():
            dataset.close()


@dataclass
class _Work:
    """A job in a thread: the row that it is at (-1: none), and whether the thread has begun, and is done with it."""

    job: Job
    row: int = -1
    begun: bool = False
    done: bool = False

    def progress(self, row: int) -> None:
        self.row = row

    @property
    def shards(self) -> set[int]:
        """Shards that the thread may be reading now."""
        return shards_of(self.job) if self.row < 0 else {self.job.row_at(self.row).shard}


class _DatasetThreads:
    """The threads that make one dataset's frames. An assembler belongs to the thread that uses it until that returns.

    While a thread is stuck at a shard, no other thread tries that shard: frames of other shards need the threads.
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
            except BaseException:
                if work.begun and not work.done:
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
            raise stall_error(self._dataset, job, shard)

    def _make(self, work: _Work, assembler: Assembler | None) -> _Made:
        work.begun = True
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
        return Memory(view, assembled, view.release), assembler


def _throw_away(made: _Made) -> None:
    memory, assembler = made
    memory.release()
    assembler.close()
