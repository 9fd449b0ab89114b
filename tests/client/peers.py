"""Servers for tests: one in memory that follows a script, one on a real socket that can be made to misbehave."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from owl_client import Backoff, OwlStreamDataset
from owl_client.transport import Description, Interrupt, Share, StreamRequest
from owl_stream.errors import OwlStreamError, PeerGoneError
from owl_stream.wire import MEDIA_TYPE, Cursor
from tests.client.world import World

NO_WAIT = Backoff(first_s=0.0, most_s=0.0)

Fault = Callable[[list[bytes]], Iterable[bytes]]
"""Turns the frames that a server would send into the pieces that arrive."""


def cut_at(nbytes: int) -> Fault:
    """Only the first `nbytes` bytes arrive."""
    return lambda frames: [b"".join(frames)[:nbytes]]


def rearranged(change: Callable[[list[bytes]], list[bytes]]) -> Fault:
    """Whole frames, in another order or number."""
    return change


class MemoryStream:
    """A body that was written down before."""

    def __init__(self, data: bytes, transport: MemoryTransport) -> None:
        self._rest, self._transport = memoryview(data), transport

    def readinto(self, buffer: memoryview) -> int:
        """See `ByteStream`."""
        taken = min(self._transport.piece, buffer.nbytes, self._rest.nbytes)
        self._transport.largest_read = max(self._transport.largest_read, taken)
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken

    def close(self) -> None:
        """See `ByteStream`."""
        self._transport.closed += 1


@dataclass
class MemoryTransport:
    """Servers by URL. `faults` befall the streams in the order they are opened; then all goes well."""

    servers: dict[str, World | OwlStreamError]
    faults: list[Fault | OwlStreamError] = field(default_factory=list)
    piece: int = 1 << 20
    opened: list[tuple[str, StreamRequest]] = field(default_factory=list)
    closed: int = 0
    largest_read: int = 0

    def masked(self, text: str) -> str:
        """See `Transport`: nothing is secret here."""
        return text

    def describe(self, url: str, dataset: str, interrupt: Interrupt) -> Description:
        """See `Transport`."""
        return self._world(url).description()

    def open(self, url: str, request: StreamRequest, interrupt: Interrupt) -> MemoryStream:
        """See `Transport`."""
        world = self._world(url)
        self.opened.append((url, request))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, OwlStreamError):
            raise fault
        frames = world.frames(request)
        data = b"".join(frames if fault is None else fault(frames))
        return MemoryStream(data, self)

    def _world(self, url: str) -> World:
        server = self.servers.get(url, PeerGoneError(f"{url}: connection refused"))
        if isinstance(server, OwlStreamError):
            raise server
        return server


def memory_dataset(world: World, *faults: Fault | OwlStreamError, **options: Any) -> OwlStreamDataset:
    """A dataset that reads `world` through memory, without waits between tries."""
    transport = MemoryTransport({"http://a": world}, list(faults), options.pop("piece", 1 << 20))
    return OwlStreamDataset("http://a", transport=transport, backoff=NO_WAIT, **options)


Misdeed = Callable[[socket.socket, list[bytes]], None]
"""What a real server does on the connection of a stream, instead of sending its frames."""


class SocketServer:
    """A real HTTP/1.1 server on a real port. `misdeeds` befall streams in turn; `answers` replace whole answers."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.misdeeds: list[Misdeed] = []
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.queries: list[dict[str, list[str]]] = []
        self.released = threading.Event()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        """Stop listening and wait for all answers to end."""
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextmanager
def serving(world: World) -> Iterator[SocketServer]:
    """A `SocketServer` for the length of a block."""
    server = SocketServer(world)
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    owner: SocketServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer a description or a stream."""
        owner, parts = self.server.owner, urlsplit(self.path)
        owner.headers_seen.append(dict(self.headers))
        self.close_connection = True
        if owner.answers:
            self._answer(*owner.answers.pop(0))
        elif parts.path.endswith("/stream"):
            self._stream(parse_qs(parts.query))
        else:
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(owner.world.description_json()).encode())

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, query: dict[str, list[str]]) -> None:
        owner = self.server.owner
        owner.queries.append(query)
        at = {name: int(query[name][0]) for name in query if name != "fingerprint"}
        request = StreamRequest(
            "train",
            query.get("fingerprint", [""])[0],
            Cursor(at.get("epoch", 0), at.get("step", 0), at.get("micro", 0)),
            Share(at["rank"], at["world_size"], at["micro_batch_size"]),
            at.get("stride", 1),
        )
        self.send_response(200)
        self.send_header("Content-Type", MEDIA_TYPE)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        frames = owner.world.frames(request)
        (owner.misdeeds.pop(0) if owner.misdeeds else behave)(self.connection, frames)

    def log_message(self, *args: object) -> None:
        """Be silent."""


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def behave(sock: socket.socket, frames: list[bytes]) -> None:
    """Send everything."""
    sock.sendall(b"".join(chunk(frame) for frame in frames) + LAST_CHUNK)


def slice_bytes(sock: socket.socket, frames: list[bytes]) -> None:
    """Send everything in chunks of one byte."""
    sock.sendall(b"".join(chunk(bytes([byte])) for frame in frames for byte in frame) + LAST_CHUNK)


def close_after(nbytes: int) -> Misdeed:
    """Send so many bytes of the body, then close in the middle of the answer, as a killed process does."""
    return lambda sock, frames: sock.sendall(b"".join(chunk(frame) for frame in frames)[:nbytes])


def finish_after(count: int) -> Misdeed:
    """Send so many frames, then end the answer properly: a clean end without an `end` frame."""
    return lambda sock, frames: sock.sendall(b"".join(chunk(frame) for frame in frames[:count]) + LAST_CHUNK)


def reset_after(nbytes: int) -> Misdeed:
    """Send so many bytes, then RST."""

    def misdeed(sock: socket.socket, frames: list[bytes]) -> None:
        sock.sendall(b"".join(chunk(frame) for frame in frames)[:nbytes])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    return misdeed
