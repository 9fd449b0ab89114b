"""One stream's delivery: assemble ahead within a budget, send in order, say when nothing comes, stop when told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from owl_stream import __version__
from owl_stream.assemble import Dataset
from owl_stream.engine import Consumer, Coordinate, Engine, FrameLease
from owl_stream.errors import DrainingError, OwlStreamError, TemporaryError
from owl_stream.server.direct import DirectSocket
from owl_stream.server.handover import Handover
from owl_stream.server.logs import stream_in_logs
from owl_stream.server.state import ServerState
from owl_stream.server.streams import StreamRecord
from owl_stream.wire import (
    ACCEPTED,
    MEDIA_TYPE,
    MEMORY_HEADER,
    PROTOCOL_VERSION,
    Cursor,
    End,
    ErrorInfo,
    Header,
    Heartbeat,
    Hello,
    MemoryOffer,
    Stats,
    pack_frame,
)

log = logging.getLogger("owl_stream.server")

CHUNK_BYTES = 1 << 20
"""What is handed to the transport at a time, where frames cannot go to the socket directly. It copies, so a slab may be
reused as soon as the last chunk is taken."""

STATS_EVERY_S = 5.0
MAX_AHEAD = 16
"""Frames assembled ahead of a reader, whatever the byte budget allows."""

ABORT = "owl_stream.abort"
"""Scope extension under which our protocol offers to drop the connection without waiting for its buffer."""

DIRECT = "owl_stream.direct"
"""Scope extension under which our protocol offers the connection's transport, whose socket frames are written to."""

STREAM_HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Journey:
    """What a stream was asked for: from `cursor`, every `stride`-th micro-batch, to the end of `epochs` epochs."""

    dataset: Dataset
    rank: int
    world_size: int
    micro_batch_size: int
    micros: int
    cursor: Cursor
    epochs: int
    stride: int

    def coordinates(self) -> Iterator[Coordinate]:
        """Every micro-batch of the journey, in order."""
        cursor, steps = self.cursor, self.dataset.steps_per_epoch
        while cursor.epoch < self.cursor.epoch + self.epochs:
            yield Coordinate(*cursor, self.rank, self.world_size, self.micro_batch_size)
            cursor = cursor.after(steps, self.micros, self.stride)

    def hello(self) -> Hello:
        """The first frame."""
        return Hello(
            protocol=PROTOCOL_VERSION,
            server=f"owl-stream/{__version__}",
            dataset=self.dataset.name,
            layout=self.dataset.layout,
            fingerprint=self.dataset.fingerprint,
            components=self.dataset.components,
            assembly=self.dataset.assembly,
            cursor=self.cursor,
            rank=self.rank,
            world_size=self.world_size,
            micro_batch_size=self.micro_batch_size,
            micros_per_step=self.micros,
            steps_per_epoch=self.dataset.steps_per_epoch,
            schema=self.dataset.schema,
        )

    def end(self) -> End:
        """The last frame of a journey that was completed."""
        return End(Cursor(self.cursor.epoch + self.epochs, 0, 0), True, self.dataset.totals)


class IdleReaderError(Exception):
    """The reader took nothing for the idle timeout."""


class Window:
    """Frames on their way to one reader, in order: as many as fit the byte budget, at least one."""

    def __init__(self, engine: Engine, journey: Journey, prefetch_bytes: int) -> None:
        self._engine, self._dataset, self._prefetch_bytes = engine, journey.dataset, prefetch_bytes
        self._consumer = Consumer(journey.dataset, journey.coordinates())
        self._tasks: deque[asyncio.Task[FrameLease]] = deque()
        self._largest = 0
        self._exhausted = False

    def fill(self) -> None:
        """Ask the engine for as many frames as the budget allows; the largest one seen stands for those to come."""
        # The frame that is being sent is in memory too; beside it one may always be on its way.
        ahead = min(MAX_AHEAD, self._prefetch_bytes // self._largest - 1) if self._largest else 2
        while not self._exhausted and len(self._tasks) < max(1, ahead):
            at = self._consumer.next()
            if at is None:
                self._exhausted = True
            else:
                self._tasks.append(asyncio.create_task(self._engine.frame(self._dataset, at, self._consumer)))

    @property
    def next(self) -> asyncio.Task[FrameLease] | None:
        """The frame that is to be sent next; None at the end of the journey."""
        return self._tasks[0] if self._tasks else None

    def take(self) -> FrameLease:
        """Remove the next frame, which must be done. Raises what its assembly raised."""
        lease = self._tasks.popleft().result()
        self._largest = max(self._largest, lease.view.nbytes)
        return lease

    async def aclose(self) -> None:
        """Give everything back."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, FrameLease):
                outcome.release()
        self._tasks.clear()


class Delivery(Response):
    """The response of a stream. Holds a place among the streams for as long as it runs.

    `reader` is the name of its token, `report` what its client said of itself, `offer` where it would take frames.
    """

    def __init__(
        self,
        journey: Journey,
        state: ServerState,
        reader: str,
        report: Mapping[str, float],
        offer: MemoryOffer | None = None,
    ) -> None:
        super().__init__(media_type=MEDIA_TYPE, headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._journey, self._reader, self._report, self._offer = journey, reader, report, offer
        self._engine, self._streams, self._tracing = state.engine, state.streams, state.tracing
        self._settings, self._draining = state.config.server, state.draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Deliver until the journey ends, the reader goes, stops reading, or the server drains."""
        first, name = next(self._journey.coordinates()), self._journey.dataset.name
        with (
            self._streams.admit(name, first, self._reader, self._report) as record,
            stream_in_logs(record.id),
            self._tracing.span("stream", lambda: {"stream": record.id, "dataset": name, **first._asdict()}),
        ):
            self.headers["Owl-Stream-Id"] = record.id
            log.info("of %s for rank %d of %d begins at %s", name, first.rank, first.world_size, first[:3])
            deliver = asyncio.create_task(self._deliver(scope, send, record))
            gone = asyncio.create_task(_disconnected(receive))
            try:
                await asyncio.wait({deliver, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (deliver, gone):
                    task.cancel()
                outcome, _ = await asyncio.gather(deliver, gone, return_exceptions=True)
            if isinstance(outcome, IdleReaderError):
                record.ended = "idle_timeout"
                log.warning("the reader took nothing for %g s", self._settings.idle_timeout_s)
                _abort(scope)
            elif isinstance(outcome, Exception):
                record.ended = "internal"
                raise outcome
            log.info("ends after %d batches, %d bytes: %s", record.batches, record.nbytes, record.ended)

    async def _deliver(self, scope: Scope, send: Send, record: StreamRecord) -> None:
        offer = self._offer if self._settings.shared_memory and self._engine.shares_memory else None
        with _Writer(scope, send, record, self._settings.idle_timeout_s, offer) as write:
            if write.in_memory:
                self.headers[MEMORY_HEADER] = ACCEPTED
            await write.begin(self.status_code, self.raw_headers)
            await self._deliver_frames(write, record)
            await write.end()

    async def _deliver_frames(self, write: _Writer, record: StreamRecord) -> None:
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
        self, window: Window, stop: asyncio.Task[bool], write: _Writer, record: StreamRecord
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


Answer = TypeVar("Answer")


class _Writer:
    """Writes a response, each piece within the idle timeout: to the socket itself where that is possible.

    Frames are left in memory where the reader can take them from there.
    """

    def __init__(
        self, scope: Scope, send: Send, record: StreamRecord, idle_timeout_s: float, offer: MemoryOffer | None
    ) -> None:
        self._scope, self._send, self._record, self._idle_timeout_s = scope, send, record, idle_timeout_s
        transport = scope.get("extensions", {}).get(DIRECT, {}).get("transport")
        self._direct = DirectSocket(transport) if transport is not None and DirectSocket.fits(transport) else None
        self._handover = Handover.meet(offer, self._direct) if self._direct is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for opened in (self._handover, self._direct):
            if opened is not None:
                opened.__exit__(kind, exc, tb)

    @property
    def in_memory(self) -> bool:
        """Whether the reader takes frames from memory."""
        return self._handover is not None

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await self._put({"type": "http.response.start", "status": status, "headers": headers})

    async def header(self, header: Header) -> None:
        await self.body(memoryview(pack_frame(header)))

    async def frame(self, lease: FrameLease) -> None:
        """Send a frame, or have the reader copy it."""
        if not await self._left_in_memory(lease):
            await self.body(lease.view)

    async def body(self, data: memoryview) -> None:
        """Send bytes."""
        with self._record.waiting.on("reader"):
            if self._direct is None:
                await self._put_chunks(data)
            else:
                await self._within_timeout(self._direct.write(data, self._idle_timeout_s))
        self._record.nbytes += data.nbytes

    async def _left_in_memory(self, lease: FrameLease) -> bool:
        """Have the reader copy a frame, if it can."""
        if self._handover is None or lease.place is None:
            return False
        with self._record.waiting.on("reader"):
            taken = await self._within_timeout(self._handover.put(lease.place, self._idle_timeout_s))
        self._record.nbytes += lease.place.nbytes if taken else 0
        return taken

    async def _put_chunks(self, data: memoryview) -> None:
        for start in range(0, data.nbytes, CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            await self._put({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _within_timeout(self, sending: Awaitable[Answer]) -> Answer:
        try:
            return await sending
        except TimeoutError as exc:
            raise IdleReaderError from exc
        except ConnectionError:
            _abort(self._scope)
            await asyncio.Event().wait()  # the transport is about to say that the reader is gone, which ends this task
            raise

    async def end(self) -> None:
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def _put(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await self._send(message)
        except TimeoutError as exc:
            raise IdleReaderError from exc


async def _disconnected(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _abort(scope: Scope) -> None:
    extension: Mapping[str, Callable[[], None]] | None = scope.get("extensions", {}).get(ABORT)
    if extension is None:
        raise TemporaryError("the reader took nothing, and this HTTP server offers no way to drop the connection")
    extension["abort"]()
