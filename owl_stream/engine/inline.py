"""Assembly in the server's own process, one frame at a time: for tests, debugging and very small machines."""

from __future__ import annotations

import asyncio

from owl_stream.assemble import Assembler, Dataset, Job
from owl_stream.blocking import Running, Threads
from owl_stream.engine.consumer import Consumer
from owl_stream.engine.shared import Engine, Memory

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


class _Place:
    """Where the frames of one dataset are made. An assembler belongs to the thread that uses it until that returns."""

    def __init__(self, dataset: Dataset, job_timeout_s: float) -> None:
        self.threads = Threads(f"assembling {dataset.name}", 4, job_timeout_s)
        self._dataset = dataset
        self._assembler: Assembler | None = None
        self._turn = asyncio.Lock()

    async def assemble(self, job: Job) -> Memory:
        async with self._turn:
            assembler, self._assembler = self._assembler, None
            what = f"assembling {self._dataset.name}, {job}"
            made: _Made = await self.threads.run(what, self._make, job, assembler, unwanted=_throw_away)
            memory, self._assembler = made
        return memory

    def close(self) -> None:
        if self._assembler is not None:
            self._assembler.close()

    def _make(self, job: Job, assembler: Assembler | None) -> _Made:
        assembler = assembler or self._dataset.assembler()
        try:
            buffer = memoryview(bytearray(self._dataset.capacity(job)))
            assembled = assembler.assemble(job, buffer)
        except BaseException:
            assembler.close()
            raise
        view = buffer[assembled.start : assembled.start + assembled.nbytes].toreadonly()
        return Memory(view, assembled, view.release, view.nbytes), assembler


def _throw_away(made: _Made) -> None:
    memory, assembler = made
    memory.release()
    assembler.close()
