"""Errors as HTTP answers: one body shape, one table of status codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from owl_stream.errors import (
    AccessError,
    OwlStreamError,
    ProtocolVersionError,
    RequestError,
    StateMismatchError,
    TemporaryError,
    TooManyStreamsError,
    UnknownDatasetError,
)
from owl_stream.server.state import server_state

STATUS: dict[type[OwlStreamError], int] = {
    AccessError: 401,
    UnknownDatasetError: 404,
    StateMismatchError: 409,
    RequestError: 422,
    ProtocolVersionError: 426,
    TooManyStreamsError: 429,
    TemporaryError: 503,
}
"""The first match along an error's bases decides; what is not here is our fault or the data's: 500."""

RETRY_AFTER_S = 1.0


def refusal(exc: OwlStreamError, masked: Callable[[str], str] = str) -> JSONResponse:
    """The answer to a request that failed with `exc`. `masked` blots out tokens that somebody sent to a wrong place."""
    status = next((STATUS[base] for base in type(exc).__mro__ if base in STATUS), 500)
    error: dict[str, Any] = {"code": exc.code, "message": masked(str(exc)), "retryable": exc.retryable}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if isinstance(exc, StateMismatchError):
        error["differences"] = {name: list(map(masked, pair)) for name, pair in exc.differences.items()}
    if exc.retryable:
        wait_s = getattr(exc, "retry_after_s", 0.0) or RETRY_AFTER_S
        headers["Retry-After"] = str(math.ceil(wait_s))
    return JSONResponse({"error": error}, status, headers)


def install(app: FastAPI) -> None:
    """Make an app answer every error in our shape."""

    async def ours(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, OwlStreamError)
        return refusal(exc, (await server_state(request)).tokens.masked)

    async def invalid(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        parts = (f"{'.'.join(str(p) for p in e['loc'][1:])}: {e['msg']}, got {e['input']!r:.80}" for e in exc.errors())
        return refusal(RequestError("; ".join(parts)), (await server_state(request)).tokens.masked)

    async def http(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, HTTPException)
        error = {"code": "http", "message": str(exc.detail), "retryable": False}
        return JSONResponse({"error": error}, exc.status_code, exc.headers)

    app.add_exception_handler(OwlStreamError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
