"""One stream's delivery: assemble ahead within a budget, send in order, say when nothing comes, stop when told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from starlette.types import Scope, Send

from owl_stream.engine import Coordinate, FrameLease
from owl_stream.errors import DrainingError, OwlStreamError
from owl_stream.server.answer import Answer
from owl_stream.server.journey import Journey
from owl_stream.server.state import ServerState
from owl_stream.server.streams import StreamRecord
from owl_stream.server.window import Window
from owl_stream.server.writer import Writer
from owl_stream.wire import ACCEPTED, MEMORY_HEADER, ErrorInfo, Heartbeat, MemoryOffer, Stats

log = logging.getLogger("owl_stream.server")

STATS_EVERY_S = 5.0


class Delivery(Answer):
    """The answer that is a stream. `report` is what its client said of itself, `offer` where it would take frames."""

    def __init__(
        self,
        journey: Journey,
        state: ServerState,
        reader: str,
        report: Mapping[str, float],
        offer: MemoryOffer | None = None,
    ) -> None:
        super().__init__(state, journey.dataset, next(journey.coordinates()), reader, report)
        self._journey, self._offer = journey, offer

    async def _deliver(self, scope: Scope, send: Send, record: StreamRecord) -> None:
        offer = self._offer if self._settings.shared_memory and self._engine.shares_memory else None
        with self._writer(scope, send, record, offer) as write:
            if write.in_memory:
                self.headers[MEMORY_HEADER] = ACCEPTED
            await write.begin(self.status_code, self.raw_headers)
            await self._deliver_frames(write, record)
            await write.end()

    async def _deliver_frames(self, write: Writer, record: StreamRecord) -> None:
        window = Window(self._engine, self._journey, self._settings.prefetch_bytes)
        stop = asyncio.create_task(self._draining.wait())
        try:
            await write.header(self._journey.hello())
            async for frame in self._frames(window, stop, write, record):
                record.at = frame.at
                with frame.lease as lease, self._tracing.span("frame", frame.attributes):
                    await write.frame(lease)
                self._streams.note_sent(record, frame.at, lease.assembled)
            await write.header(self._journey.end())
            record.ended = "completed"
        except OwlStreamError as exc:
            record.ended = exc.code
            log.info("%s: %s", exc.code, exc)
            await write.header(ErrorInfo(exc.code, str(exc), exc.retryable))
        finally:
            stop.cancel()
            await window.aclose()

    async def _frames(
        self, window: Window, stop: asyncio.Task[bool], write: Writer, record: StreamRecord
    ) -> AsyncIterator[_Placed]:
        coordinates, told = self._journey.coordinates(), time.monotonic()
        window.fill()
        while (task := window.next) is not None:
            while not task.done() and not stop.done():
                with record.waiting.on("assembly"):
                    await asyncio.wait({task, stop}, timeout=self._settings.heartbeat_s, return_when="FIRST_COMPLETED")
                if not task.done() and not stop.done():
                    await write.header(Heartbeat())
            if stop.done():
                raise DrainingError("the server is stopping: connect again, or to another server")
            placed = _Placed(next(coordinates), window.take())
            window.fill()
            yield placed
            if time.monotonic() - told > STATS_EVERY_S:
                told = time.monotonic()
                await write.header(self._stats(record))

    def _stats(self, record: StreamRecord) -> Stats:
        engine = self._engine.statistics()
        return Stats(
            {
                "assembly_wait_s": record.assembly_wait_s,
                "reader_wait_s": record.reader_wait_s,
                "queued": engine.queued,
                "busy": engine.busy,
                "workers": engine.workers,
                **{f"{stage}_s": seconds for stage, seconds in engine.seconds.items()},
            }
        )


@dataclass(frozen=True)
class _Placed:
    at: Coordinate
    lease: FrameLease

    def attributes(self) -> dict[str, str | float]:
        """Where it stands and what its assembly took, by stage, named for a trace."""
        seconds = {f"{stage}_s": seconds for stage, seconds in self.lease.assembled.seconds.items()}
        return {**self.at._asdict(), **seconds}
