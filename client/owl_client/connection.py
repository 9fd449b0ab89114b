"""One HTTP exchange with one server, on a connection of its own, read straight into the caller's memory."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote, urlencode, urlsplit

from owl_client.answers import error_from_answer
from owl_client.body import Body, fast_body
from owl_client.deadline import Deadline
from owl_client.description import read_description
from owl_client.memory import Meeting, ServerMemory, same_machine
from owl_client.response import WholeResponse
from owl_client.transport import Description, Interrupt, StreamRequest
from owl_client.waits import LateError, Waits, connect
from owl_stream.errors import ConfigError, OwlStreamError, PeerGoneError, ServerError
from owl_stream.inert import inert
from owl_stream.wire import MEDIA_TYPE, MEMORY_HEADER

TOKEN_VARIABLE = "OWL_TOKEN"
MAX_ANSWER_BYTES = 4 << 20
"""Of a JSON answer; a description of a dataset has a few kilobytes."""
MAX_ERROR_BYTES = 64 << 10


@dataclass(frozen=True)
class Token:
    """A secret that never shows itself: it is masked in `repr`, `str` and every error."""

    _secret: str

    def __post_init__(self) -> None:
        if not self._secret.isascii() or not self._secret.isprintable() or " " in self._secret:
            raise ConfigError("token: expected printable ASCII without spaces; check token= and OWL_TOKEN")

    def __repr__(self) -> str:
        return "***"

    @property
    def header(self) -> str:
        """The value of the `Authorization` header."""
        return f"Bearer {self._secret}"

    def masked(self, text: str) -> str:
        """`text` with the secret blotted out, should a server repeat it."""
        return text.replace(self._secret, "***")

    @classmethod
    def find(cls, token: str | None) -> Token | None:
        """The token given, else that of the environment variable OWL_TOKEN, else none."""
        secret = token if token is not None else os.environ.get(TOKEN_VARIABLE, "")
        return cls(secret) if secret else None


@dataclass(frozen=True)
class Tls:
    """Files in PEM form, for servers with `https` addresses.

    `ca` is whom to trust instead of the system's authorities; `certificate` and `key` show who we are to a server that
    asks for it.

    Raises:
        ConfigError: a file cannot be read or is no PEM, or only one of `certificate` and `key` is given.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("tls: expected both certificate and key, or neither")
        if self.ca is not None or self.certificate is not None:
            self.context()

    def context(self) -> ssl.SSLContext:
        """Made anew for every connection: a context cannot go to another process, the paths can."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except OSError as exc:  # an SSLError is one
            raise ConfigError(f"tls: {exc.strerror or exc}; see ca, certificate and key of {self}") from exc
        return context


@dataclass(frozen=True)
class Timeouts:
    """How long to wait within one exchange; `give_up_after_s` of the dataset bounds all of them together.

    Args:
        connect_s: for a connection: all addresses of the host and TLS together. How long looking up the name may take
            is the system's setting.
        read_s: for any byte of a stream, and for the whole head of an answer, and for a whole description or refusal.

    A server sends a heartbeat every 5 s, so after three missed ones the connection is held to be dead.

    Raises:
        ConfigError: not a number of seconds above 0.
    """

    connect_s: float = 10.0
    read_s: float = 15.0

    def __post_init__(self) -> None:
        if not (self.connect_s > 0 and self.read_s > 0):
            raise ConfigError(f"timeouts: expected seconds above 0, got {self.connect_s} and {self.read_s}")


def check_url(url: str) -> str:
    """A server's base address without a trailing slash.

    Raises:
        ConfigError: not `http(s)://host[:port][/path]`; secrets belong in `token`, not in the address.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")  # as looking it up does, for which a label has 1 to 63 characters
    except (ValueError, AttributeError):
        raise ConfigError("url: expected http://host:port, got something that is not an address") from None
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"url: expected http://host:port, got {url.rpartition('@')[2]!r}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"url: expected http://host:port alone, got credentials, a query or a fragment for {parts.hostname}; "
            f"pass secrets as token="
        )
    return url.rstrip("/")


@dataclass(frozen=True)
class HttpTransport:
    """HTTP/1.1 by `http.client`; every request has a fresh connection."""

    token: Token | None = None
    timeouts: Timeouts = Timeouts()
    tls: Tls = Tls()

    def masked(self, text: str) -> str:
        """See `Transport.masked`."""
        return self.token.masked(text) if self.token else text

    def describe(self, url: str, dataset: str, interrupt: Interrupt | None = None) -> Description:
        """See `Transport.describe`."""
        with self._translated(url):
            connection, response = self._get(
                url, f"/v1/datasets/{quote(dataset, safe='')}", interrupt := interrupt or Interrupt()
            )
            try:
                response.waits.expect("a whole description", self.timeouts.read_s)
                return read_description(url, response.read_most(MAX_ANSWER_BYTES), dataset)
            finally:
                interrupt.on_set(None)
                response.close()
                connection.close()

    def open(self, url: str, request: StreamRequest, interrupt: Interrupt) -> HttpByteStream:
        """See `Transport.open`."""
        path = f"/v1/datasets/{quote(request.dataset, safe='')}/stream?{urlencode(request.query())}"
        with self._translated(url), Meeting() as meeting:
            connection, response = self._get(url, path, interrupt, request.report, meeting)
            stream = HttpByteStream(url, connection, response, interrupt)
            try:
                memory = meeting.accept(response.headers.get(MEMORY_HEADER))
                stream.begin(self.timeouts.read_s, memory, interrupt.deadline)
            except BaseException:
                stream.close()
                raise
        media_type, coding = response.headers.get_content_type(), response.headers.get("Content-Encoding", "identity")
        if media_type != MEDIA_TYPE or coding != "identity":
            stream.close()
            raise ServerError(
                f"{url}: expected {MEDIA_TYPE}, uncompressed, got {media_type} ({coding}); is a proxy between?"
            )
        return stream

    def _get(
        self,
        url: str,
        path: str,
        interrupt: Interrupt,
        report: Iterable[tuple[str, float]] = (),
        meeting: Meeting | None = None,
    ) -> tuple[http.client.HTTPConnection, WholeResponse]:
        parts = urlsplit(url)
        connection = self._connection(parts.scheme, parts.hostname or "", parts.port, interrupt)
        sock: socket.socket = connection.sock
        waits = Waits(sock, self.timeouts.read_s, interrupt.deadline)
        waits.expect("the head of an answer", self.timeouts.read_s)
        try:
            with interrupt.waking(lambda: _shut_down(sock)):
                waits.before_read()
                offer = meeting.offer(sock) if meeting and parts.scheme == "http" else {}
                connection.request("GET", parts.path + path, headers={**self._headers(report), **offer})
                return connection, self._answer(url, WholeResponse(sock, waits))
        except BaseException:
            connection.close()
            raise

    def _answer(self, url: str, response: WholeResponse) -> WholeResponse:
        """The response with its head read, if the server did not refuse."""
        try:
            response.begin()
            if response.status != 200:
                response.waits.expect("an explanation", self.timeouts.read_s)
                _refuse(url, response)
        except BaseException:
            response.close()
            raise
        return response

    def _connection(self, scheme: str, host: str, port: int | None, interrupt: Interrupt) -> http.client.HTTPConnection:
        """A connection that is open already: `http.client` would give each address and TLS the whole time anew."""
        context = self.tls.context() if scheme == "https" else None
        connection = (
            http.client.HTTPSConnection(host, port or 443, context=context)
            if context
            else http.client.HTTPConnection(host, port or 80)
        )
        connection.sock = connect(host, connection.port, interrupt.deadline.within(self.timeouts.connect_s), context)
        return connection

    def _headers(self, report: Iterable[tuple[str, float]]) -> dict[str, str]:
        authorization = {"Authorization": self.token.header} if self.token else {}
        stats = "&".join(f"{name}={seconds:.3f}" for name, seconds in report)
        reported = {"Owl-Client-Stats": stats} if stats else {}
        return {"Accept-Encoding": "identity", "User-Agent": "owl-client", **reported, **authorization}

    def _shown(self, exc: Exception) -> Exception:
        """The same, without the token and inert: tracebacks show causes, and `http.client` quotes servers raw."""
        exc.args = tuple(inert(self.masked(word)) if isinstance(word, str) else word for word in exc.args)
        return exc

    @contextmanager
    def _translated(self, url: str) -> Iterator[None]:
        try:
            yield
        except OwlStreamError as exc:
            if exc.args and isinstance(exc.args[0], str):
                exc.args = (self.masked(exc.args[0]), *exc.args[1:])
            raise
        except (OSError, http.client.HTTPException) as exc:
            if _refuses_tls(exc):
                raise ServerError(
                    f"{url}: no trust: {_reason(exc)}; pass tls=Tls(ca=..., certificate=..., key=...)"
                ) from exc
            told = f"{url}: {_reason(exc)}"
            raise PeerGoneError(self.masked(told)) from self._shown(exc)


class HttpByteStream:
    """The body of a streaming answer."""

    def __init__(
        self,
        url: str,
        connection: http.client.HTTPConnection,
        response: WholeResponse,
        interrupt: Interrupt,
    ) -> None:
        self._url, self._connection, self._response, self._interrupt = url, connection, response, interrupt
        self._body: Body = response
        self._memory: ServerMemory | None = None

    def begin(self, read_s: float, memory: ServerMemory | None, deadline: Deadline) -> None:
        """Read the body from the socket itself, and frames from `memory`, from here on.

        `read_s` is as in `Timeouts`, and `deadline` that of the try.
        """
        self._memory = memory
        self._response.waits.expect_stream()
        self._body = fast_body(self._response, self._response.sock, read_s, memory, deadline)

    @property
    def on_one_machine(self) -> bool:
        """Whether both ends of the connection have one address."""
        return same_machine(self._response.sock)

    @property
    def in_memory(self) -> bool:
        """Whether frames are copied from the server's memory."""
        return self._memory is not None

    def readinto(self, buffer: memoryview) -> int:
        """See `ByteStream.readinto`."""
        try:
            return self._body.readinto(buffer)
        except (OSError, ValueError, http.client.HTTPException) as exc:
            raise PeerGoneError(f"{self._url}: {_reason(exc)}") from _inert_cause(exc)

    def close(self) -> None:
        """See `ByteStream.close`."""
        self._interrupt.on_set(None)
        if self._memory is not None:
            self._memory.close()
        self._response.close()
        self._connection.close()


def _refuse(url: str, response: WholeResponse) -> NoReturn:
    with response:
        body, after = response.read_most(MAX_ERROR_BYTES), response.headers.get("Retry-After")
        raise error_from_answer(url, response.status, after, body)


def _shut_down(sock: socket.socket) -> None:
    """Wake a thread that waits in `recv`; past TLS, whose own goodbye would wait for the peer's."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _refuses_tls(exc: Exception) -> bool:
    """Whether one side does not trust the other, which waiting does not change."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return True
    reason = exc.reason or "" if isinstance(exc, ssl.SSLError) else ""
    return "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason)


def _inert_cause(exc: Exception) -> Exception:
    """The same, its words made inert: a traceback shows it too, and `http.client` quotes servers as they are."""
    exc.args = tuple(inert(word) if isinstance(word, str) else word for word in exc.args)
    return exc


def _reason(exc: Exception) -> str:
    if isinstance(exc, LateError):
        return str(exc)
    if isinstance(exc, TimeoutError):
        return "silent past its deadline"
    if isinstance(exc, http.client.IncompleteRead):
        return "the connection closed inside the answer"
    if isinstance(exc, ConnectionRefusedError):
        return "connection refused: is the server running there?"
    if isinstance(exc, ssl.SSLError) and exc.reason == "WRONG_VERSION_NUMBER":
        return "https:// was asked for, but TLS is not spoken there: is its address http://...?"
    return f"{type(exc).__name__}: {exc}"
