"""Readers that stall or vanish in the middle of a large frame, over every transport that a server has.

None of them is a client of ours: what they do to a connection, and when, is written out here.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
from collections import Counter
from contextlib import ExitStack

from owl_client.memory import Meeting, ServerMemory
from owl_stream.wire import ACCEPTED
from tests.faults.harms import END_OF_HEAD
from tests.faults.large import FRAME_BYTES, Address

ENDS = ("stalls", "closes", "resets", "half-closes")
PLACED = b";memory\r\n"
"""What a chunk begins with that says where a frame lies: the server waits from here on."""
READ_BYTES = 1 << 18
UNANSWERED_S = 120.0
NEVER_READ = 60
"""Connections that ask for a batch at once and read nothing."""


class Churn:
    """What hostile readers do to servers, turn by turn, and counts of it. Shared by threads.

    `stall_s` is longer than the servers' idle timeout. `gone[how, transport]` are readers that were in the middle of a
    frame; `elsewhere` those that were refused, or came to an end before there was one.
    """

    def __init__(self, stall_s: float, steps: int) -> None:
        self._stall_s, self._steps = stall_s, steps
        self._lock = threading.Lock()
        self.gone: Counter[tuple[str, str]] = Counter()
        self.elsewhere: Counter[str] = Counter()
        self.batches: Counter[str] = Counter()

    def reader(self, plain: Address, secure: Address, seed: int) -> Turns:
        """One hostile reader after the other, each over another transport and with another end."""
        return Turns(self, plain, secure, random.Random(seed))

    def note(self, what: str) -> None:
        """Count a reader that never came to a frame."""
        with self._lock:
            self.elsewhere[what] += 1

    def read_and_go(
        self, at: Address, transport: str, how: str, chance: random.Random, stopping: threading.Event
    ) -> None:
        """Read a stream up to the middle of a frame, and end so."""
        path = f"/v1/datasets/train/stream?epochs=1000&step={chance.randrange(self._steps)}"
        with ExitStack() as opened:
            sock = opened.enter_context(at.connect(UNANSWERED_S))
            if transport == "memory":
                meeting = opened.enter_context(Meeting())
                at.ask(sock, path, meeting.offer(sock))
                there = self._into_memory(sock, meeting, chance.randrange(3), opened)
            else:
                at.ask(sock, path)
                there = self._into_frame(sock, chance.randrange(FRAME_BYTES))
            if there:
                self._end(sock, how, stopping)
            with self._lock:
                if there:
                    self.gone[how, transport] += 1
        if not there:
            stopping.wait(0.5)

    def never_read(self, at: Address, name: str, stopping: threading.Event) -> None:
        """Ask for 60 different batches at once and read nothing until past the idle timeout; then see the answers."""
        asked: list[socket.socket] = []
        with ExitStack() as opened:
            for number in range(NEVER_READ):
                sock = opened.enter_context(at.connect(UNANSWERED_S))
                at.ask(sock, f"/v1/datasets/train/batches/{number}/{number % self._steps}/0")
                asked.append(sock)
            stopping.wait(self._stall_s)
            statuses = [_status(sock) for sock in asked]
        with self._lock:
            self.batches.update(f"{name} {status}" for status in statuses)

    def _into_frame(self, sock: socket.socket, nbytes: int) -> bool:
        """Read a head that says 200, and so many bytes."""
        seen = bytearray()
        while END_OF_HEAD not in seen:
            if not (part := sock.recv(READ_BYTES)):
                break
            seen += part
        if not self._accepted(bytes(seen)):
            return False
        left = nbytes - len(seen)
        while left > 0 and (part := sock.recv(min(left, READ_BYTES))):
            left -= len(part)
        return left <= 0

    def _into_memory(self, sock: socket.socket, meeting: Meeting, frames: int, opened: ExitStack) -> bool:
        """Take so many frames from memory, as if they had been copied, and have the next one named."""
        memory: ServerMemory | None = None
        seen, named = b"", 0
        while named <= frames:
            part = sock.recv(READ_BYTES)
            if not part:
                self.note("ended" if memory is not None else "closed")
                return False
            seen += part
            if memory is None and END_OF_HEAD in seen:
                memory = meeting.accept(ACCEPTED) if self._accepted(seen) else None
                if memory is None:
                    return False
                opened.callback(memory.close)
            while memory is not None and named <= frames and (at := seen.find(PLACED)) >= 0:
                seen, named = seen[at + len(PLACED) :], named + 1
                if named <= frames:
                    memory.taken()
        return True

    def _accepted(self, answer: bytes) -> bool:
        if answer.startswith(b"HTTP/1.1 200"):
            return True
        self.note(answer[9:12].decode(errors="replace") or "closed")
        return False

    def _end(self, sock: socket.socket, how: str, stopping: threading.Event) -> None:
        if how == "stalls":
            stopping.wait(self._stall_s)
        elif how == "resets":
            reset(sock)
        elif how == "half-closes":
            socket.socket.shutdown(sock, socket.SHUT_WR)
            stopping.wait(0.5)


class Turns:
    """One thread of `Churn`."""

    def __init__(self, churn: Churn, plain: Address, secure: Address, chance: random.Random) -> None:
        self._churn, self._chance = churn, chance
        self._ways = [("socket", plain), ("memory", plain), ("tls", secure)]

    def __call__(self, stopping: threading.Event) -> None:
        """One reader."""
        transport, at = self._chance.choice(self._ways)
        try:
            self._churn.read_and_go(at, transport, self._chance.choice(ENDS), self._chance, stopping)
        except OSError as exc:
            self._churn.note(type(exc).__name__)


def reset(sock: socket.socket) -> None:
    """Close with RST, past TLS."""
    socket.socket.setsockopt(sock, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _status(sock: socket.socket) -> str:
    """The status that waits to be read; what became of the connection where there is none."""
    try:
        ready, _, _ = select.select([sock], [], [], 0.0)
        return sock.recv(12)[9:12].decode(errors="replace") or "closed" if ready else "unanswered"
    except OSError:
        return "reset"
