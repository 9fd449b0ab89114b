"""Answers that hold frames: each has a place among the streams, and loses it when its reader takes nothing."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from owl_stream.assemble import Dataset, look_at
from owl_stream.engine import Coordinate
from owl_stream.errors import OwlStreamError
from owl_stream.layouts import Layout
from owl_stream.server.logs import stream_in_logs
from owl_stream.server.state import ServerState
from owl_stream.server.streams import StreamRecord
from owl_stream.server.writer import IdleReaderError, Writer, abort, until_gone
from owl_stream.wire import MEDIA_TYPE, MemoryOffer, pack_look, parse_frames

log = logging.getLogger("owl_stream.server")

STREAM_HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}


class Answer(Response):
    """An answer to `reader` (the name of its token) that begins with the frame at `first`.

    Raises (when it is sent, before anything is):
        TooManyStreamsError: all places are taken.
        OwlStreamError: what `_deliver` raises.
    """

    media_type = MEDIA_TYPE
    what, words = "stream", "of"
    """What traces call it, and how its line in the log begins."""

    def __init__(
        self, state: ServerState, dataset: Dataset, first: Coordinate, reader: str, report: Mapping[str, float]
    ) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._dataset, self._first, self._reader, self._report = dataset, first, reader, report
        self._engine, self._streams, self._tracing = state.engine, state.streams, state.tracing
        self._settings, self._draining, self._connections = state.config.server, state.draining, state.connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Deliver until all is sent, the reader goes, or it stops reading."""
        first, name = self._first, self._dataset.name
        with (
            self._streams.admit(name, first, self._reader, self._report) as record,
            stream_in_logs(record.id),
            self._tracing.span(self.what, lambda: {"stream": record.id, "dataset": name, **first._asdict()}),
        ):
            self.headers["Owl-Stream-Id"] = record.id
            log.info("%s %s for rank %d of %d begins at %s", self.words, name, first.rank, first.world_size, first[:3])
            deliver = asyncio.create_task(self._deliver(scope, send, record))
            gone = asyncio.create_task(until_gone(receive))
            try:
                await asyncio.wait({deliver, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (deliver, gone):
                    task.cancel()
                outcome, listening = await asyncio.gather(deliver, gone, return_exceptions=True)
            if isinstance(listening, Exception):
                log.warning("the reader could not be listened to: %r", listening)
            self._end(outcome, scope, record)
            log.info("ends after %d batches, %d bytes: %s", record.batches, record.nbytes, record.ended)

    def _end(self, outcome: BaseException | None, scope: Scope, record: StreamRecord) -> None:
        """Note how it ended; raise what was not foreseen, or what the reader can still be told."""
        if isinstance(outcome, IdleReaderError):
            record.ended = "idle_timeout"
            self._connections.note_stuck()
            log.warning("the reader took nothing for %g s", self._settings.idle_timeout_s)
            abort(scope)
            _forget_where(outcome)
        elif isinstance(outcome, Exception):
            record.ended = outcome.code if isinstance(outcome, OwlStreamError) else "internal"
            raise outcome

    def _writer(self, scope: Scope, send: Send, record: StreamRecord, offer: MemoryOffer | None = None) -> Writer:
        return Writer(scope, send, record, self._settings.idle_timeout_s, offer)

    @abstractmethod
    async def _deliver(self, scope: Scope, send: Send, record: StreamRecord) -> None:
        """Send everything, and set `record.ended`."""


def _forget_where(exc: BaseException | None) -> None:
    """Drop the tracebacks of an error and its causes: their frames and the connection hold each other in a circle."""
    while exc is not None:
        exc.__traceback__, exc = None, exc.__cause__ or exc.__context__


class SingleFrame(Answer):
    """The answer that holds one frame. It is sent from where it lies, and nothing is copied for it."""

    what, words = "batch", "one batch of"

    async def _deliver(self, scope: Scope, send: Send, record: StreamRecord) -> None:
        with await self._engine.frame(self._dataset, self._first) as lease, self._writer(scope, send, record) as write:
            await write.begin(self.status_code, self.raw_headers)
            await write.frame(lease)
            await write.end()
        record.batches += 1
        record.ended = "completed"


class Look(Answer):
    """The answer that tells people what a batch looks like, as JSON: see `owl_stream.wire.BatchLook`."""

    what, words = "look", "a look at"
    media_type = "application/json"

    async def _deliver(self, scope: Scope, send: Send, record: StreamRecord) -> None:
        dataset, at = self._dataset, self._first
        with await self._engine.frame(dataset, at) as lease:
            copied = bytes(lease.view)
        look = await dataset.pages.run(f"a look at {at} of {dataset.name}", _look, dataset.layout, copied)
        with self._writer(scope, send, record) as write:
            await write.begin(self.status_code, self.raw_headers)
            await write.body(memoryview(look))
            await write.end()
        record.ended = "completed"


def _look(layout: Layout, frame: bytes) -> bytes:
    return pack_look(look_at(layout, next(parse_frames(frame))))
