"""What a server's refusal means: JSON errors of HTTP answers and `error` frames become typed exceptions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from owl_stream.errors import (
    ContractError,
    DataChangedError,
    OwlStreamError,
    ProtocolVersionError,
    ReadError,
    RequestError,
    ServerBusyError,
    ServerError,
    StateMismatchError,
    UnknownDatasetError,
    WorkerError,
)
from owl_stream.wire import ErrorInfo

_BY_CODE: Mapping[str, Callable[[str], OwlStreamError]] = {
    "usage": RequestError,
    "bad_request": RequestError,
    "unknown_dataset": UnknownDatasetError,
    "fingerprint_mismatch": StateMismatchError,
    "protocol_version": ProtocolVersionError,
    "data_changed": DataChangedError,
    "contract": ContractError,
    "media_offset": ContractError,
    "read": ReadError,
    "worker": WorkerError,
    "busy": ServerBusyError,
    "too_many_streams": ServerBusyError,
    "draining": ServerBusyError,
    "idle_timeout": ServerBusyError,
}

_PASSING_STATUSES = frozenset({408, 429, 502, 503, 504})
"""HTTP statuses that a proxy between us and the server also gives, and that pass by waiting."""

_ADVICE = {
    401: "; pass token= or set OWL_TOKEN; a token that was sent is none of this server's",
    403: "; this token may not read here",
}
_UNEXPLAINED = "; is it an owl-stream server?"


def error_from_frame(place: str, info: ErrorInfo) -> OwlStreamError:
    """The exception that an `error` frame stands for; `place` names the server."""
    return _make(info.code, f"{place}: {info.message}", info.retryable, 0.0, 0)


def error_from_answer(place: str, status: int, retry_after: str | None, body: bytes) -> OwlStreamError:
    """The exception that an HTTP answer other than 200 stands for; `place` names the server."""
    wait_s = _seconds(retry_after)
    error = _error_object(body)
    if error is None:
        text = f"{place}: HTTP status {status} without an explanation{_ADVICE.get(status, _UNEXPLAINED)}"
        return _make("", text, status in _PASSING_STATUSES, wait_s, status)
    code, retryable = str(error.get("code", "")), error.get("retryable")
    text = f"{place}: {error.get('message', '')}{_ADVICE.get(status, '')}"
    if code == StateMismatchError.code:
        return StateMismatchError(text, _differences(error.get("differences")))
    return _make(code, text, retryable is True or (retryable is None and status in _PASSING_STATUSES), wait_s, status)


def _make(code: str, text: str, retryable: bool, wait_s: float, status: int) -> OwlStreamError:
    known = _BY_CODE.get(code, ServerBusyError if retryable else ServerError)
    if known is ServerBusyError:
        return ServerBusyError(text, wait_s)
    if known is ServerError:
        return ServerError(text, code, status)
    return known(text)


def _error_object(body: bytes) -> dict[str, object] | None:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return error if isinstance(error, dict) else None


def _differences(raw: object) -> dict[str, tuple[str, str]]:
    if not isinstance(raw, dict):
        return {}
    return {
        str(name): (str(pair[0]), str(pair[1]))
        for name, pair in raw.items()
        if isinstance(pair, list) and len(pair) == 2
    }


def _seconds(retry_after: str | None) -> float:
    """`Retry-After` in seconds; its other form, a date, depends on the wall clock and is not followed."""
    return float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else 0.0
