"""What HTTP asks of every route alike: HEAD where GET works, bodies that end with the connection under HTTP/1.0, and an
end to answers that nobody reads."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from owl_stream.server.writer import ABORT, abort, until_gone

CYCLE = "owl_stream.cycle"
"""Scope extension under which our protocol offers the answer's state, for HTTP/1.0 only."""

_HEAD = "owl_stream.head"


def only_head(request: Request) -> bool:
    """Whether the request is a HEAD: its answer has no body, so none need be made."""
    return bool(request.scope.get("extensions", {}).get(_HEAD))


class HeadAsGet:
    """ASGI middleware: a HEAD is answered with the status and headers of the GET, and no body (RFC 9110, 9.3.2).

    Routes see a GET, and cannot write past the HTTP layer. Those whose body is expensive ask `only_head`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a HEAD; pass everything else on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        ways = {name: way for name, way in scope.get("extensions", {}).items() if name == ABORT}
        as_get = {**scope, "method": "GET", "extensions": {**ways, _HEAD: {"asked": True}}}
        await self._app(as_get, receive, send)


class CloseDelimited:
    """ASGI middleware: an answer to HTTP/1.0 without a length ends where the connection does (RFC 9112, 6.3).

    Chunked coding came with HTTP/1.1; uvicorn uses it whatever the request's version.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; under HTTP/1.0, with a body that is not chunked."""
        cycle: Any = scope.get("extensions", {}).get(CYCLE, {}).get("cycle")
        if scope["type"] != "http" or scope["http_version"] != "1.0" or cycle is None:
            await self._app(scope, receive, send)
            return
        unbounded = False

        async def plain(message: Message) -> None:
            nonlocal unbounded
            if message["type"] == "http.response.start":
                unbounded = not any(name.lower() == b"content-length" for name, _ in message["headers"])
                if unbounded:
                    cycle.chunked_encoding, cycle.expected_content_length = False, sys.maxsize
            elif unbounded and not message.get("more_body", False):
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, plain)


class UnreadAnswers:
    """ASGI middleware: an answer is broken off when its reader takes nothing of it for `idle_timeout_s`.

    Without it a client that asks twice on one connection and reads nothing would keep the second answer for ever.
    """

    def __init__(self, app: ASGIApp, idle_timeout_s: float, on_drop: Callable[[], None]) -> None:
        self._app, self._idle_timeout_s, self._on_drop = app, idle_timeout_s, on_drop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, each piece within the timeout."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        dropped = False

        async def in_time(message: Message) -> None:
            nonlocal dropped
            try:
                async with asyncio.timeout(self._idle_timeout_s):
                    if not dropped:
                        await send(message)
            except TimeoutError:
                dropped = True
                self._on_drop()
                abort(scope)
                await until_gone(receive)  # then the app may end as it would

        await self._app(scope, receive, in_time)
