"""uvicorn's HTTP protocol with the limits that it lacks: how many connections, how large and how slow a request."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from owl_stream.server.connections import Connections
from owl_stream.server.framing import CYCLE
from owl_stream.server.writer import ABORT, DIRECT

MAX_HEAD_BYTES = 32 << 10
MAX_BODY_BYTES = 64 << 10
"""No request of ours has a body but the login's; another small one is read and ignored."""

MAX_UNANSWERED = 32
"""Requests of one connection that are not answered yet. Some thousand fit into what is read at a time, and each costs
memory and a look at all others; browsers and libraries ask for one at a time."""

PARSED_BYTES = 4 << 10
"""Parsed at a time."""

NO_LIMIT = 1 << 30

REASONS = {
    408: b"Request Timeout",
    413: b"Content Too Large",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class LimitedProtocol(HttpToolsProtocol):
    """Refuses what would cost memory or a connection: 431, 413, 408, 503, each followed by a close.

    `request_timeout_s` and `places` are set on a subclass made for a server's settings. The former spans from the first
    byte of a request (or from the connection) to its last.
    """

    request_timeout_s = 10.0
    places = Connections(NO_LIMIT)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Begin to wait for a request, if there is a place."""
        super().connection_made(transport)
        self._received = 0
        self._body_bytes = 0
        self._in_body = False
        self._unanswered: list[RequestResponseCycle] = []
        self._deadline: asyncio.TimerHandle | None = None
        if self.places.admit(self):
            self._expect_request()
        else:
            self._refuse(503, "every connection of this server is in use: ask again, or ask another server")

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._expect_nothing()
        self.places.leave(self)
        self._tell_all()
        super().connection_lost(exc)
        # TLS keeps 256 KiB a connection. Without a circle it goes now, and not with the next garbage collection.
        self._unanswered = []
        self.transport.set_protocol(asyncio.Protocol())

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for the peer to read."""
        return self.transport.get_write_buffer_size()

    def drop(self) -> None:
        """End the connection at once. What is still sent goes nowhere: a closed transport would raise."""
        self._expect_nothing()
        self.transport.abort()
        self._tell_all()

    def data_received(self, data: bytes) -> None:
        """Parse, and refuse a head that has grown too large without being whole."""
        self._received += len(data)
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_request()  # also for bytes that begin nothing: they have ended the keep-alive's own timer
        for start in range(0, len(data), PARSED_BYTES):  # what is refused is not parsed to its end
            if not self.transport.is_closing():
                super().data_received(data[start : start + PARSED_BYTES])
        if self._received > MAX_HEAD_BYTES and not self._in_body and self._deadline is not None:
            self._refuse(431, f"request head: expected at most {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Start a new request's clock and offer the stream ways to drop the connection and to write to it directly."""
        super().on_message_begin()
        self._received, self._in_body = 0, False
        dropping = partial(_drop, weakref.ref(self))
        self.scope["extensions"] = {ABORT: {"abort": dropping}, DIRECT: {"transport": self.transport}}
        if self._deadline is None:
            self._expect_request()

    def on_headers_complete(self) -> None:
        """The head is whole: what comes now is body."""
        self._received, self._in_body = 0, True
        self._body_bytes = 0
        if self.transport.is_closing():
            return  # what else was read at once is parsed, and nobody is there to be answered
        if len(self._unanswered) >= MAX_UNANSWERED:
            self.places.refused["pipelined"] += 1
            self.drop()  # an answer could not be put in front of those that are under way
            return
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(431, f"request head: expected at most {MAX_HEAD_BYTES} bytes")
            return
        super().on_headers_complete()
        self._unanswered.append(self.cycle)
        if self.scope["http_version"] == "1.0" and self.cycle is not None:
            self.scope["extensions"][CYCLE] = {"cycle": self.cycle}

    def on_body(self, body: bytes) -> None:
        """Refuse a body that is too large."""
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(413, f"request body: expected at most {MAX_BODY_BYTES} bytes")
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: the clock stops."""
        self._expect_nothing()
        self._received = 0
        self.places.answering(self)
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is on its way: the connection may be kept, and then waits for the next request."""
        self._unanswered = [cycle for cycle in self._unanswered if not cycle.response_complete]
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next one has begun: it was pipelined
            self.places.silent(self)

    def _tell_all(self) -> None:
        """Every answer under way hears that the reader is gone: uvicorn tells only that of the latest request."""
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _expect_request(self) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(self.request_timeout_s, self._late)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._refuse(408, f"expected a whole request within {self.request_timeout_s:g} s")

    def _refuse(self, status: int, message: str) -> None:
        self._expect_nothing()
        if self.transport.is_closing():
            return
        self.places.refused[str(status)] += status != 503  # that one has counted itself
        body = message.encode()
        advice = b"retry-after: 1\r\n" if status == 503 else b""
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n%s"
            b"connection: close\r\n\r\n%s" % (status, REASONS[status], len(body), advice, body)
        )
        self.transport.close()


def _drop(protocol: weakref.ref[LimitedProtocol]) -> None:
    """Drop a connection, if it is still there."""
    if (there := protocol()) is not None:
        there.drop()


def limited_protocol(request_timeout_s: float, places: Connections | None = None) -> type[Any]:
    """The protocol class for a server's settings; without `places` there may be any number of connections."""
    settings = {"request_timeout_s": request_timeout_s, "places": places or Connections(NO_LIMIT)}
    return type("ServerProtocol", (LimitedProtocol,), settings)
