"""A TCP proxy between a client and a server that lets harm befall the answers that pass through it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.faults.harms import END_OF_HEAD, Harm, Pieces, ResetError
from tests.support.patience import PATIENCE_S

Choose = Callable[[str], Harm | None]
"""What befalls the answer to a request for a path; None: nothing."""

READ_BYTES = 1 << 16


class FaultProxy:
    """Listens on a port of its own and passes HTTP exchanges on to `upstream`, one a connection. A context manager.

    `befall` queues harms for the streams to come, each for one; once they are used up all goes well. `choose`, where
    given, decides instead for every request. `struck` counts, by kind, the harms that took effect.
    """

    def __init__(self, upstream: str, choose: Choose | None = None) -> None:
        self.upstream, self._choose = upstream, choose or self._queued
        self.waiting: deque[Harm] = deque()
        self.struck: Counter[str] = Counter()
        self.streams = self.nbytes = 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def befall(self, *harms: Harm) -> None:
        """Let each harm befall one of the next streams."""
        self.waiting.extend(harms)

    def drop(self) -> int:
        """End every connection that is open now; returns how many those were."""
        return self._call(self._drop())

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE_S)

    def _queued(self, path: str) -> Harm | None:
        return self.waiting.popleft() if self.waiting and "/stream" in path else None

    async def _drop(self) -> int:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return len(tasks)

    async def _close(self) -> None:
        self._server.close()
        await self._drop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._exchange(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # somebody left, or `drop` was called: the connection is over either way
        except ResetError:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(END_OF_HEAD)
        path = request.split(b" ", 2)[1].decode()
        to = urlsplit(self.upstream)
        from_server, to_server = await asyncio.open_connection(to.hostname, to.port)
        try:
            to_server.write(request)
            answer = asyncio.create_task(self._answer(path, from_server, writer))
            gone = asyncio.create_task(reader.read(1))
            try:
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    answer.result()
            finally:
                for task in (answer, gone):
                    task.cancel()
                await asyncio.gather(answer, gone, return_exceptions=True)
        finally:
            to_server.close()
            with suppress(ConnectionError):
                await to_server.wait_closed()

    async def _answer(self, path: str, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.streams += "/stream" in path
        pieces: Pieces = _pieces(from_server)
        if (harm := self._choose(path)) is not None:
            kind = type(harm).__name__
            pieces = harm(pieces, lambda: self.struck.update((kind,)))
        async for piece in pieces:
            self.nbytes += len(piece)
            writer.write(piece)
            await writer.drain()


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(READ_BYTES):
        yield piece
