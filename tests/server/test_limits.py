"""Limits as they hold on a real socket: places for streams, connections that say nothing, descriptors, slow readers."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from owl_stream.server.connections import MOST_UNSENT_BYTES, Connections, places
from owl_stream.server.protocol import MAX_UNANSWERED
from owl_stream.wire import End, parse_frames
from tests.support.datasets import small_dataset
from tests.support.http import Answer, connect, get, read_to_end
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess

STREAM = "/v1/datasets/train/stream"
LONG = f"GET {STREAM}?epochs=100000 HTTP/1.1\r\nHost: x\r\n".encode()
ALICE, BOB = "alice-0123456789abcdef", "bob-fedcba9876543210"


@contextlib.contextmanager
def crowd(server: ServerProcess, count: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that have said so much and say no more."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            sock = stack.enter_context(connect(server.url))
            with contextlib.suppress(ConnectionError):
                sock.sendall(said)
            sockets.append(sock)
        yield sockets


def whole_epoch(server: ServerProcess) -> bool:
    """Whether a stream arrives from its first frame to its end."""
    return isinstance(list(parse_frames(get(server.url + STREAM).body))[-1].header, End)


def begun(sock: socket.socket, token: str) -> int:
    """The status of a stream that stays open."""
    sock.sendall(LONG + f"Authorization: Bearer {token}\r\n\r\n".encode())
    return int(sock.recv(1 << 10).split(b" ")[1])


def metric(server: ServerProcess, line: str) -> bool:
    """Whether the metrics hold a line."""
    return line.encode() in get(server.url + "/metrics", {"Authorization": f"Bearer {ALICE}"}).body


def test_fault_85_each_token_has_its_own_places_for_streams(tmp_path: Path) -> None:
    """Alice's third of two is refused with 429 and Retry-After, while Bob still gets one; both are told which limit."""
    access = {"tokens": {"alice": ALICE, "bob": BOB}}
    limits = {"access": access, "max_streams_per_token": 2, "max_streams": 3, "workers": 1}
    with ServerProcess(small_dataset(tmp_path, server=limits)) as server, crowd(server, 3) as sockets:
        assert [begun(sock, ALICE) for sock in sockets[:2]] == [200, 200]
        refused = get(server.url + STREAM, {"Authorization": f"Bearer {ALICE}"})
        assert (refused.status, refused.error["code"], refused.error["retryable"]) == (429, "too_many_streams", True)
        assert "2 streams of 'alice'" in refused.error["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert begun(sockets[2], BOB) == 200
        full = get(server.url + STREAM, {"Authorization": f"Bearer {BOB}"})
        assert (full.status, "server.max_streams" in full.error["message"]) == (429, True)
        assert metric(server, 'owl_stream_streams_refused_total{limit="token"} 1.0')
        assert metric(server, 'owl_stream_streams_refused_total{limit="server"} 1.0')


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with very few places for connections."""
    limits = {"max_connections": 8, "request_timeout_s": PATIENCE_S, "workers": 1}
    with ServerProcess(small_dataset(tmp_path_factory.mktemp("small"), server=limits)) as server:
        yield server


def test_connections_that_say_nothing_make_room(small: ServerProcess) -> None:
    """However many connect and stop half way, the next request is answered; the longest silent one went."""
    with crowd(small, 30, b"GET /livez HTTP/1.1\r\nHo") as sockets:
        assert get(small.url + "/health").status == 200
        assert whole_epoch(small)
        assert read_to_end(sockets[0]) == b""
        assert b'owl_stream_connections_refused_total{reason="silent"}' in get(small.url + "/metrics").body


def test_connections_that_are_answered_are_not_dropped_for_others(small: ServerProcess) -> None:
    """When all places are taken by streams the next connection gets 503 and Retry-After, and no stream ends."""
    with crowd(small, 8, LONG + b"\r\n") as sockets:
        for sock in sockets:
            assert sock.recv(12) == b"HTTP/1.1 200"
        refused = get(small.url + "/health")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        for sock in sockets:
            assert sock.recv(1 << 16)
    while get(small.url + "/health").status != 200:
        pass


def test_hundreds_of_slow_connections_leave_health_and_streams_alone(tmp_path: Path) -> None:
    """Fault 82: 400 heads that never end take no place from those who ask; each is cut off in its time."""
    limits = {"request_timeout_s": 5.0, "workers": 1}
    with ServerProcess(small_dataset(tmp_path, server=limits)) as server:
        with crowd(server, 400, b"GET /livez HTTP/1.1\r\nX: ") as sockets:
            assert get(server.url + "/health").status == 200
            assert whole_epoch(server)
            assert {read_to_end(sock).split(b"\r\n")[0] for sock in sockets} == {b"HTTP/1.1 408 Request Timeout"}
        assert b'owl_stream_connections_refused_total{reason="408"} 400.0' in get(server.url + "/metrics").body


def test_bytes_that_begin_no_request_have_the_same_deadline(tmp_path: Path) -> None:
    """Blank lines, alone or after an answer, keep no connection open."""
    with ServerProcess(small_dataset(tmp_path, server={"request_timeout_s": 2.0, "workers": 0})) as server:
        for said in (b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"):
            with connect(server.url) as sock:
                if said:
                    sock.sendall(said)
                    answer = b""
                    while b'"ok"' not in answer:
                        answer += sock.recv(1 << 10)
                sock.sendall(b"\r\n")
                assert b" 408 " in read_to_end(sock)


def test_an_answer_that_nobody_reads_is_dropped(tmp_path: Path) -> None:
    """A frame fetched by a reader that then stops is held no longer than the idle timeout."""
    config = small_dataset(tmp_path, image_size=512, global_batch_size=8, server={"idle_timeout_s": 1.0, "workers": 0})
    with ServerProcess(config) as server, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        sock.connect((host, int(port)))
        sock.sendall(b"GET /v1/datasets/train/batches/0/0/0 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
        while b'owl_stream_connections_refused_total{reason="stuck"} 1.0' not in get(server.url + "/metrics").body:
            pass
        assert whole_epoch(server)


def wait_for_answer(url: str) -> Answer:
    """The first answer; until then connections may be refused, that is what shedding load means."""
    while True:
        with contextlib.suppress(OSError):
            return get(url)


def cpu_seconds(server: ServerProcess) -> float:
    """CPU time of the server's own process."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux' prlimit")
def test_fault_90_out_of_descriptors_the_server_sheds_load_and_stays_healthy(tmp_path: Path) -> None:
    """With no descriptor left for the next connection it neither spins nor dies, and then serves as before."""
    with ServerProcess(small_dataset(tmp_path, server={"workers": 1, "request_timeout_s": 3.0})) as server:
        assert whole_epoch(server)
        assert server.process is not None
        pid, used = server.process.pid, len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 8, before[1]))
        began = cpu_seconds(server)
        with crowd(server, 200, b"GET /livez HTTP/1.1\r\n") as sockets:
            ends = [read_to_end(sock) for sock in sockets]  # all are answered, cut off or reset: none hangs
        assert any(b" 408 " in end for end in ends)
        assert cpu_seconds(server) - began < 2.0
        assert wait_for_answer(server.url + "/livez").status == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert get(server.url + "/health").json["status"] == "ok"
        assert whole_epoch(server)
        assert server.stop() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux' prlimit")
def test_fault_90_frames_without_descriptors_are_retryable(tmp_path: Path) -> None:
    """Shared memory that cannot be had ends a stream with `error worker`, retryable; with descriptors it goes on."""
    with ServerProcess(small_dataset(tmp_path, server={"workers": 1})) as server, connect(server.url) as sock:
        assert get(server.url + "/v1/datasets/train").status == 200
        assert server.process is not None
        pid, used = server.process.pid, len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
        sock.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = read_to_end(sock)
        assert b"out of descriptors or memory" in received
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert whole_epoch(server)


def test_the_server_takes_all_descriptors_that_it_may() -> None:
    """The usual soft limit of 1024 is raised to the hard one, and the places for connections follow it."""
    code = (
        "import resource\nfrom owl_stream.server.connections import descriptors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))\n"
        "print(descriptors(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["512", "512", "512"]


def test_connections_leave_descriptors_for_the_work() -> None:
    """A quarter of the descriptors, and at least 64, are never given to connections."""
    assert [places(4096, available) for available in (65536, 1024, 256, 64)] == [4096, 768, 192, 4]


class Peer:
    """A connection whose reader is as slow as a test says."""

    def __init__(self) -> None:
        self.unsent_bytes, self.dropped = 0, False

    def drop(self) -> None:
        """Remember it."""
        self.dropped = True


def test_a_slow_reader_is_not_a_stuck_one() -> None:
    """As long as anything is read between two looks, an answer may take for ever; four looks without are enough."""
    connections, slow, stuck = Connections(8), Peer(), Peer()
    assert connections.admit(slow)
    assert connections.admit(stuck)
    slow.unsent_bytes = stuck.unsent_bytes = 1000
    for _ in range(20):
        slow.unsent_bytes -= 1
        connections._look(4)
    assert (slow.dropped, stuck.dropped) == (False, True)
    assert connections.refused == {"stuck": 1}


def test_an_idle_connection_goes_before_one_that_still_has_to_read() -> None:
    """Of the silent ones those that hold an unread answer go last."""
    connections, reading, idle = Connections(2), Peer(), Peer()
    assert connections.admit(reading)
    assert connections.admit(idle)
    reading.unsent_bytes = 1000
    assert connections.admit(Peer())
    assert (reading.dropped, idle.dropped) == (False, True)


@pytest.mark.long
def test_fault_129_who_asks_again_and_reads_nothing_is_dropped(tmp_path: Path) -> None:
    """The second answer on a connection waits for room behind the first, and not for ever."""
    path = "/v1/datasets/train/plan?count=100"
    config = small_dataset(tmp_path, samples=1800, global_batch_size=24, server={"idle_timeout_s": 1.0, "workers": 0})
    with ServerProcess(config) as server:
        answer = get(server.url + path)
        assert answer.status == 200
        again = 1 + (5 << 20) // len(answer.body)  # more than a socket's buffers hold
        assert again < MAX_UNANSWERED
        with connect(server.url) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * again)
            while not metric(server, 'owl_stream_connections_refused_total{reason="stuck"} 1.0'):
                pass
            assert len(read_to_end(sock)) < again * len(answer.body)
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()


class Unread:
    """A connection that holds an answer of so many bytes."""

    def __init__(self, unsent_bytes: int) -> None:
        self.unsent_bytes, self.dropped = unsent_bytes, False

    def drop(self) -> None:
        """See `Connection`."""
        self.dropped = True


def test_fault_129_answers_that_nobody_reads_are_bounded_together() -> None:
    """Those that have waited longest go; the newest stays, however large; those without an answer are left alone."""
    connections, third = Connections(100), MOST_UNSENT_BYTES // 3
    crowd = [Unread(0), *(Unread(third) for _ in range(3))]
    for each in crowd:
        assert connections.admit(each)
        connections.answering(each)
        connections.silent(each)
    assert not any(each.dropped for each in crowd)
    small, large = Unread(10), Unread(2 * MOST_UNSENT_BYTES)
    for each, gone in ((small, [False, True, False, False]), (large, [False, True, True, True])):
        assert connections.admit(each)
        connections.answering(each)
        connections.silent(each)
        assert [other.dropped for other in crowd] == gone
    assert (small.dropped, large.dropped) == (True, False)
    assert connections.refused == {"unsent": 4}


def test_thousands_of_requests_in_one_packet_end_their_connection(tmp_path: Path) -> None:
    """Nobody needs a token to pipeline: eight connections of 14,000 requests each hold up nobody else."""
    many = b"GET /livez HTTP/1.1\r\n\r\n" * 10_000
    with ServerProcess(small_dataset(tmp_path, server={"workers": 1})) as server:
        with crowd(server, 8) as sockets:
            for sock in sockets:
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    sock.send(many)
            began = time.monotonic()
            assert get(server.url + "/livez").status == 200
            assert time.monotonic() - began < 2.0
        refused = get(server.url + "/metrics").body
    assert b'owl_stream_connections_refused_total{reason="pipelined"} ' in refused
