"""The gate before every route: what is not listed as open needs a token, or the cookie that a login left."""

from __future__ import annotations

from collections import Counter
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote

from fastapi import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from owl_stream.errors import AccessError
from owl_stream.server.access import Tokens
from owl_stream.server.refusals import refusal
from owl_stream.server.sessions import COOKIE, open_session

OPEN = frozenset({"/health", "/livez", "/readyz", "/login"})
"""Orchestrators carry no tokens, and who logs in has no cookie yet. They hear how the server is, not what is in it."""

METRICS = "/metrics"


class Gate:
    """ASGI middleware: names the reader in the request's state, or answers 401; counts answers by status.

    A browser that asks for a page is sent to the login instead.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens, *, open_metrics: bool, statuses: Counter[int]) -> None:
        self._app, self._tokens, self._statuses = app, tokens, statuses
        self._open = OPEN | ({METRICS} if open_metrics else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._statuses[message["status"]] += 1
            await send(message)

        name = self._reader(scope)
        scope.setdefault("state", {})["reader"] = name or ""
        app = self._app if name is not None or scope["path"] in self._open else _refused(scope)
        await app(scope, receive, counted)

    def _reader(self, scope: Scope) -> str | None:
        """The name of the token that came; "" where none are asked for; None for a stranger."""
        if not self._tokens:
            return ""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if given:
            scheme, _, secret = given[0].partition(b" ")
            return self._tokens.name_of(secret.strip()) if len(given) == 1 and scheme.lower() == b"bearer" else None
        return open_session(self._tokens, _cookie(scope))


def reader_of(request: Request) -> str:
    """The name of the token that a request came with; "" for one without."""
    name: str = request.scope.get("state", {}).get("reader", "")
    return name


def _cookie(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"cookie":
            try:
                morsel = SimpleCookie(value.decode("latin-1")).get(COOKIE)
            except CookieError:
                continue
            if morsel is not None:
                return morsel.value
    return ""


def _refused(scope: Scope) -> Any:
    headers = dict(scope["headers"])
    path: str = scope["path"]
    if (
        scope["method"] == "GET"
        and b"text/html" in headers.get(b"accept", b"")
        and not path.startswith(("/v1/", METRICS))
    ):
        query = scope["query_string"].decode("latin-1")
        return RedirectResponse("/login?next=" + quote(path + ("?" + query if query else ""), safe=""), 303)
    return refusal(AccessError("this server asks for a token: send `Authorization: Bearer TOKEN`"))
