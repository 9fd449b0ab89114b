"""How a stream's bytes leave: to the socket itself, through shared memory, or through the HTTP layer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from starlette.types import Receive, Scope, Send

from owl_stream.engine import FrameLease
from owl_stream.errors import TemporaryError
from owl_stream.server.direct import DirectSocket
from owl_stream.server.handover import Handover
from owl_stream.server.streams import StreamRecord
from owl_stream.wire import Header, MemoryOffer, pack_frame

CHUNK_BYTES = 1 << 20
"""What is handed to the HTTP layer at a time, where frames cannot go to the socket directly."""

ABORT = "owl_stream.abort"
"""Scope extension under which our protocol offers to drop the connection without waiting for its buffer."""

DIRECT = "owl_stream.direct"
"""Scope extension under which our protocol offers the connection's transport, whose socket frames are written to."""

Result = TypeVar("Result")


class IdleReaderError(Exception):
    """The reader took nothing for the idle timeout."""


class Writer:
    """Writes a response, each piece within the idle timeout: to the socket itself where that is possible.

    Frames are left in memory where the reader can take them from there: `offer`, if it made one. A context manager.

    Raises (every method that writes):
        IdleReaderError: the reader took nothing for `idle_timeout_s`.
    """

    def __init__(
        self, scope: Scope, send: Send, record: StreamRecord, idle_timeout_s: float, offer: MemoryOffer | None
    ) -> None:
        self._scope, self._send, self._record, self._idle_timeout_s = scope, send, record, idle_timeout_s
        self._direct: DirectSocket | None = None
        self._handover: Handover | None = None
        transport = scope.get("extensions", {}).get(DIRECT, {}).get("transport")
        self._copies = scope["http_version"] != "1.0"
        """Whether the HTTP layer copies what it is handed. It does to make chunks, which HTTP/1.0 does not have."""
        with ExitStack() as opened:
            if transport is not None and self._copies and DirectSocket.fits(transport):
                self._direct = opened.enter_context(DirectSocket(transport))
                if (handover := Handover.meet(offer, self._direct)) is not None:
                    self._handover = opened.enter_context(handover)
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._opened.close()

    @property
    def in_memory(self) -> bool:
        """Whether the reader takes frames from memory."""
        return self._handover is not None

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the answer's head."""
        await self._put({"type": "http.response.start", "status": status, "headers": headers})

    async def header(self, header: Header) -> None:
        """Send a frame without a payload."""
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
            with data[start : start + CHUNK_BYTES] as chunk:
                body = chunk if self._copies else bytes(chunk)
                await self._put({"type": "http.response.body", "body": body, "more_body": True})

    async def _within_timeout(self, sending: Awaitable[Result]) -> Result:
        try:
            return await sending
        except TimeoutError as exc:
            raise IdleReaderError from exc
        except ConnectionError:
            abort(self._scope)
            await asyncio.Event().wait()  # the transport is about to say that the reader is gone, which ends this task
            raise

    async def end(self) -> None:
        """Complete the answer."""
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def _put(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await self._send(message)
        except TimeoutError as exc:
            raise IdleReaderError from exc


def abort(scope: Scope) -> None:
    """Drop the connection, whatever still waits to be sent."""
    extension: Mapping[str, Callable[[], None]] | None = scope.get("extensions", {}).get(ABORT)
    if extension is None:
        raise TemporaryError("the reader took nothing, and this HTTP server offers no way to drop the connection")
    extension["abort"]()


async def until_gone(receive: Receive) -> None:
    """Wait until the HTTP layer says that the connection has ended."""
    while (await receive())["type"] != "http.disconnect":
        pass
