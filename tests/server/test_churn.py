"""Streams that end inside a frame, by the thousand: everything that was lent comes back."""

from __future__ import annotations

import random
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from owl_client import Tls
from owl_client.connection import HttpTransport
from owl_client.transport import Interrupt, Share, StreamRequest
from owl_stream.engine.processes import KEEP_FREE_BYTES
from owl_stream.errors import OwlStreamError
from owl_stream.wire import Cursor, FrameParser
from tests.support.datasets import small_dataset
from tests.support.http import connect, get, read_to_end
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess

STREAM = "/v1/datasets/train/stream"
STREAMS, TOGETHER = 2000, 40
LARGE = 14_000_000
MANY_BYTES = KEEP_FREE_BYTES + (64 << 20)
DESCRIPTORS_OF_A_SLAB = 2


def gauges(server: ServerProcess) -> dict[str, float]:
    """The metrics without labels."""
    text = get(server.url + "/metrics").body.decode()
    return {name: float(value) for name, value in re.findall(r"^owl_stream_(\w+) (\S+)$", text, re.MULTILINE)}


def quiet(server: ServerProcess) -> dict[str, float]:
    """The metrics once no stream is open and nothing is being made or kept; as they are if that does not come."""
    patient_until = time.monotonic() + PATIENCE_S
    while True:
        now = gauges(server)
        busy = now["streams_open"] + now["engine_busy"] + now["engine_queued"] + now["engine_kept_bytes"]
        lent = now["engine_leased"] + now["engine_slab_bytes"] - now["engine_free_bytes"]
        if (not busy and not lent and now["connections_open"] <= 1) or time.monotonic() > patient_until:
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


@dataclass(frozen=True)
class Secure:
    """A server's certificate, and who trusts it."""

    settings: dict[str, str]
    client: Tls


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Secure:
    """For 127.0.0.1."""
    directory, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
    file = str(directory / "server.pem")
    return Secure({"certificate": file, "key": file}, Tls(ca=directory / "ca.pem"))


@pytest.fixture(scope="module")
def churned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that gives up readers soon, warm."""
    with large_frames(tmp_path_factory.mktemp("churn"), idle_timeout_s=1.0, max_streams=TOGETHER) as server:
        assert len(get(f"{server.url}/v1/datasets/train/batches/0/0/0").body) >= LARGE
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


class OverSocket:
    """A reader of `target`, or of a stream of many epochs from `epoch` on, over a plain connection or TLS."""

    def __init__(self, url: str, epoch: int, tls: Tls | None = None, target: str = "") -> None:
        self._sock = connect(url)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        if tls is not None:
            self._sock = tls.context().wrap_socket(self._sock, server_hostname="127.0.0.1")
        target = target or f"{STREAM}?epoch={epoch}&epochs=1000"
        self._sock.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    def take(self, nbytes: int) -> None:
        """Read so many bytes, fewer where the connection ends."""
        while nbytes > 0 and (got := len(self._sock.recv(min(nbytes, 1 << 16)))):
            nbytes -= got

    def leave(self, how: str) -> None:
        """Close, reset, or close half and then all."""
        if how == "reset":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "half":
            self._sock.shutdown(socket.SHUT_WR)
        self._sock.close()


class InMemory:
    """A reader that is shown where frames lie, by the client's own transport."""

    def __init__(self, url: str, epoch: int) -> None:
        fingerprint = HttpTransport().describe(url, "train").fingerprint
        request = StreamRequest("train", fingerprint, Cursor(epoch, 0, 0), Share(0, 1, 4))
        self._stream, self._parser = HttpTransport().open(url, request, Interrupt()), FrameParser()

    def take(self, nbytes: int) -> None:
        """Read so many bytes, or somewhat more."""
        while nbytes > 0:
            got = self._stream.readinto(self._parser.buffer()[: 1 << 16])
            self._parser.advance(got)
            nbytes -= got

    def leave(self, how: str) -> None:
        """Close, however."""
        self._stream.close()


def leave_all(readers: Sequence[OverSocket | InMemory], chance: random.Random, most: int = 1 << 18) -> None:
    """Each takes a little more, if it has not been dropped, and goes."""
    for reader in readers:
        with suppress(OSError, OwlStreamError):
            reader.take(chance.randrange(1, most))
        with suppress(OSError, OwlStreamError):
            reader.leave(chance.choice(("close", "reset", "half")))


def until_no_stream_is_open(server: ServerProcess) -> None:
    """Wait for the server to have noticed."""
    while gauges(server)["streams_open"]:
        pass


@pytest.mark.long
def test_fault_125_two_thousand_streams_that_end_inside_a_frame_leave_nothing(churned: ServerProcess) -> None:
    """Readers that close, reset or half-close their connection, or leave shared memory, or stall and are dropped."""
    chance = random.Random(15)
    before = quiet(churned)
    for batch in range(STREAMS // TOGETHER):
        readers = [(InMemory if n % 2 else OverSocket)(churned.url, 0) for n in range(TOGETHER)]
        if batch % 10 == 0:  # these stall, until the server has dropped every one of them
            until_no_stream_is_open(churned)
        leave_all(readers, chance)
        until_no_stream_is_open(churned)  # else some would be refused
    assert_all_is_back(quiet(churned), before)
    total = re.search(rb"^owl_stream_streams_total (\S+)", get(churned.url + "/metrics").body, re.MULTILINE)
    assert total is not None
    assert float(total[1]) >= STREAMS


def test_fault_125_readers_that_stall_over_a_socket(churned: ServerProcess) -> None:
    """Six, with more frames assembled for them than the pool keeps, three times."""
    before = quiet(churned)
    for round_ in range(3):
        readers = [OverSocket(churned.url, 1000 * (6 * round_ + n)) for n in range(6)]
        take_until_slabs_are_many(churned, readers)
        until_no_stream_is_open(churned)  # it drops them
        leave_all(readers, random.Random(round_))
        assert_all_is_back(quiet(churned), before)


def test_fault_125_looks_that_nobody_reads(churned: ServerProcess) -> None:
    """Some people leave before the batch is assembled, some inside the answer, and some stall."""
    before = quiet(churned)
    for round_ in range(3):
        targets = [f"/v1/datasets/train/looks/{6 * round_ + n}/0/0" for n in range(6)]
        readers = [OverSocket(churned.url, 0, target=target) for target in targets]
        leave_all(readers[:2], random.Random(round_), most=2)
        if round_ == 0:
            until_no_stream_is_open(churned)  # it drops the others
        leave_all(readers[2:], random.Random(round_))
        until_no_stream_is_open(churned)
    assert_all_is_back(quiet(churned), before)


def test_fault_125_readers_that_stall_or_vanish_over_tls(tmp_path: Path, secure: Secure) -> None:
    """There chunks go through the HTTP layer."""
    with large_frames(tmp_path, idle_timeout_s=1.0, tls=secure.settings) as server, ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(ssl, "_create_default_https_context", secure.client.context)  # what `get` trusts
        assert len(get(f"{server.url}/v1/datasets/train/batches/0/0/0").body) >= LARGE
        before = quiet(server)
        for round_ in range(2):
            readers = [OverSocket(server.url, 1000 * (6 * round_ + n), secure.client) for n in range(6)]
            take_until_slabs_are_many(server, readers)
            if round_ % 2:
                until_no_stream_is_open(server)
            leave_all(readers, random.Random(round_))
            until_no_stream_is_open(server)
            assert_all_is_back(quiet(server), before)
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("idle_timeout_s", [0.5, PATIENCE_S], ids=["stall", "vanish"])
def test_fault_125_readers_over_tls_leave_no_memory(tmp_path: Path, secure: Secure, idle_timeout_s: float) -> None:
    """TLS holds 256 KiB a connection: what is left goes with it, and does not wait for a garbage collection."""
    with large_frames(tmp_path, idle_timeout_s=idle_timeout_s, tls=secure.settings) as server, ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(ssl, "_create_default_https_context", secure.client.context)  # what `get` trusts
        sizes = []
        for round_ in range(16):
            readers = [OverSocket(server.url, 0, secure.client) for _ in range(12)]
            if idle_timeout_s < PATIENCE_S:
                until_no_stream_is_open(server)
            leave_all(readers, random.Random(round_))
            until_no_stream_is_open(server)
            sizes.append(own_bytes(server))
        assert min(sizes[-4:]) < min(sizes[2:6]) + (12 << 20)  # it was 30 MiB and more
        assert server.stop() == 0


def own_bytes(server: ServerProcess) -> int:
    """Memory of the server's own process, without what it shares with workers."""
    assert server.process is not None
    rollup = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text()
    pss, shared = (int(found) << 10 for found in re.findall(r"^Pss(?:_Shmem)?: +(\d+) kB", rollup, re.MULTILINE))
    return pss - shared


def test_fault_125_readers_that_vanish_with_many_frames_ahead(tmp_path: Path) -> None:
    """Half over a socket, half in shared memory."""
    with large_frames(tmp_path) as server:
        assert len(get(f"{server.url}/v1/datasets/train/batches/0/0/0").body) >= LARGE
        before = quiet(server)
        for round_ in range(2):
            readers = [(InMemory if n % 2 else OverSocket)(server.url, 1000 * (6 * round_ + n)) for n in range(6)]
            while gauges(server)["engine_slab_bytes"] <= MANY_BYTES:
                pass
            leave_all(readers, random.Random(round_))
            until_no_stream_is_open(server)
            assert_all_is_back(quiet(server), before)
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("after", [1, 2, 30])
def test_fault_125_a_stream_with_requests_behind_it(churned: ServerProcess, after: int) -> None:
    """Its reader has asked for more on the same connection, and goes: the stream hears of it too."""
    before = quiet(churned)
    for _ in range(3):
        with connect(churned.url) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            sock.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * (1 + after))
            assert sock.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
    assert_all_is_back(quiet(churned), before)


def take_until_slabs_are_many(server: ServerProcess, readers: Sequence[OverSocket]) -> None:
    """Readers that take a little are not dropped, while frames are assembled ahead of them."""
    while gauges(server)["engine_slab_bytes"] <= MANY_BYTES:
        for reader in readers:
            reader.take(1 << 17)


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
