"""Streams that end inside a frame, by the thousand: everything that was lent comes back."""

from __future__ import annotations

import random
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from owl_client import Tls
from owl_client.connection import HttpTransport
from owl_client.transport import Interrupt, Share, StreamRequest
from owl_stream.engine.processes import KEEP_FREE_BYTES
from owl_stream.errors import OwlStreamError
from owl_stream.wire import Cursor, FrameParser, parse_frames
from tests.support.datasets import small_dataset
from tests.support.http import connect, get, read_to_end
from tests.support.server import ServerProcess

STREAM = "/v1/datasets/train/stream"
STREAMS, TOGETHER = 2000, 40
LARGE = 14_000_000
DESCRIPTORS_OF_A_SLAB = 2


def gauges(server: ServerProcess) -> dict[str, float]:
    """The metrics without labels."""
    text = get(server.url + "/metrics").body.decode()
    return {name: float(value) for name, value in re.findall(r"^owl_stream_(\w+) (\S+)$", text, re.MULTILINE)}


def quiet(server: ServerProcess) -> dict[str, float]:
    """The metrics once no stream is open and nothing is being made or kept."""
    while True:
        now = gauges(server)
        busy = now["streams_open"] + now["engine_busy"] + now["engine_queued"] + now["engine_kept_bytes"]
        if not busy and now["connections_open"] <= 1:
            return now


def assert_all_is_back(now: dict[str, float], before: dict[str, float]) -> None:
    """No lease is left, and no slab or descriptor beyond those of the pool."""
    assert now["engine_leased"] == 0
    assert now["engine_slab_bytes"] == now["engine_free_bytes"] <= KEEP_FREE_BYTES
    others = [each["descriptors_open"] - DESCRIPTORS_OF_A_SLAB * each["engine_slabs"] for each in (before, now)]
    assert others[0] == others[1]


def large_frames(directory: Path, **server: object) -> ServerProcess:
    """Frames of more than 14 MB, however few rows of a step have pictures."""
    return ServerProcess(small_dataset(directory, image_size=1280, cut="off", server={"workers": 1, **server}))


@pytest.fixture(scope="module")
def churned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that gives up readers soon, warm."""
    with large_frames(tmp_path_factory.mktemp("churn"), idle_timeout_s=0.5, max_streams=TOGETHER) as server:
        assert len(get(f"{server.url}/v1/datasets/train/batches/0/0/0").body) >= LARGE
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


class Vanishing:
    """A reader that takes part of a frame and then goes, in one of the ways that there are."""

    def __init__(self, server: ServerProcess, chance: random.Random) -> None:
        self._chance = chance
        self._sock = connect(server.url)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._sock.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def go(self) -> None:
        """Read a little, then close, reset, or close half and then all."""
        left = self._chance.randrange(1, 1 << 18)
        while left > 0:
            left -= len(self._sock.recv(min(left, 1 << 16))) or left
        end = self._chance.choice(("close", "reset", "half"))
        if end == "reset":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif end == "half":
            self._sock.shutdown(socket.SHUT_WR)
        self._sock.close()


class VanishingFromMemory:
    """The same in shared memory, or over TLS, by the client's own transport."""

    def __init__(self, server: ServerProcess, chance: random.Random, transport: HttpTransport) -> None:
        self._chance = chance
        fingerprint = transport.describe(server.url, "train").fingerprint
        request = StreamRequest("train", fingerprint, Cursor(0, 0, 0), Share(0, 1, 4))
        self._stream = transport.open(server.url, request, Interrupt())

    def go(self) -> None:
        """Read a little, then close."""
        parser = FrameParser()
        for _ in range(self._chance.randrange(1, 40)):
            parser.advance(self._stream.readinto(parser.buffer()[: 1 << 16]))
        self._stream.close()


def test_fault_125_two_thousand_streams_that_end_inside_a_frame_leave_nothing(churned: ServerProcess) -> None:
    """Readers that close, reset or half-close their connection, or leave shared memory, or stall and are dropped."""
    chance = random.Random(15)
    before = quiet(churned)
    for batch in range(STREAMS // TOGETHER):
        readers: list[Vanishing | VanishingFromMemory] = []
        for number in range(TOGETHER):
            if number % 2:
                readers.append(VanishingFromMemory(churned, chance, HttpTransport()))
            else:
                readers.append(Vanishing(churned, chance))
        if batch % 10 == 0:  # these stall instead, until the server has dropped every one of them
            while gauges(churned)["streams_open"]:
                pass
        for reader in readers:
            with suppress(ConnectionError, OwlStreamError):
                reader.go()
        while gauges(churned)["streams_open"]:  # else some would be refused
            pass
    now = quiet(churned)
    assert_all_is_back(now, before)
    total = re.search(rb"^owl_stream_streams_total (\S+)", get(churned.url + "/metrics").body, re.MULTILINE)
    assert total is not None
    assert float(total[1]) >= STREAMS


def test_fault_125_the_same_over_tls(tmp_path: Path) -> None:
    """There chunks go through the HTTP layer; half of the readers stall until they are dropped, half vanish."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    tls = {"certificate": str(tmp_path / "server.pem"), "key": str(tmp_path / "server.pem")}
    chance, trusting = random.Random(16), HttpTransport(tls=Tls(ca=tmp_path / "ca.pem"))
    with large_frames(tmp_path / "data", idle_timeout_s=0.5, tls=tls) as server, ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        patch.setattr(ssl, "_create_default_https_context", lambda: context)  # what `get` trusts
        assert len(get(f"{server.url}/v1/datasets/train/batches/0/0/0").body) >= LARGE
        before = quiet(server)
        for round_ in range(12):
            readers = [VanishingFromMemory(server, chance, trusting) for _ in range(6)]
            if round_ % 2:
                while gauges(server)["streams_open"]:
                    pass
            for reader in readers:
                with suppress(ConnectionError, OwlStreamError):
                    reader.go()
            while gauges(server)["streams_open"]:
                pass
        assert_all_is_back(quiet(server), before)
        assert server.stop() == 0


def test_fault_125_a_slow_reader_of_http_1_0_reads_what_was_sent(churned: ServerProcess) -> None:
    """Without chunks the HTTP layer keeps what it is handed until it is sent: that must not be a slab's memory."""
    with connect(churned.url) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sock.sendall(f"GET {STREAM} HTTP/1.0\r\n\r\n".encode())
        body = read_to_end(sock).partition(b"\r\n\r\n")[2]
    kinds = [frame.header.kind for frame in parse_frames(body)]  # every digest is checked
    assert kinds.count("batch") == get(f"{churned.url}/v1/datasets/train").json["steps_per_epoch"]


def test_fault_129_frames_that_nobody_reads_have_places_like_streams(tmp_path: Path) -> None:
    """Sixty connections that ask for a batch and read nothing: two hold a frame, the others are refused, all end."""
    token = "trainer-0123456789abcdef"
    limits = {"max_streams_per_token": 2, "idle_timeout_s": 1.0, "access": {"tokens": {"trainer": token}}}
    with large_frames(tmp_path, **limits) as server, ExitStack() as stack:
        bearer = {"Authorization": f"Bearer {token}"}
        whole = get(f"{server.url}/v1/datasets/train/batches/0/0/0", bearer).body
        assert len(whole) >= LARGE
        asked = f"GET /v1/datasets/train/batches/0/0/0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
        socks = [stack.enter_context(connect(server.url)) for _ in range(60)]
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.sendall(asked.encode())
        statuses = [sock.recv(12, socket.MSG_WAITALL) for sock in socks]
        assert statuses.count(b"HTTP/1.1 200") == 2
        assert statuses.count(b"HTTP/1.1 429") == 58
        text = get(server.url + "/metrics", bearer).body
        assert re.search(rb"^owl_stream_engine_leased [012]\.0$", text, re.MULTILINE)
        # One that takes nothing is dropped, and another one may ask.
        while get(f"{server.url}/v1/datasets/train/batches/0/0/0", bearer).body != whole:
            pass
        for sock, status in zip(socks, statuses, strict=True):
            if status.endswith(b"200"):
                assert len(read_to_end(sock)) < LARGE
        assert server.stop() == 0
