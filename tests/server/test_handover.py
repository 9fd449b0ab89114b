"""Frames left in shared memory for a reader on the same machine: by a real server, for readers of every kind."""

from __future__ import annotations

import asyncio
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from owl_client import OwlStreamDataset
from owl_client.body import fast_body
from owl_client.connection import HttpByteStream, HttpTransport
from owl_client.memory import Meeting
from owl_client.transport import Interrupt, Share, StreamRequest
from owl_stream.engine import SharedPlace, Slab
from owl_stream.engine.slabs import CONTROL_BYTES, SlabPool
from owl_stream.errors import PeerGoneError
from owl_stream.server.direct import DirectSocket
from owl_stream.server.handover import Handover
from owl_stream.wire import (
    ACCEPTED,
    MAX_SLABS,
    MEMORY_HEADER,
    TAKEN,
    BatchHeader,
    Cursor,
    End,
    Frame,
    FrameParser,
    MemoryOffer,
)
from tests.faults.proxy import FaultProxy
from tests.support.datasets import small_dataset
from tests.support.hashes import batch_line
from tests.support.http import connect, get
from tests.support.layouts import OWL, every_layout
from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess

STREAM = "/v1/datasets/train/stream"
BATCHES = 11


@pytest.fixture(scope="module")
def local(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose frames fill more than a socket's buffers hold."""
    with large_frames(tmp_path_factory.mktemp("local"), layout, idle_timeout_s=4 * PATIENCE_S) as server:
        yield server
        assert server.stop() == 0


def large_frames(directory: Path, layout: str = OWL, **limits: float) -> ServerProcess:
    """A server of two workers, with limits of its own."""
    settings = {"workers": 2, "prefetch_bytes": 8 << 20, **limits}
    return ServerProcess(small_dataset(directory, layout=layout, image_size=224, server=settings))


def lines(url: str) -> list[str]:
    """What a trainer is given in one epoch."""
    return [batch_line(batch) for batch in OwlStreamDataset(url, dtype=torch.uint8)]


@contextmanager
def reading(url: str) -> Iterator[HttpByteStream]:
    """A stream that is read by hand."""
    fingerprint = get(f"{url}/v1/datasets/train").json["fingerprint"]
    request = StreamRequest("train", fingerprint, Cursor(0, 0, 0), Share(0, 1, 4))
    stream = HttpTransport().open(url, request, Interrupt())
    try:
        yield stream
    finally:
        stream.close()


def frames(stream: HttpByteStream) -> Iterator[Frame]:
    """Its frames, the last one included."""
    parser = FrameParser()
    while True:
        frame = parser.advance(stream.readinto(parser.buffer()))
        if frame is not None:
            yield frame
            if isinstance(frame.header, End):
                return


def in_the_middle_of_a_frame(stream: HttpByteStream) -> FrameParser:
    """Read until a part of the first frame in memory has been copied, but not all of it."""
    assert stream._memory is not None
    parser = FrameParser()
    while not stream._memory.left:
        parser.advance(stream.readinto(parser.buffer()[: 1 << 16]))
    return parser


def rest_of(stream: HttpByteStream, parser: FrameParser, frames: int = 1) -> Frame:
    """Read on to the end of the frame that `parser` is in, or so many: it checks every byte. Returns the last one."""
    while True:
        frame = parser.advance(stream.readinto(parser.buffer()))
        frames -= frame is not None
        if frame is not None and not frames:
            return frame


def leased(server: ServerProcess) -> bool:
    """Whether any stream holds a frame."""
    return b"owl_stream_engine_leased 0.0" not in get(server.url + "/metrics").body


@every_layout
def test_a_reader_on_the_same_machine_copies_from_memory_what_others_are_sent(local: ServerProcess) -> None:
    """The same frames to the byte, but hardly a byte of them through the socket."""
    with FaultProxy(local.url) as proxy, reading(proxy.url) as sent:
        through_socket = [(frame.header, bytes(frame.payload)) for frame in frames(sent)]
        socket_bytes = proxy.nbytes
    with reading(local.url) as stream:
        assert stream._memory is not None
        taken = [(frame.header, bytes(frame.payload)) for frame in frames(stream)]
        assert stream._memory._slabs
    assert taken == through_socket
    assert sum(isinstance(header, BatchHeader) for header, _ in taken) == BATCHES
    assert socket_bytes > sum(len(payload) for _, payload in taken) > 8 << 20
    assert not leased(local)


def test_a_proxy_between_is_sent_the_frames(local: ServerProcess) -> None:
    """Both ends have one address then too, but a proxy would not know what to make of memory."""
    with FaultProxy(local.url) as proxy, reading(proxy.url) as stream:
        assert stream._memory is None
        assert sum(isinstance(frame.header, BatchHeader) for frame in frames(stream)) == BATCHES


@pytest.mark.parametrize("kind", ["nobody_listens", "another_port", "another_host", "nonsense"])
def test_an_offer_that_leads_nowhere_is_answered_with_bytes(local: ServerProcess, kind: str) -> None:
    """The answer does not say that it was accepted, and holds everything."""
    with connect(local.url) as sock:
        host, port = sock.getsockname()
        offer = {
            "nobody_listens": MemoryOffer.make(host, port),
            "another_port": MemoryOffer.make(host, port + 1),
            "another_host": MemoryOffer.make("127.0.0.2", port),
        }
        value = offer[kind].to_header() if kind in offer else "../../run/docker.sock"
        request = f"GET {STREAM} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{MEMORY_HEADER}: {value}\r\n\r\n"
        sock.sendall(request.encode())
        answer = bytearray()
        while part := sock.recv(1 << 20):
            answer += part
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert MEMORY_HEADER.lower().encode() not in head.lower()
    assert len(body) > 8 << 20
    assert b";memory" not in body


def test_a_reader_that_cannot_see_the_memory_is_sent_frames(
    local: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy of its system took the descriptor away, say: it says so before the first frame, and reads on."""
    monkeypatch.setattr("owl_client.memory._receive", without_descriptors)
    with reading(local.url) as stream:
        assert stream._memory is None
        assert sum(isinstance(frame.header, BatchHeader) for frame in frames(stream)) == BATCHES
    assert "cannot see shared memory" in local.log.read_text()


def without_descriptors(sock: socket.socket, nbytes: int) -> tuple[bytes, list[int]]:
    """A message as it arrives where descriptors may not pass."""
    return sock.recv(nbytes), []


def test_it_can_be_switched_off(tmp_path: Path, local: ServerProcess) -> None:
    """`shared_memory: false` sends frames to everyone; trainers notice nothing."""
    off = {"shared_memory": False}
    with ServerProcess(small_dataset(tmp_path, image_size=224, server=off)) as server:
        with reading(server.url) as stream:
            assert stream._memory is None
        assert lines(server.url) == lines(local.url)


def test_a_server_without_workers_sends_frames(tmp_path: Path) -> None:
    """What it assembles in its own memory nobody else can see."""
    inline = {"workers": 0}
    with ServerProcess(small_dataset(tmp_path, server=inline)) as server, reading(server.url) as stream:
        assert stream._memory is None
        assert sum(isinstance(frame.header, BatchHeader) for frame in frames(stream)) == BATCHES


@every_layout
def test_a_frame_stays_as_it_is_until_it_has_been_copied(local: ServerProcess) -> None:
    """While one reader is in the middle of a frame, others have the server use all the memory it likes."""
    with reading(local.url) as stream:
        parser = in_the_middle_of_a_frame(stream)
        expected = lines(local.url)
        assert lines(local.url) == expected
        assert isinstance(rest_of(stream, parser).header, BatchHeader)
        rest = sum(isinstance(frame.header, BatchHeader) for frame in frames(stream))
        assert rest == BATCHES - 1


def test_a_reader_that_closes_its_memory_is_gone(local: ServerProcess) -> None:
    """Even if its connection is open still: nothing would tell the server when the frame may be overwritten."""
    with reading(local.url) as stream:
        assert stream._memory is not None
        parser = in_the_middle_of_a_frame(stream)
        stream._memory._sock.close()
        with pytest.raises(PeerGoneError):
            rest_of(stream, parser, frames=BATCHES)
    while leased(local):
        pass
    assert len(lines(local.url)) == BATCHES


READER = """
import sys, torch
from owl_client import OwlStreamDataset
for batch in OwlStreamDataset(sys.argv[1], dtype=torch.uint8, prefetch=1):
    print("got", flush=True)
    input()
"""


@contextmanager
def trainer(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has taken one batch and takes no more; two others wait in it, and one in memory."""
    with subprocess.Popen(
        [sys.executable, "-c", READER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "got\n"
            yield process
        finally:
            process.kill()


@every_layout
def test_fault_3_a_reader_that_is_killed_with_a_frame_in_its_hands_leaves_nothing(local: ServerProcess) -> None:
    """Its memory is given back at once, not after the idle timeout, and the next reader gets everything."""
    with trainer(local.url) as process:
        while not leased(local):
            pass
        process.kill()
        while leased(local):
            pass  # the idle timeout is longer than the test may take
    assert len(lines(local.url)) == BATCHES


def test_fault_6_a_reader_that_stops_is_dropped_and_loses_nothing(tmp_path: Path) -> None:
    """Stopped for longer than the idle timeout, its frame is taken from it; once it goes on it gets all the rest."""
    with large_frames(tmp_path, idle_timeout_s=2.0) as server, trainer(server.url) as process:
        os.kill(process.pid, signal.SIGSTOP)
        while "took nothing" not in server.log.read_text() or leased(server):
            pass
        os.kill(process.pid, signal.SIGCONT)
        rest, _ = process.communicate("\n" * BATCHES)
        assert process.returncode == 0
        assert rest.splitlines() == ["got"] * (BATCHES - 1)


def test_a_server_that_can_show_no_more_sends_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors, say: that is no fault of the reader's, who loses nothing but speed."""
    pool, put = SlabPool(0, lambda number: None), []

    async def run() -> list[bytes]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with handing_over(await reader.readline(), writer) as (handover, direct):
                for number in range(4):
                    if number == 2:
                        monkeypatch.setattr(Slab, "open_readonly", out_of_descriptors)
                    slab = pool.take(8)
                    slab.memory[:8] = number.to_bytes(8, "little")
                    put.append(await handover.put(SharedPlace(slab, CONTROL_BYTES, 8), 30.0))
                    if not put[-1]:
                        await direct.write(slab.memory[:8], 30.0)
                    monkeypatch.undo()
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            got, _ = await asyncio.to_thread(read_from, server.sockets[0].getsockname()[1], 4)
        return got

    assert asyncio.run(run()) == [number.to_bytes(8, "little") for number in range(4)]
    assert put == [True, True, False, False]


def test_a_reader_that_takes_no_slabs_is_shown_few() -> None:
    """It may say that it has copied what it never saw; descriptors on their way to it count as the server's own."""
    pool, put = SlabPool(0, lambda number: None), []

    async def run() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with handing_over(await reader.readline(), writer) as (handover, _):
                told.set()
                while not put or (put[-1] and len(put) < MAX_SLABS):
                    put.append(await handover.put(SharedPlace(pool.take(8), CONTROL_BYTES, 8), 30.0))
            writer.close()

        told = asyncio.Event()
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            with (
                socket.create_connection(server.sockets[0].getsockname()) as sock,
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening,
            ):
                offer = MemoryOffer.make(*sock.getsockname())
                listening.bind(offer.path)
                listening.listen()
                sock.sendall(offer.to_header().encode() + b"\n")
                await told.wait()
                with listening.accept()[0] as visitor:
                    for _ in range(64):
                        visitor.send(TAKEN)
                    while await asyncio.to_thread(sock.recv, 1 << 16):
                        pass

    asyncio.run(run())
    assert put[-1] is False
    assert 1 <= len(put) <= 16


def out_of_descriptors(slab: Slab) -> int:
    """What the system says then."""
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("forbidden", ["socket", "connect", "open_readonly"])
def test_a_server_that_may_not_meet_a_reader_sends_frames(monkeypatch: pytest.MonkeyPatch, forbidden: str) -> None:
    """A policy of its system is in the way, or its descriptors are used up: none is lost, and nothing fails."""

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EPERM, "not here")

    async def run() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            offer = MemoryOffer.from_header((await reader.readline()).decode().strip())
            assert offer is not None
            with DirectSocket(writer.transport) as direct:
                before = len(os.listdir("/proc/self/fd"))
                with monkeypatch.context() as patch:
                    patch.setattr(*owner[forbidden], refuse)
                    met.set_result(Handover.meet(offer, direct))
                assert len(os.listdir("/proc/self/fd")) == before
            writer.close()

        met: asyncio.Future[Handover | None] = asyncio.get_running_loop().create_future()
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            with socket.create_connection(server.sockets[0].getsockname()) as sock, Meeting() as meeting:
                sock.sendall(meeting.offer(sock)[MEMORY_HEADER].encode() + b"\n")
                assert await met is None

    owner = {
        "socket": ("owl_stream.server.handover.socket.socket",),
        "connect": (socket.socket, "connect"),
        "open_readonly": (Slab, "open_readonly"),
    }
    asyncio.run(run())


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no sockets for both kinds of addresses")
def test_a_server_for_both_kinds_of_addresses_knows_its_peer() -> None:
    """Its socket has 127.0.0.1 as ::ffff:127.0.0.1; the reader's own end says 127.0.0.1."""

    async def run() -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with DirectSocket(writer.transport) as direct:
                peer.set_result(direct.peer)
            writer.close()

        peer: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        async with await asyncio.start_server(accept, sock=listener) as server:
            port = server.sockets[0].getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as sock:
                assert await peer == sock.getsockname()

    asyncio.run(run())


@contextmanager
def handing_over(line: bytes, writer: asyncio.StreamWriter) -> Iterator[tuple[Handover, DirectSocket]]:
    """A server's side of an answer to a reader whose offer is `line`."""
    with DirectSocket(writer.transport) as direct:
        handover = Handover.meet(MemoryOffer.from_header(line.decode().strip()), direct)
        assert handover is not None
        head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{MEMORY_HEADER}: {ACCEPTED}\r\n\r\n"
        writer.write(head.encode())
        with handover:
            yield handover, direct


def read_from(port: int, count: int) -> tuple[list[bytes], int]:
    """So many frames of 8 bytes, taken by a client's own parts; and how many slabs were open in the end."""
    with socket.create_connection(("127.0.0.1", port)) as sock, Meeting() as meeting:
        sock.sendall(meeting.offer(sock)[MEMORY_HEADER].encode() + b"\n")
        with http.client.HTTPResponse(sock) as response:
            response.begin()
            memory = meeting.accept(response.headers[MEMORY_HEADER])
            assert memory is not None
            body, buffer, got = fast_body(response, sock, 30.0, memory), memoryview(bytearray(8)), []
            for _ in range(count):
                assert body.readinto(buffer) == 8
                got.append(bytes(buffer))
            slabs = len(memory._slabs)
            memory.close()
    return got, slabs


@pytest.mark.parametrize(("dropped", "kept_open"), [(True, 1), (False, MAX_SLABS)])
def test_a_reader_keeps_no_slab_that_is_gone_and_never_too_many(dropped: bool, kept_open: int) -> None:
    """Slabs that the engine lets go of are closed with the next frame; of too many the one shown first is."""
    count, pool, kept = MAX_SLABS + 8, SlabPool(0, lambda number: None), []

    async def run() -> tuple[list[bytes], int]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with handing_over(await reader.readline(), writer) as (handover, _):
                for number in range(count):
                    slab = pool.take(8)
                    slab.memory[:8] = number.to_bytes(8, "little")
                    assert await handover.put(SharedPlace(slab, CONTROL_BYTES, 8), 30.0)
                    pool.give(slab) if dropped else kept.append(slab)
                    del slab
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            return await asyncio.to_thread(read_from, server.sockets[0].getsockname()[1], count)

    got, slabs = asyncio.run(run())
    assert got == [number.to_bytes(8, "little") for number in range(count)]
    assert slabs == kept_open
