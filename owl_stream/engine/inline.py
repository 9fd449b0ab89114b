"""Assembly in the server's own process, one frame at a time: for tests, debugging and very small machines."""

from __future__ import annotations

import asyncio

from owl_stream.assemble import Assembler, Dataset, Job
from owl_stream.engine.consumer import Consumer
from owl_stream.engine.shared import Engine, Memory


class InlineEngine(Engine):
    """Assembles in a thread, one frame at a time. A decoder that crashes takes the whole process with it."""

    def __init__(self) -> None:
        super().__init__()
        self._assemblers: dict[str, Assembler] = {}
        self._turn = asyncio.Lock()

    async def _assemble(self, dataset: Dataset, job: Job, consumer: Consumer | None) -> Memory:
        async with self._turn:
            return await asyncio.to_thread(self._assemble_now, dataset, job)

    def _assemble_now(self, dataset: Dataset, job: Job) -> Memory:
        assembler = self._assemblers.get(dataset.frames)
        if assembler is None:
            assembler = self._assemblers[dataset.frames] = dataset.assembler()
        buffer = memoryview(bytearray(dataset.capacity(job)))
        assembled = assembler.assemble(job, buffer)
        view = buffer[assembled.start : assembled.start + assembled.nbytes].toreadonly()
        return Memory(view, assembled, view.release, view.nbytes)

    async def aclose(self) -> None:
        """Stop, and close the shards that assemblers hold open."""
        await super().aclose()
        for assembler in self._assemblers.values():
            assembler.close()
