"""One question to a server, with nothing hidden: what was answered, when, and how long each part took."""

from __future__ import annotations

import http.client
import ipaddress
import json
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from owl_client.connection import Token
from owl_client.deadline import Deadline
from owl_client.response import WholeResponse
from owl_client.waits import Waits, connect

ANSWER_S = 15.0
"""For one question and its whole answer."""
MAX_ANSWER_BYTES = 4 << 20


class NoConnectionError(TimeoutError):
    """Nobody took a connection in time."""


@dataclass(frozen=True)
class Reply:
    """An answer. `at`: by this machine's clock, in the middle of the exchange, in seconds since 1970."""

    status: int
    headers: Any
    body: bytes
    at: float
    connect_s: float

    @property
    def content(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True)
class Address:
    """Where a server is; `path` in front of its own paths."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Of an address that `check_url` has accepted."""
        parts = urlsplit(url)
        return cls(
            parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), parts.path
        )

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}{self.path}"

    @property
    def place(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def speaks_tls(self) -> bool:
        """Whether a TLS handshake succeeds there, whatever the certificate is."""
        try:
            connect(self.host, self.port, Deadline(ANSWER_S), without_trust(ssl.create_default_context())).close()
        except OSError:
            return False
        return True

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine by its very name."""
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost" or self.host.endswith(".localhost")

    def ask(self, path: str, context: ssl.SSLContext | None, token: Token | None = None) -> Reply:
        """GET a path, over a connection of its own.

        Raises:
            NoConnectionError: nobody took the connection in time.
            OSError, HTTPException: it cannot be had.
        """
        deadline, began = Deadline(ANSWER_S), time.monotonic()
        try:
            sock = connect(self.host, self.port, deadline, context)
        except TimeoutError as exc:
            raise NoConnectionError(str(exc)) from exc
        connected_s = time.monotonic() - began
        try:
            waits = Waits(sock, ANSWER_S, deadline)
            waits.expect("a whole answer", ANSWER_S)
            connection = http.client.HTTPConnection(self.host, self.port)
            connection.sock = sock
            headers = {"Accept-Encoding": "identity", "User-Agent": "owl-doctor"}
            if token is not None:
                headers["Authorization"] = token.header
            sent = time.time()
            connection.request("GET", self.path + path, headers=headers)
            with WholeResponse(sock, waits) as response:
                response.begin()
                at = (sent + time.time()) / 2
                return Reply(response.status, response.headers, response.read_most(MAX_ANSWER_BYTES), at, connected_s)
        finally:
            sock.close()


def without_trust(context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """To look at a server whose certificate is refused. No token may be sent over such a connection."""
    if context is None:
        return None
    open_to_all = ssl.create_default_context()
    open_to_all.check_hostname, open_to_all.verify_mode = False, ssl.CERT_NONE
    return open_to_all
