"""Logs: text for people or one JSON object a line; each says which stream it is about, none holds a token.

Messages, names and exceptions quote the data and whoever asks: in both forms lines are inert, and nobody can forge one.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from owl_stream.inert import InertLines, beneath, inert_json

_STREAM: ContextVar[str] = ContextVar("owl_stream_id", default="")


@contextmanager
def stream_in_logs(stream: str) -> Iterator[None]:
    """Whatever the block and the tasks it begins log is said of that stream."""
    token = _STREAM.set(stream)
    try:
        yield
    finally:
        _STREAM.reset(token)


def configure_logs(form: Literal["text", "json"], level: str, masked: Callable[[str], str] = str) -> None:
    """Send all logs to stderr in that form. `masked` blots secrets out of every line."""
    handler = logging.StreamHandler(beneath(sys.stderr))
    handler.addFilter(_stamp)
    handler.setFormatter(JsonLines(masked) if form == "json" else Text(masked))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _stamp(record: logging.LogRecord) -> bool:
    record.stream = _STREAM.get()
    return True


class Text(InertLines):
    """A line for people; a traceback has a margin, so that no line of it looks like another record."""

    def __init__(self, masked: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._masked = masked

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 # logging's own name
        """The line, with the stream before what is said of it."""
        stream = getattr(record, "stream", "")
        record.message = (f"stream {stream}: " if stream else "") + record.message
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback where there is one."""
        return self._masked(super().format(record))


class JsonLines(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, and stream and traceback where there are any."""

    def __init__(self, masked: Callable[[str], str]) -> None:
        super().__init__()
        self._masked = masked

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": stamp, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if stream := getattr(record, "stream", ""):
            line["stream"] = stream
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return inert_json({key: self._masked(value) for key, value in line.items()})
