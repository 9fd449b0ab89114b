"""What a server's refusal means: JSON errors of HTTP answers and `error` frames become typed exceptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

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
from owl_stream.wire.bounds import MAX_NAMED_VALUES

_MOST_TOLD = 4096
"""Characters of a text of a server's that an error repeats."""
_MOST_RETRY_AFTER_S = 86400.0
"""Longest advice that is believed; no single wait is as long."""

_BY_CODE: Mapping[str, Callable[[str], OwlStreamError]] = {
    "usage": RequestError,
    "bad_request": RequestError,
    "unknown_dataset": UnknownDatasetError,
    "fingerprint_mismatch": StateMismatchError,
    "protocol_version": ProtocolVersionError,
    "data_changed": DataChangedError,
    "contract": ContractError,
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
    return _make(info.code, f"{place}: {_text(info.message)}", info.retryable, 0.0, 0)


def error_from_answer(place: str, status: int, retry_after: str | None, body: bytes) -> OwlStreamError:
    """The exception that an HTTP answer other than 200 stands for; `place` names the server."""
    wait_s = _seconds(retry_after)
    error = _error_object(body)
    if error is None:
        text = f"{place}: HTTP status {status} without an explanation{_ADVICE.get(status, _UNEXPLAINED)}"
        return _make("", text, status in _PASSING_STATUSES, wait_s, status)
    code, retryable = _text(error.get("code")), error.get("retryable")
    text = f"{place}: {_text(error.get('message'))}{_ADVICE.get(status, '')}"
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
        answer = msgspec.json.decode(body)
    except (ValueError, RecursionError):  # a ValueError is msgspec's own; nesting ends at Python's limit
        return None
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, dict) else None


def _differences(raw: object) -> dict[str, tuple[str, str]]:
    if not isinstance(raw, dict):
        return {}
    pairs = [(name, pair) for name, pair in raw.items() if isinstance(pair, list) and len(pair) == 2]
    return {_text(name): (_text(pair[0]), _text(pair[1])) for name, pair in pairs[:MAX_NAMED_VALUES]}


def _text(value: object) -> str:
    """Text as far as a person would read it; nothing for any other value, which may be as deep as it likes."""
    if not isinstance(value, str):
        return ""
    return value if len(value) <= _MOST_TOLD else f"{value[:_MOST_TOLD]}..."


def _seconds(retry_after: str | None) -> float:
    """`Retry-After` in seconds; its other form, a date, depends on the wall clock and is not followed."""
    if not retry_after or not retry_after.isascii() or not retry_after.isdigit():
        return 0.0
    return min(float(retry_after), _MOST_RETRY_AFTER_S)
