"""Servers that talk without saying anything: none stops the clock that counts, the time since the last batch."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import trustme

from owl_client import OwlStreamDataset, Timeouts, Tls
from owl_client.connection import HttpTransport
from owl_client.deadline import Deadline
from owl_client.failover import Failover
from owl_client.order import Order
from owl_client.response import MAX_HEAD_BYTES, MAX_TRAILER_BYTES
from owl_client.stream import EpochStream
from owl_client.transport import Interrupt, Share, StreamRequest
from owl_stream.errors import ConfigError, OwlStreamError, PeerGoneError, ServerBusyError, ServerError
from owl_stream.wire import MEDIA_TYPE, Cursor, ErrorInfo, Heartbeat, Stats, pack_frame
from tests.client.peers import NO_WAIT, MemoryTransport, chunk, memory_dataset, serving
from tests.client.world import World, keys_of
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.long

WORLD = World(steps=4)
UNDISTURBED = keys_of(memory_dataset(WORLD))
REQUEST = StreamRequest("train", WORLD.fingerprint, Cursor(0, 0, 0), Share(0, 1, WORLD.rows))
FRAMES = WORLD.frames(REQUEST)
HEARTBEAT, STATS = pack_frame(Heartbeat()), pack_frame(Stats({"decode_s": 0.5}))
HELLO = FRAMES[0]

GIVE_UP_S = 1.0
"""Long enough for a description on a busy machine."""
SHARED_S = 4.0
"""For two servers: half of it is long enough for a batch of the healthy one."""
PAUSE_S = 0.02
"""Between two bytes that drip. No timeout of a socket is shorter here."""

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: " + MEDIA_TYPE.encode() + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
DESCRIPTION = json.dumps(WORLD.description_json()).encode()
DESCRIBED = JSON_HEAD + b"Content-Length: %d\r\n\r\n" % len(DESCRIPTION) + DESCRIPTION
BUSY = b'{"error": {"code": "busy", "message": "later", "retryable": true}}'


class Talker:
    """A server on a real socket. It answers every request for a description, or for a stream, with the same pieces.

    What is not its subject it answers as it should. With `context` it speaks TLS.
    """

    def __init__(self, pieces: Callable[[], Iterable[bytes]], pause_s: float, *, describes: bool) -> None:
        self.pieces, self.pause_s, self.describes = pieces, pause_s, describes
        self.context: ssl.SSLContext | None = None
        self.released = threading.Event()
        self.asked = 0

    def answer(self, sock: socket.socket) -> None:
        """One exchange: it ends when the pieces do, or the client leaves."""
        if self.context is not None:
            sock = self.context.wrap_socket(sock, server_side=True)
        with sock:
            request = b""
            while b"\r\n\r\n" not in request:
                request += sock.recv(1 << 16)
            if self.describes and b"/stream?" not in request:
                sock.sendall(DESCRIBED)
                return
            self.asked += 1
            for piece in self.pieces():
                sock.sendall(piece)
                if self.released.wait(self.pause_s):
                    return


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """The client leaves when it has had enough, which is no error here."""
        with suppress(OSError):
            self.server.talker.answer(self.request)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    talker: Talker


@contextmanager
def talking(talker: Talker) -> Iterator[str]:
    """The address of a talker, for the length of a block."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.talker = talker
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if talker.context else ''}://127.0.0.1:{server.server_address[1]}"
        finally:
            talker.released.set()
            server.shutdown()
            thread.join()


def dataset_of(url: str | list[str], give_up_after_s: float, **options: Any) -> OwlStreamDataset:
    """A dataset whose sockets would wait for ever: only its clock ends a try."""
    patient = Timeouts(PATIENCE_S, PATIENCE_S)
    options = {"timeouts": patient, "backoff": NO_WAIT, "give_up_after_s": give_up_after_s, **options}
    return OwlStreamDataset(url, **options)


def head(end: bytes) -> bytes:
    """The head of a streaming answer."""
    return HEAD + end + b"\r\n\r\n"


def after(*first: bytes, then: bytes = b"") -> Callable[[], Iterable[bytes]]:
    """Some pieces, then the same one for ever; without one, silence."""
    return lambda: chain(first, repeat(then))


def dripping(start: bytes, data: bytes) -> Callable[[], Iterable[bytes]]:
    """`data` byte by byte, again and again."""
    return lambda: chain([start], (bytes([byte]) for _ in repeat(None) for byte in data))


def framed(*frames: bytes, then: bytes) -> Callable[[], Iterable[bytes]]:
    """Some frames, then the same one for ever, each in a chunk."""
    return after(HEAD + CHUNKED, *map(chunk, frames), then=chunk(then))


Case = tuple[Callable[[], Iterable[bytes]], float, type[OwlStreamError], str]
"""What is said, the pause after each piece, and the error where nobody else can be asked."""

BEFORE: dict[str, Case] = {
    "never_answers": (after(), PAUSE_S, PeerGoneError, "silent past its deadline"),
    "status_line_drips": (
        dripping(b"", b"HTTP"),
        PAUSE_S,
        PeerGoneError,
        "expected the head of an answer within .*got",
    ),
    "header_drips": (dripping(HEAD + b"X: ", b"x"), PAUSE_S, PeerGoneError, "expected the head of an answer within"),
    "headers_drip": (dripping(HEAD, b"X:\n"), PAUSE_S, PeerGoneError, "the head of an answer|more than 100 headers"),
    "endless_headers": (after(HEAD, then=b"X: y\r\n" * 50), 0, PeerGoneError, "more than 100 headers"),
    "long_headers": (after(HEAD, then=b"X: " + b"y" * 60_000 + b"\r\n"), 0, PeerGoneError, f"within {MAX_HEAD_BYTES}"),
    "long_header": (after(HEAD, then=b"y" * 10_000), 0, PeerGoneError, f"within {MAX_HEAD_BYTES}"),
    "endless_continue": (after(then=b"HTTP/1.1 100 Continue\r\n\r\n"), 0, PeerGoneError, "9 times `100 Continue`"),
    "slow_continue": (after(then=b"HTTP/1.1 100 Continue\r\n\r\n"), 0.25, PeerGoneError, "the head of an answer"),
    "headers_of_continue": (
        after(b"HTTP/1.1 100 Continue\r\n", then=b"X: y\r\n" * 50),
        0,
        PeerGoneError,
        "100 headers",
    ),
    "early_hints": (after(then=b"HTTP/1.1 103 Early Hints\r\n\r\n"), 0, ServerError, "status 103"),
    "no_http": (after(then=b"\0" * 1000), 0, PeerGoneError, "LineTooLong|head of an answer"),
    "http_0_9": (after(then=b"<html>hello</html>\r\n"), 0, PeerGoneError, "BadStatusLine"),
    "redirect": (lambda: [b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"], 0, ServerError, "302"),
    "busy": (
        lambda: [b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n" % len(BUSY) + BUSY],
        0,
        ServerBusyError,
        "gave up after .*later",
    ),
    "refusal_drips": (
        dripping(b"HTTP/1.1 503 Busy\r\nContent-Length: 9999\r\n\r\n", b" "),
        PAUSE_S,
        PeerGoneError,
        "expected an explanation within",
    ),
}
"""At the beginning of any answer."""

DESCRIBING: dict[str, Case] = {
    "body_drips": (
        dripping(JSON_HEAD + b"Content-Length: 99999\r\n\r\n", b"{"),
        PAUSE_S,
        PeerGoneError,
        "expected a whole description within .* got only .* bytes",
    ),
    "chunks_drip": (after(JSON_HEAD + CHUNKED, then=chunk(b" ")), PAUSE_S, PeerGoneError, "a whole description"),
    "chunk_size_drips": (dripping(JSON_HEAD + CHUNKED, b"0"), PAUSE_S, PeerGoneError, "a whole description"),
    "no_length_drips": (dripping(JSON_HEAD + b"\r\n", b" "), PAUSE_S, PeerGoneError, "a whole description"),
    "body_stops": (after(JSON_HEAD + b"Content-Length: 9\r\n\r\n{"), PAUSE_S, PeerGoneError, "description|deadline"),
    "body_never_ends": (after(JSON_HEAD + CHUNKED, then=chunk(b" " * 65536)), 0, ServerError, "the description of a"),
    "negative_chunk": (after(JSON_HEAD + CHUNKED + b"-1\r\n", then=b" " * 65536), 0, PeerGoneError, "gave up"),
    "trailers": (
        after(JSON_HEAD + CHUNKED + b"0\r\n", then=b"X: y\r\n" * 1000),
        0,
        PeerGoneError,
        f"at most {MAX_TRAILER_BYTES} bytes of trailers",
    ),
    "trailers_drip": (dripping(JSON_HEAD + CHUNKED + b"0\r\n", b"X\n"), PAUSE_S, PeerGoneError, "a whole description"),
}
"""In a description."""

NO_BATCH = "expected a batch within .* s, got only "
STREAMING: dict[str, Case] = {
    "heartbeats": (framed(HELLO, then=HEARTBEAT), PAUSE_S, PeerGoneError, NO_BATCH + "heartbeats"),
    "flood_of_heartbeats": (framed(HELLO, then=HEARTBEAT * 100), 0, PeerGoneError, NO_BATCH + "heartbeats"),
    "stats": (framed(HELLO, then=STATS), PAUSE_S, PeerGoneError, NO_BATCH + "stats"),
    "both": (framed(HELLO, then=HEARTBEAT + STATS), PAUSE_S, PeerGoneError, NO_BATCH + "heartbeats.* and stats"),
    "batches_then_heartbeats": (framed(*FRAMES[:5], then=HEARTBEAT), PAUSE_S, PeerGoneError, NO_BATCH + "heartbeats"),
    "no_end": (framed(*FRAMES[:-1], then=HEARTBEAT), PAUSE_S, PeerGoneError, "expected the end of the stream within"),
    "hello_alone": (after(HEAD + CHUNKED, chunk(HELLO)), PAUSE_S, PeerGoneError, "expected a batch .*got only a hello"),
    "hello_again": (framed(HELLO, then=HELLO), PAUSE_S, OwlStreamError, "no second hello"),
    "hello_and_gone": (lambda: [HEAD + CHUNKED, chunk(HELLO)], 0, PeerGoneError, "gave up"),
    "batches_in_drips": (
        lambda: chain([HEAD + CHUNKED], (chunk(bytes([byte])) for byte in b"".join(FRAMES))),
        PAUSE_S,
        PeerGoneError,
        NO_BATCH + ".*bytes of an unfinished frame",
    ),
    "a_chunk_in_drips": (
        lambda: chain([HEAD + CHUNKED + b"fffff\r\n"], (bytes([byte]) for byte in b"".join(FRAMES))),
        PAUSE_S,
        PeerGoneError,
        NO_BATCH + ".*bytes of an unfinished frame",
    ),
    "chunk_size_drips": (dripping(HEAD + CHUNKED, b"0"), PAUSE_S, PeerGoneError, "expected a batch within .* nothing"),
    "extension_drips": (dripping(HEAD + CHUNKED + b"5;", b"x"), PAUSE_S, PeerGoneError, "expected a batch within"),
    "long_extension": (after(HEAD + CHUNKED + b"5;", then=b"x" * 1000), 0, PeerGoneError, "LineTooLong"),
    "extensions": (after(HEAD + CHUNKED, then=b"1;" + b"x" * 4000 + b"\r\n\x94\r\n"), 0, OwlStreamError, "expected"),
    "trailers": (
        after(HEAD + CHUNKED + b"0\r\n", then=b"X: y\r\n" * 1000),
        0,
        PeerGoneError,
        f"at most {MAX_TRAILER_BYTES} bytes of trailers",
    ),
    "trailers_drip": (dripping(HEAD + CHUNKED + b"0\r\n", b"X\n"), PAUSE_S, PeerGoneError, "expected a batch within"),
    "unchunked": (after(head(b"Connection: close"), HELLO, then=HEARTBEAT), PAUSE_S, PeerGoneError, NO_BATCH),
    "unchunked_drips": (dripping(head(b"Content-Length: 99999999"), HELLO), PAUSE_S, OwlStreamError, "gave up"),
    "errors": (
        lambda: [HEAD + CHUNKED, chunk(HELLO), chunk(pack_frame(ErrorInfo("read", "storage stalls", True)))],
        0,
        OwlStreamError,
        "gave up after .*storage stalls",
    ),
}
"""In a stream."""

AGAIN = ("never_answers", "header_drips", "endless_continue", "slow_continue", "redirect", "busy")
CASES = {
    **{f"describe_{name}": (case, False) for name, case in {**BEFORE, **DESCRIBING}.items()},
    **{f"stream_{name}": (case, True) for name, case in {**{n: BEFORE[n] for n in AGAIN}, **STREAMING}.items()},
}


def over_two(talker: str, healthy: str, *, describes: bool, **options: Any) -> list[Any]:
    """What two servers yield. Talkers in a stream have their share, others the time of one answer."""
    if describes:
        return keys_of(dataset_of([talker, healthy], SHARED_S, **options))
    soon = Timeouts(PATIENCE_S, 0.5)
    return keys_of(dataset_of([talker, healthy], PATIENCE_S, timeouts=soon, **options))


@pytest.mark.parametrize(("case", "describes"), CASES.values(), ids=CASES)
def test_fault_133_a_server_that_says_nothing_is_given_up(case: Case, describes: bool) -> None:
    """Alone, it ends in a typed error that says what came instead, once `give_up_after_s` has passed."""
    pieces, pause_s, kind, text = case
    with talking(Talker(pieces, pause_s, describes=describes)) as url:
        with pytest.raises(kind, match=text) as caught:
            list(dataset_of(url, GIVE_UP_S))
        assert url in str(caught.value)


@pytest.mark.parametrize(("case", "describes"), CASES.values(), ids=CASES)
def test_fault_133_another_server_is_asked_instead(case: Case, describes: bool) -> None:
    """With a healthy second address the epoch is the undisturbed one."""
    pieces, pause_s, _, _ = case
    talker = Talker(pieces, pause_s, describes=describes)
    with talking(talker) as url, serving(WORLD) as healthy:
        assert over_two(url, healthy.url, describes=describes) == UNDISTURBED
        assert talker.asked
        assert healthy.queries


@pytest.mark.parametrize(
    "pieces", [after(), dripping(b"\x16\x03\x03\x40\x00", b"\0")], ids=["silent", "record_in_drips"]
)
def test_fault_133_a_handshake_that_does_not_end(pieces: Callable[[], Iterable[bytes]]) -> None:
    """TLS that never comes, or comes a byte at a time, ends with the time to connect, whatever the sockets allow."""
    with talking(_Handshakes(pieces, PAUSE_S, describes=False)) as plain:
        url = plain.replace("http:", "https:")
        with pytest.raises(PeerGoneError, match="no TLS handshake within") as caught:
            list(dataset_of(url, GIVE_UP_S))
        assert url in str(caught.value)
        with serving(WORLD) as healthy:
            assert keys_of(dataset_of([url, healthy.url], SHARED_S)) == UNDISTURBED


class _Handshakes(Talker):
    """Says its pieces instead of a handshake."""

    def answer(self, sock: socket.socket) -> None:
        """See `Talker.answer`."""
        with sock:
            for piece in self.pieces():
                sock.sendall(piece)
                if self.released.wait(self.pause_s):
                    return


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """Whom to trust, and what a server of 127.0.0.1 speaks TLS with."""
    ca, path = trustme.CA(), tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return path, context


OVER_TLS = (
    *(f"describe_{name}" for name in ("header_drips", "body_drips", "trailers", "negative_chunk")),
    *(f"stream_{name}" for name in ("heartbeats", "batches_in_drips", "a_chunk_in_drips", "trailers")),
)


@pytest.mark.parametrize("name", OVER_TLS)
def test_fault_133_over_tls(name: str, authority: tuple[Path, ssl.SSLContext]) -> None:
    """Where the answer is read by `http.client` and not from the socket, the same clock counts."""
    (pieces, pause_s, kind, text), describes = CASES[name]
    talker = Talker(pieces, pause_s, describes=describes)
    talker.context = authority[1]
    with talking(talker) as url, serving(WORLD) as healthy:
        with pytest.raises(kind, match=text):
            list(dataset_of(url, GIVE_UP_S, tls=Tls(authority[0])))
        assert over_two(url, healthy.url, describes=describes, tls=Tls(authority[0])) == UNDISTURBED


def test_fault_133_two_that_say_nothing_are_both_named() -> None:
    """When nobody gives a batch the error says of each what came instead."""
    beating = Talker(framed(HELLO, then=HEARTBEAT), PAUSE_S, describes=True)
    counting = Talker(framed(HELLO, then=STATS), PAUSE_S, describes=True)
    with (
        talking(beating) as first,
        talking(counting) as second,
        pytest.raises(PeerGoneError, match=f"gave up .*{first}.*only heartbeats.*{second}.*only stats"),
    ):
        list(dataset_of([first, second], SHARED_S))


def test_fault_133_the_time_of_one_exchange_ends_before_that_of_the_try() -> None:
    """A head and a description that drip have `read_s` together; the server is asked again while time is left."""
    for case in (BEFORE["header_drips"], DESCRIBING["body_drips"]):
        talker = Talker(case[0], PAUSE_S, describes=False)
        with talking(talker) as url, pytest.raises(PeerGoneError, match=r"within 0\.5 s, got only"):
            HttpTransport(timeouts=Timeouts(read_s=0.5)).describe(url, "train", Interrupt())


def test_fault_133_bytes_that_drip_are_taken_while_batches_come() -> None:
    """A slow line is no fault: bytes one by one, in chunks of one, with heartbeats between, as long as batches come."""
    frames = [part for frame in FRAMES for part in (HEARTBEAT, STATS, frame)][2:]
    drips = [chunk(bytes([byte])) for frame in frames for byte in frame]
    slow = Talker(lambda: chain([HEAD + CHUNKED], drips, [b"0\r\n\r\n"]), 0, describes=True)
    with talking(slow) as url:
        dataset = dataset_of(url, PATIENCE_S)
        assert keys_of(dataset) == UNDISTURBED
        assert dataset.stats().reconnects == 0


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses of a host have `connect_s` together, and each a part: a silent first one does not use it up."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, serving(WORLD) as server, ExitStack() as waiting:
        for _ in range(4):  # the kernel drops what asks for a connection when nobody accepts any
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        port = int(server.url.rpartition(":")[2])
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (full.getsockname(), ("127.0.0.1", port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
        transport = HttpTransport(timeouts=Timeouts(1.0, PATIENCE_S))
        assert transport.describe(server.url, "train") == WORLD.description()
        found.pop()
        with pytest.raises(PeerGoneError, match="no connection within 1 s"):
            transport.describe(server.url, "train")


class Ticking:
    """A clock that goes on by `step_s` whenever it is looked at."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        """Seconds since the beginning."""
        self.now += self.step_s
        return self.now


class Endless:
    """A body that repeats a frame for ever behind its beginning."""

    def __init__(self, start: bytes, then: bytes) -> None:
        self._rest, self._then = start, then

    def readinto(self, buffer: memoryview) -> int:
        """See `ByteStream`."""
        part = self._rest[: buffer.nbytes]
        self._rest = self._rest[len(part) :] or self._then
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """See `ByteStream`."""


class EndlessTransport(MemoryTransport):
    """Memory, with servers that say `start` and then the same frame for ever."""

    def __init__(self, servers: dict[str, World | OwlStreamError], talkers: dict[str, tuple[bytes, bytes]]) -> None:
        super().__init__(servers)
        self.talkers = talkers

    def open(self, url: str, request: StreamRequest, interrupt: Interrupt) -> Any:
        """See `Transport`."""
        if url in self.talkers:
            self.opened.append((url, request))
            return Endless(*self.talkers[url])
        return super().open(url, request, interrupt)


def stream_over(transport: MemoryTransport, urls: list[str], clock: Ticking, seconds: float = 100.0) -> EpochStream:
    """An epoch whose clock is ours."""
    order = Order(WORLD.description(), REQUEST.share, REQUEST.cursor)
    return EpochStream(transport, Failover(urls, seconds, NO_WAIT, clock), order)


def test_fault_133_each_server_gets_its_share_of_the_time() -> None:
    """Three talkers, then a healthy one: each is left after a quarter of the time, and the epoch is whole."""
    talkers = dict.fromkeys(("http://a", "http://b", "http://c"), (HELLO, HEARTBEAT))
    transport, clock = EndlessTransport({"http://d": WORLD}, talkers), Ticking(0.1)
    stream = stream_over(transport, [*talkers, "http://d"], clock)
    assert stream.next() is not None
    assert [url for url, _ in transport.opened] == [*talkers, "http://d"]
    assert 75.0 < clock.now < 80.0
    assert sum(1 for _ in iter(stream.next, None)) == WORLD.steps - 1
    stream.close()


def test_fault_133_the_whole_time_is_for_a_server_that_is_alone() -> None:
    """One server is not left before the end, and then the time is over."""
    transport, clock = EndlessTransport({}, {"http://a": (HELLO, HEARTBEAT)}), Ticking(0.1)
    with pytest.raises(PeerGoneError, match=r"gave up after 100 s .*within 100 s, got only heartbeats"):
        stream_over(transport, ["http://a"], clock).next()
    assert len(transport.opened) == 1
    assert 100.0 < clock.now < 105.0


def test_fault_133_the_last_batch_again_is_no_progress() -> None:
    """A server that gives the last batch whenever it is asked and never `end` is given up like any other."""
    last = WORLD.batch_frame(Cursor(0, WORLD.steps - 1, 0), REQUEST.share)
    hello = pack_frame(WORLD.hello(StreamRequest("train", WORLD.fingerprint, Cursor(0, 3, 0), REQUEST.share)))
    transport, clock = EndlessTransport({"http://a": WORLD}, {}), Ticking(0.1)
    transport.faults = [lambda frames: frames[:-1], *[lambda frames: [hello, last]] * 10_000]
    stream = stream_over(transport, ["http://a"], clock)
    for _ in range(WORLD.steps):
        assert stream.next() is not None
    with pytest.raises(PeerGoneError, match="gave up after 100 s"):
        stream.next()
    assert len(transport.opened) > 10


def test_fault_133_time_that_the_trainer_takes_is_not_counted() -> None:
    """Between two batches the reader may pause for as long as it likes."""
    transport, clock = MemoryTransport({"http://a": WORLD}), Ticking(0.1)
    stream = stream_over(transport, ["http://a", "http://b"], clock)
    for _ in range(WORLD.steps):
        clock.now += 10_000
        assert stream.next() is not None
    clock.now += 10_000
    assert stream.next() is None
    assert len(transport.opened) == 1


def test_fault_133_a_server_may_be_busy_for_its_share() -> None:
    """Heartbeats for less than its share are what a busy server sends: nobody else is asked."""
    transport, clock = MemoryTransport({"http://a": WORLD, "http://b": WORLD}), Ticking(0.1)
    transport.faults = [lambda frames: [*frames[:3], *[HEARTBEAT] * 100, frames[3], *frames[4:]]]
    stream = stream_over(transport, ["http://a", "http://b"], clock)
    assert sum(1 for _ in iter(stream.next, None)) == WORLD.steps
    assert len(transport.opened) == 1


def test_fault_133_no_share_is_endless_while_another_may_be_asked() -> None:
    """Who never wants to give up still wants the next server; alone there is no end, and 0 is one try."""
    clock = Ticking(0.0)
    assert Failover(["a", "b"], float("inf"), clock=clock).deadline.left_s == 300.0
    assert Failover(["a"], float("inf"), clock=clock).deadline.left_s == float("inf")
    assert Failover(["a", "b"], 0.0, clock=clock).deadline.left_s == 15.0
    assert Failover(["a", "b"], 60.0, clock=clock).deadline.left_s == 30.0


def test_the_last_try_has_a_second() -> None:
    """Failures use the time up; the last try is made when it is over, for a server that has come back."""
    clock = Ticking(0.0)
    failover = Failover(["a"], 20.0, NO_WAIT, clock)
    clock.now = 19.9
    failover.failed(PeerGoneError("down"), Interrupt())
    assert failover.deadline.left_s == pytest.approx(1.0)
    clock.now = 20.9
    with pytest.raises(PeerGoneError, match="gave up after 20 s"):
        failover.failed(PeerGoneError("down"), Interrupt())


def test_a_part_of_a_deadline_ends_no_later() -> None:
    """Time for one thing is taken from the time for all."""
    clock = Ticking(0.0)
    whole = Deadline(10.0, clock)
    assert (whole.within(3.0).left_s, whole.within(30.0).left_s) == (3.0, 10.0)
    clock.now = 10.0
    assert whole.passed
    assert whole.within(3.0).passed


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_times_that_cannot_be_are_refused(seconds: float) -> None:
    """A clock set to no number would never end a wait."""
    for wrong in ({"connect_s": seconds}, {"read_s": seconds}):
        with pytest.raises(ConfigError, match="expected seconds above 0"):
            Timeouts(**wrong)
    if seconds:
        with pytest.raises(ConfigError, match="give_up_after_s from 0"):
            OwlStreamDataset("http://a", give_up_after_s=seconds)
