"""What HTTP asks of every route alike: HEAD where GET works, and bodies that end with the connection under HTTP/1.0."""

from __future__ import annotations

import sys
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CYCLE = "owl_stream.cycle"
"""Scope extension under which our protocol offers the answer's state, for HTTP/1.0 only."""

_HEAD = "owl_stream.head"


def only_head(request: Request) -> bool:
    """Whether the request is a HEAD: its answer has no body, so none need be made."""
    return bool(request.scope.get("extensions", {}).get(_HEAD))


class HeadAsGet:
    """ASGI middleware: a HEAD is answered with the status and headers of the GET, and no body (RFC 9110, 9.3.2).

    Routes see a GET without our ways around the HTTP layer. `only_head` tells those whose body costs something.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a HEAD; pass everything else on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET", "extensions": {_HEAD: {"asked": True}}}
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
