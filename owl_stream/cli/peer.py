"""A running server as the command line sees it: `http.client` and the wire format, nothing that needs torch."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode, urlsplit

import typer

from owl_stream.errors import (
    ConfigError,
    FrameError,
    OwlStreamError,
    PeerGoneError,
    RequestError,
    ServerBusyError,
    ServerError,
    UnknownDatasetError,
)
from owl_stream.wire import BatchHeader, BatchLook, ErrorInfo, Frame, FrameParser, read_look

CONNECT_S, READ_S = 10.0, 15.0
"""Three heartbeats that do not come mean that the server is gone."""

FRAME_S = 120.0
"""Without a batch, whatever else comes."""

MAX_ANSWER_BYTES = 16 << 20
MAX_LOOK_BYTES = 1 << 30
"""Of a batch that people look at: its pictures are in it."""

TokenOption = Annotated[
    str | None, typer.Option(envvar="OWL_TOKEN", help="Bearer token of the server.", show_default=False)
]
CaOption = Annotated[
    Path | None, typer.Option("--ca", help="Certificate authority (PEM) that the server's certificate is held against.")
]


@dataclass(frozen=True)
class Peer:
    """One server. `url`: http(s)://host[:port][/path].

    Raises:
        ConfigError: not such an address, or a token or certificate file that cannot be used.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ConfigError(f"expected the server's address, http://host:port, got {self.url.rpartition('@')[2]!r}")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise ConfigError("--token: expected printable ASCII")

    def choose(self, dataset: str | None) -> str:
        """The dataset of that name, or the server's only one.

        Raises:
            UnknownDatasetError: no such name, or several and no name.
        """
        answer = self.json("/v1/datasets")
        listed = answer.get("datasets") if isinstance(answer, dict) else None
        if not isinstance(listed, dict | list):
            raise ConfigError(f"{self.url}: expected a list of datasets, got other JSON; is it an owl-stream server?")
        names = [str(name) for name in listed]
        if dataset is None and len(names) == 1:
            return names[0]
        if dataset not in names:
            asked = "there are several datasets" if dataset is None else f"no dataset {dataset!r}"
            raise UnknownDatasetError(f"{self.url}: {asked}; choose one with --dataset: {', '.join(names)}")
        return str(dataset)

    def look(self, path: str, query: Mapping[str, object]) -> BatchLook:
        """A batch as people look at it.

        Raises:
            OwlStreamError: as `json`; also an answer that is no look.
        """
        with self.open(path, query, _Watch(FRAME_S)) as response:
            try:
                return read_look(_whole(self.url, response, MAX_LOOK_BYTES))
            except FrameError as exc:
                raise ServerError(f"{self.url}: {exc}") from exc

    def json(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        """The JSON at a path.

        Raises:
            OwlStreamError: it cannot be had; the server's own words are in the message.
        """
        with self.open(path, query) as response:
            return _parsed(self.url, _whole(self.url, response))

    def frames(self, path: str, query: Mapping[str, object]) -> Iterator[Frame]:
        """The frames of an answer as they come; an `error` frame is raised. Close the iterator to hang up.

        Raises:
            OwlStreamError: as `json`; also bytes that are no frames.
        """
        parser, watch = FrameParser(), _Watch(READ_S)
        with self.open(path, query, watch) as response:
            watch.move(FRAME_S)
            while nbytes := _read(self.url, response, parser.buffer()):
                frame = parser.advance(nbytes)
                if frame is not None:
                    if isinstance(frame.header, BatchHeader):
                        watch.move(FRAME_S)
                    if isinstance(frame.header, ErrorInfo):
                        raise _error(self.url, frame.header.code, frame.header.message, frame.header.retryable)
                    yield frame
            parser.close()

    @contextmanager
    def open(
        self, path: str, query: Mapping[str, object] | None = None, watch: _Watch | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """A GET whose answer is 200, on a connection of its own that closes with the block.

        `watch` ends it; without one it is whole within READ_S.
        """
        parts = urlsplit(self.url)
        connection = self._connection(parts.scheme, parts.hostname or "", parts.port)
        headers = {"Accept-Encoding": "identity", "User-Agent": "owl-stream-cli"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        target = parts.path.rstrip("/") + quote(path) + (f"?{urlencode(query)}" if query else "")
        try:
            try:
                connection.connect()
                connection.sock.settimeout(READ_S)
            except (OSError, http.client.HTTPException) as exc:
                raise _unreachable(self.url, exc) from exc
            watch = watch or _Watch(READ_S)
            with watch.over(connection.sock):
                try:
                    connection.request("GET", target, headers=headers)
                    response = connection.getresponse()
                except (OSError, http.client.HTTPException) as exc:
                    raise _unreachable(self.url, TimeoutError() if watch.late else exc) from exc
                with response:
                    try:
                        if response.status != 200:
                            _refuse(self.url, response)
                        yield response
                    except OwlStreamError:
                        if watch.late:
                            raise PeerGoneError(f"{self.url}: no whole answer in time, though bytes came") from None
                        raise
        finally:
            connection.close()

    def _connection(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        if scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=CONNECT_S)
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as exc:
            raise ConfigError(f"--ca {self.ca}: not a certificate file: {exc}") from exc
        return http.client.HTTPSConnection(host, port, timeout=CONNECT_S, context=context)


def _unreachable(url: str, exc: Exception) -> ConfigError:
    return ConfigError(f"{url}: cannot reach it: {_reason(exc)}; is the server running there?")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:  # brackets that hold no address, a port that is no number
        return False
    named = parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
    return named and "@" not in parts.netloc and not parts.query


class _Watch:
    """Ends what reads from a socket once time is up: a socket's own timeout only bounds the silence between bytes."""

    def __init__(self, seconds: float) -> None:
        self._sock: socket.socket | None = None
        self._ended = threading.Event()
        self.late = False
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Let the time be up `seconds` from now."""
        self._until = time.monotonic() + seconds

    @contextmanager
    def over(self, sock: socket.socket) -> Iterator[None]:
        """Watch a socket for the length of a block."""
        self._sock = sock
        threading.Thread(target=self._run, daemon=True).start()
        try:
            yield
        finally:
            self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(max(0.0, self._until - time.monotonic())):
            if time.monotonic() >= self._until and self._sock is not None:
                self.late = True
                with suppress(OSError):
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
                return


def _whole(url: str, response: http.client.HTTPResponse, most: int = MAX_ANSWER_BYTES) -> bytes:
    """An answer's body, at most `most` bytes. Never by `read`, which believes the size of a chunk, even one of -1."""
    body, piece = bytearray(), memoryview(bytearray(1 << 16))
    while nbytes := _read(url, response, piece[: most - len(body)]):
        body += piece[:nbytes]
    return bytes(body)


def _read(url: str, response: http.client.HTTPResponse, buffer: memoryview) -> int:
    try:
        return response.readinto(buffer)
    except (OSError, http.client.HTTPException) as exc:
        raise PeerGoneError(f"{url}: {_reason(exc)}") from exc


def _refuse(url: str, response: http.client.HTTPResponse) -> None:
    body = _parsed(url, _whole(url, response))
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict) or (response.status == 404 and error.get("code") != "unknown_dataset"):
        raise ConfigError(f"{url}: answered {response.status} {response.reason}; is it an owl-stream server?")
    advice = "; say --token or set OWL_TOKEN; a token that was sent is none of this server's"
    message = f"{error.get('message')}{advice if response.status == 401 else ''}"
    raise _error(url, str(error.get("code")), message, error.get("retryable") is True)


def _error(url: str, code: str, message: str, retryable: bool) -> OwlStreamError:
    if retryable:
        return ServerBusyError(f"{url}: {message}")
    if code in ("data_changed", "contract", "internal"):
        return ServerError(f"{url}: {message}", code)
    return RequestError(f"{url}: {message}")


def _parsed(url: str, body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{url}: expected JSON, got {body[:40]!r}; is it an owl-stream server?") from exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "silent past its deadline"
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc) or type(exc).__name__
