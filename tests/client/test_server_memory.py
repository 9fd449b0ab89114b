"""Frames that a reader takes from a server's memory: what it accepts, from whom, and what it holds."""

from __future__ import annotations

import errno
import fcntl
import http.client
import mmap
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from owl_client.body import fast_body
from owl_client.memory import _MAPPED_FROM, Meeting, ServerMemory
from owl_stream.engine.slabs import CONTROL_BYTES, Slab, SlabPool
from owl_stream.errors import FrameError
from owl_stream.wire import ACCEPTED, MAX_SLABS, MEMORY_HEADER, SLAB, TAKEN, MemoryOffer, MemoryPlace

NBYTES = 100_000


class Server:
    """The other end of a reader's memory: real slabs, shown by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def show(self, number: int, content: bytes) -> None:
        """Let the reader see a slab that begins with `content`."""
        slab = Slab.make(number, 1 << 20)
        slab.memory[: len(content)] = content
        fd = slab.open_readonly()
        socket.send_fds(self.sock, [SLAB.pack(number)], [fd])
        os.close(fd)
        slab.close()

    def show_file(self, number: int, fd: int) -> None:
        """Let the reader see some other file."""
        socket.send_fds(self.sock, [SLAB.pack(number)], [fd])


@pytest.fixture
def pair() -> Iterator[tuple[Server, ServerMemory]]:
    """A server and a reader that have met."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = ServerMemory(theirs)
    with ours:
        yield Server(ours), memory
        memory.close()


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def copied(memory: ServerMemory, place: MemoryPlace) -> bytes:
    """The bytes at a place."""
    memory.begin(place)
    buffer = memoryview(bytearray(place.nbytes + 5))
    got = memory.readinto(buffer)
    assert (got, memory.left) == (place.nbytes, 0)
    return bytes(buffer[:got])


def test_a_frame_is_found_where_the_server_says(pair: tuple[Server, ServerMemory]) -> None:
    """A slab is shown once and used again; another place in it is another view."""
    server, memory = pair
    server.show(7, b"abcdef")
    assert copied(memory, MemoryPlace(7, 64, 3)) == b"abc"
    assert copied(memory, MemoryPlace(7, 66, 4)) == b"cdef"
    assert [server.sock.recv(16), server.sock.recv(16)] == [TAKEN, TAKEN]


def test_what_is_shown_can_be_read_and_nothing_else() -> None:
    """The descriptor does not write, nor does the memory shrink or grow under whoever reads it."""
    slab = Slab.make(2, NBYTES)
    fd = slab.open_readonly()
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(fd, slab.nbytes)
        for size in (0, 2 * slab.nbytes):
            with pytest.raises(PermissionError):
                os.ftruncate(slab.fd, size)
        assert os.fstat(fd).st_mode & 0o777 == 0o400
    finally:
        os.close(fd)
        slab.close()


def test_a_slab_that_is_dropped_costs_nothing_whoever_has_mapped_it() -> None:
    """A reader that never unmaps, or never takes the next frame, keeps no memory from the system: it reads zeros."""
    pool = SlabPool(0, lambda number: None)
    slab = pool.take(NBYTES)
    slab.memory[:NBYTES] = b"x" * NBYTES
    fd = slab.open_readonly()
    with mmap.mmap(fd, slab.nbytes, prot=mmap.PROT_READ) as mapped:
        assert os.fstat(fd).st_blocks * 512 >= NBYTES
        assert mapped[64 : 64 + NBYTES] == b"x" * NBYTES
        pool.give(slab)
        assert os.fstat(fd).st_blocks == 0
        assert mapped[:] == bytes(slab.nbytes)
    os.close(fd)


class Sandboxed(mmap.mmap):
    """Memory of a system that cannot punch holes."""

    def madvise(self, *arguments: int) -> None:
        """Say so."""
        raise OSError(errno.ENOSYS, "Function not implemented")


def test_a_system_that_cannot_give_pages_back_early_closes_slabs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropping a slab neither fails nor leaves its descriptors open."""
    monkeypatch.setattr("owl_stream.engine.slabs.mmap.mmap", Sandboxed)
    before, pool = descriptors(), SlabPool(0, lambda number: None)
    slab = pool.take(NBYTES)
    assert isinstance(slab.map, Sandboxed)
    pool.give(slab)
    assert (descriptors(), pool.nbytes) == (before, 0)


def test_a_reader_cannot_make_the_server_wait_for_a_slab() -> None:
    """One of the same user may hold a lease on it, which opening it anew would have to wait for, for 45 s."""
    slab = Slab.make(2, NBYTES)
    fd, before = slab.open_readonly(), signal.signal(signal.SIGIO, signal.SIG_IGN)  # which tells the lease's holder
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(BlockingIOError):
            slab.open_readonly()
    finally:
        signal.signal(signal.SIGIO, before)
        os.close(fd)
        slab.close()


def test_a_child_made_by_fork_keeps_nothing(pair: tuple[Server, ServerMemory]) -> None:
    """A DataLoader's worker must not keep the memory of a server that is gone; its parent reads on."""
    server, memory = pair
    server.show(1, b"abc")
    memory.begin(MemoryPlace(1, 64, 3))
    fd, ours = memory._slabs[1]._fd, memory._sock.fileno()
    child = os.fork()
    if not child:
        open_still = [each for each in (fd, ours) if os.path.exists(f"/proc/self/fd/{each}")]
        os._exit(len(open_still))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert copied(memory, MemoryPlace(1, 64, 3)) == b"abc"


def mapped_slabs() -> int:
    """How many slabs this process has mapped to be read."""
    with open("/proc/self/maps") as maps:
        return sum("memfd:" in line and line.split()[1] == "r--s" for line in maps)


def test_a_slab_that_comes_again_is_mapped_and_reads_the_same(pair: tuple[Server, ServerMemory]) -> None:
    """From the fourth time on, whatever is written in it meanwhile, in pieces of any size; until it is forgotten."""
    server, memory = pair
    slab = Slab.make(3, 1 << 20)
    fd, before = slab.open_readonly(), mapped_slabs()
    socket.send_fds(server.sock, [SLAB.pack(3)], [fd])
    os.close(fd)
    for use in range(1, 9):
        content = os.urandom(1000)
        slab.memory[5:1005] = content
        memory.begin(MemoryPlace(3, CONTROL_BYTES + 5, 1000))
        pieces = []
        while memory.left:
            buffer = memoryview(bytearray(use * 100))
            pieces.append(bytes(buffer[: memory.readinto(buffer)]))
        assert b"".join(pieces) == content
        assert mapped_slabs() - before == (use >= _MAPPED_FROM)
    assert memory.readinto(memoryview(bytearray(9))) == 0
    server.show(4, b"abc")
    memory.begin(MemoryPlace(4, 64, 3, (3,)))
    assert mapped_slabs() == before
    slab.close()


def test_a_slab_that_cannot_be_mapped_is_read_all_the_same(
    pair: tuple[Server, ServerMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer may have no address space left."""

    def refused(*args: object, **options: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    server, memory = pair
    server.show(7, b"abcdef")
    monkeypatch.setattr("owl_client.memory.mmap.mmap", refused)
    for _ in range(2 * _MAPPED_FROM):
        assert copied(memory, MemoryPlace(7, 64, 3)) == b"abc"


@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_children_made_by_fork_while_slabs_are_read_map_none(pair: tuple[Server, ServerMemory]) -> None:
    """A copy under way in another thread is waited for; the parent reads on."""
    server, memory = pair
    before, stop, failed = mapped_slabs(), threading.Event(), []
    server.show(1, b"abc")

    def read() -> None:
        buffer = memoryview(bytearray(900_000))
        while not stop.is_set():
            memory.begin(MemoryPlace(1, 64, 900_000))
            memory.readinto(buffer)
            server.sock.recv(16)
            if buffer[:3] != b"abc":
                failed.append(bytes(buffer[:3]))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        while mapped_slabs() == before:
            time.sleep(0.001)
        for _ in range(20):
            child = os.fork()
            if not child:
                os._exit(mapped_slabs())
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == before
    finally:
        stop.set()
        thread.join()
    assert not failed
    assert copied(memory, MemoryPlace(1, 64, 3)) == b"abc"


def test_forgotten_slabs_are_closed(pair: tuple[Server, ServerMemory]) -> None:
    """Each costs a descriptor, until the server says that the slab is gone."""
    server, memory = pair
    before = descriptors()
    for number in range(8):
        server.show(number, b"abc")
        memory.begin(MemoryPlace(number, 64, 3))
    assert descriptors() - before == 8
    memory.begin(MemoryPlace(7, 64, 3, tuple(range(7))))
    assert descriptors() - before == 1


def show_unsealed(server: Server) -> None:
    """Memory that could shrink under a reader, which would kill it."""
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, NBYTES)
    server.show_file(1, fd)
    os.close(fd)


def show_temporary(server: Server) -> None:
    """A file on disk, which has no seals."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(NBYTES))
        server.show_file(1, file.fileno())


def show_pipe(server: Server) -> None:
    """No memory at all."""
    fds = os.pipe()
    server.show_file(1, fds[0])
    for fd in fds:
        os.close(fd)


HARMS = {
    "not_shown": ("expected its descriptor beforehand", lambda server: None),
    "another_number": ("expected its descriptor beforehand", lambda server: server.show(2, b"abc")),
    "no_descriptor": ("expected one descriptor, got 0", lambda server: server.sock.send(SLAB.pack(1))),
    "unsealed": ("sealed against shrinking", show_unsealed),
    "a_file": ("got another file", show_temporary),
    "a_pipe": ("got another file", show_pipe),
}


@pytest.mark.parametrize("harm", HARMS)
def test_memory_that_cannot_be_trusted_is_refused(pair: tuple[Server, ServerMemory], harm: str) -> None:
    """Each by name, and no descriptor is left behind."""
    server, memory = pair
    message, show = HARMS[harm]
    show(server)
    before = descriptors()
    with pytest.raises(FrameError, match=message):
        memory.begin(MemoryPlace(1, 64, 3))
    assert descriptors() <= before


@pytest.mark.parametrize(("start", "nbytes"), [(0, (1 << 20) + 1), ((1 << 20) - 2, 3), (2**63, 1), (64, 2**64 - 1)])
def test_a_place_beyond_the_slab_is_refused(pair: tuple[Server, ServerMemory], start: int, nbytes: int) -> None:
    """However large the numbers are."""
    server, memory = pair
    server.show(1, b"abc")
    with pytest.raises(FrameError, match="expected a place within the slab's 1048576 bytes"):
        memory.begin(MemoryPlace(1, start, nbytes))


def test_too_many_slabs_are_refused(pair: tuple[Server, ServerMemory]) -> None:
    """A server cannot use up a reader's descriptors."""
    server, memory = pair
    for number in range(MAX_SLABS):
        server.show(number, b"abc")
        memory.begin(MemoryPlace(number, 64, 3))
    server.show(MAX_SLABS, b"abc")
    with pytest.raises(FrameError, match=f"expected at most {MAX_SLABS}"):
        memory.begin(MemoryPlace(MAX_SLABS, 64, 3))
    assert copied(memory, MemoryPlace(MAX_SLABS, 64, 3, (0,))) == b"abc"


@contextmanager
def connected(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection; the first one's address is `host`."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), source_address=(host, 0)) as sock,
        listener.accept()[0] as peer,
    ):
        yield sock, peer


GONE, QUIET = b"gone", b"quiet"


@contextmanager
def meeting_with(*messages: bytes | None) -> Iterator[tuple[Meeting, list[socket.socket], bytes]]:
    """A reader, whoever comes to its socket with such a first message, and its key; None is the key."""
    with connected() as (sock, _), Meeting() as meeting, ExitStack() as stack:
        offer = MemoryOffer.from_header(meeting.offer(sock)[MEMORY_HEADER])
        assert offer is not None
        assert (offer.host, offer.port) == sock.getsockname()
        key, visitors = offer.key.encode(), []
        for message in messages:
            visitor = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            visitor.connect(offer.path)
            visitors.append(visitor)
            if message == GONE:
                visitor.close()
            elif message != QUIET:
                with memory_that_ends_with(key) as fd:
                    socket.send_fds(visitor, [key if message is None else message], [fd])
        yield meeting, visitors, key


@contextmanager
def memory_that_ends_with(content: bytes) -> Iterator[int]:
    """A descriptor of a slab."""
    slab = Slab.make(0, CONTROL_BYTES + len(content))
    slab.memory[:] = content
    fd = slab.open_readonly()
    yield fd
    os.close(fd)
    slab.close()


def test_only_whoever_knows_the_key_is_met() -> None:
    """Strangers on the machine can find the socket, but are sent away; the server that comes later is met."""
    with meeting_with(b"0" * 32, GONE, None) as (meeting, (stranger, _, server), _):
        before = descriptors()
        memory = meeting.accept(ACCEPTED)
        assert memory is not None
        assert descriptors() == before + 1
        assert server.recv(16) == TAKEN
        Server(server).show(1, b"abc")
        assert copied(memory, MemoryPlace(1, 64, 3)) == b"abc"
        assert stranger.recv(1) == b""
        memory.close()


@pytest.mark.parametrize("shown", ["nothing", "other_memory", "no_memory"])
def test_a_server_whose_memory_cannot_be_seen_is_told(shown: str) -> None:
    """What it has shown is not there, not its own, or no memory: then it hears of it before the first frame."""
    with meeting_with() as (meeting, _, key), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        assert meeting._listening is not None
        server.connect(meeting._listening.getsockname())
        with memory_that_ends_with(b"0" * 32) as other, tempfile.TemporaryFile() as file:
            file.write(key)
            file.flush()
            fds = {"nothing": [], "other_memory": [other], "no_memory": [file.fileno()]}[shown]
            socket.send_fds(server, [key], fds)
            before = descriptors()
            assert meeting.accept(ACCEPTED) is None
            assert descriptors() == before
        assert server.recv(16) == b""


def test_a_stranger_who_says_nothing_keeps_nobody_waiting() -> None:
    """Though it is the first at the socket: the server that has said the key is met at once."""
    with meeting_with(QUIET, None) as (meeting, (stranger, server), _):
        memory = meeting.accept(ACCEPTED)
        assert memory is not None
        assert (stranger.recv(1), server.recv(16)) == (b"", TAKEN)
        memory.close()


def test_whoever_says_it_came_and_did_not_is_read_over_the_connection() -> None:
    """Nobody is waited for."""
    with meeting_with(QUIET) as (meeting, _, _):
        assert meeting.accept(ACCEPTED) is None


def test_a_system_that_forbids_the_socket_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request goes without an offer, and no descriptor is lost."""
    with connected() as (sock, _), Meeting() as meeting:
        monkeypatch.setattr(socket.socket, "bind", forbidden)
        before = descriptors()
        assert meeting.offer(sock) == {}
        assert descriptors() == before
        assert meeting.accept(ACCEPTED) is None


def forbidden(self: socket.socket, address: object) -> None:
    """What a security policy does."""
    raise PermissionError(errno.EPERM, "not here")


def test_nothing_is_offered_across_a_distance_and_nobody_awaited_who_does_not_come() -> None:
    """Two addresses are two machines; an answer without the header is one without memory."""
    with connected("127.0.0.2") as (sock, _), Meeting() as meeting:
        assert meeting.offer(sock) == {}
        assert meeting.accept(ACCEPTED) is None
    with connected() as (sock, _), Meeting() as meeting:
        assert meeting.offer(sock)
        assert meeting.accept(None) is None


def chunk(content: bytes, extension: bytes = b"") -> bytes:
    """A chunk of a body."""
    return b"%x%s\r\n%s\r\n" % (len(content), extension, content)


def read(body_bytes: bytes, memory: ServerMemory | None, piece: int) -> bytes:
    """All of a chunked answer, read `piece` bytes at a time."""
    got = bytearray()
    with connected() as (sock, peer):
        sender = threading.Thread(
            target=peer.sendall, args=(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body_bytes,)
        )
        sender.start()
        with http.client.HTTPResponse(sock) as response:
            response.begin()
            body, buffer = fast_body(response, sock, 5.0, memory), memoryview(bytearray(piece))
            while count := body.readinto(buffer):
                got += buffer[:count]
        sender.join()
    return bytes(got)


@pytest.mark.parametrize("piece", [1, 7, 1000, 1 << 20])
def test_a_body_reads_the_same_wherever_its_bytes_lie(pair: tuple[Server, ServerMemory], piece: int) -> None:
    """Sent and left in memory, in turns; the server hears of each frame that has been taken, once."""
    server, memory = pair
    content = np.random.default_rng(0).bytes(3000)
    server.show(5, content)
    places = [MemoryPlace(5, 64, 1000), MemoryPlace(5, 64 + 1000, 2000)]
    parts = [chunk(b"hello"), *(chunk(place.to_bytes(), b";memory") for place in places), chunk(b"end")]
    assert read(b"".join(parts) + b"0\r\n\r\n", memory, piece) == b"hello" + content + b"end"
    server.sock.setblocking(False)
    assert [server.sock.recv(16) for _ in places] == [TAKEN, TAKEN]
    with pytest.raises(BlockingIOError):
        server.sock.recv(16)


def test_the_extension_means_nothing_to_a_reader_that_offered_no_memory() -> None:
    """As RFC 9112 has it: an extension that is not known is passed over."""
    place = MemoryPlace(1, 64, 3).to_bytes()
    assert read(chunk(place, b";memory") + b"0\r\n\r\n", None, 1 << 20) == place


def test_a_chunk_too_large_for_a_place_is_refused(pair: tuple[Server, ServerMemory]) -> None:
    """Before memory is taken for it."""
    with pytest.raises(http.client.HTTPException, match="expected a place in memory, got a chunk of 5000 bytes"):
        read(chunk(bytes(5000), b";memory") + b"0\r\n\r\n", pair[1], 1 << 20)
