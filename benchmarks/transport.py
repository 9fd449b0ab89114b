"""What sending and receiving costs when nothing has to be assembled: beside bare `recv_into` of the same bytes.

The frames are those of one epoch, kept by the server's sharing window and read again and again.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import xxhash

from benchmarks.contender import ROOT
from benchmarks.report import Line
from benchmarks.rounds import Ratio
from benchmarks.service import Service
from benchmarks.workload import Kind, Workload
from owl_client import OwlStreamDataset

FRAME_BYTES: dict[Kind, int] = {"plain": 14_300_000, "cut": 23_850_000}
"""About what a batch has."""
FRAMES = 60
"""What the bare sender has in memory, and sends in turn: more than a cache holds, as the server does."""
MAX_RECEIVE = 1 << 20
_COUNT = struct.Struct("<Q")


@dataclass(frozen=True)
class Pass:
    """So many bytes, in so many seconds, at so much of this process's CPU time."""

    nbytes: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """GB/s."""
        return self.nbytes / self.seconds / 1e9

    @property
    def cost(self) -> float:
        """CPU seconds a GB."""
        return self.cpu_s / self.nbytes * 1e9


def measure(
    workload: Workload, *, rounds: int, passes: int = 2, shared_memory: bool = True
) -> tuple[list[Line], dict[str, object]]:
    """Alternate ours, in memory or over a socket, the raw socket, and the raw socket with a digest."""
    ours: list[Pass] = []
    bare: list[Pass] = []
    digested: list[Pass] = []
    # One epoch must fit what is kept for others to come.
    shards = [str(path) for path in (workload.shards if workload.kind == "plain" else workload.shards[:1])]
    settings = {"share_bytes": 2 << 30, "shared_memory": shared_memory}
    with ExitStack() as stack:
        service = stack.enter_context(Service(workload, server=settings, shards=shards))
        bare_sender = stack.enter_context(BareSender(FRAME_BYTES[workload.kind]))
        dataset, idle = (stack.enter_context(service.dataset()) for _ in range(2))
        second = iter(idle)
        next(second)  # frames are kept only where somebody else may want them
        for number in range(rounds + 1):
            taken = _timed(partial(_epochs, dataset, passes if number else 1))
            if number:  # the first one assembles
                ours.append(taken)
                bare.append(bare_sender.receive(taken.nbytes, digest=False))
                digested.append(bare_sender.receive(taken.nbytes, digest=True))
    del second
    speed = Ratio.of([mine.rate / theirs.rate for mine, theirs in zip(ours, bare, strict=True)])
    cost = Ratio.of([mine.cost / theirs.cost for mine, theirs in zip(ours, digested, strict=True)])
    kind = f"`{workload.kind}`" + ("" if shared_memory else ", over a socket")
    lines = [
        Line("3", f"{kind}, frames that need no assembly: GB/s / the raw socket's", speed, at_least=0.75),
        Line("4", f"{kind}, trainer's CPU s a GB / those of recv_into and xxh3", cost, at_most=1.6),
    ]
    return lines, {name: [vars(one) for one in taken] for name, taken in _named(ours, bare, digested).items()}


def _named(ours: list[Pass], bare: list[Pass], digested: list[Pass]) -> dict[str, list[Pass]]:
    return {"ours": ours, "recv_into": bare, "recv_into_and_xxh3": digested}


def _epochs(dataset: OwlStreamDataset, count: int) -> int:
    """Read epoch 0 so many times; returns its bytes."""
    nbytes = 0
    for _ in range(count):
        dataset.set_epoch(0)
        nbytes += sum(tensor.nbytes for batch in dataset for tensor in batch.values())
    return nbytes


def _timed(receive: Callable[[], int]) -> Pass:
    began = (time.perf_counter(), time.process_time())
    nbytes = receive()
    return Pass(nbytes, time.perf_counter() - began[0], time.process_time() - began[1])


class BareSender:
    """A process that sends as many bytes as it is asked for, over a fresh connection each time. A context manager."""

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes

    def __enter__(self) -> BareSender:
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        arguments = [str(port), str(self._frame_bytes)]
        self._process = subprocess.Popen([sys.executable, "-m", "benchmarks.transport", *arguments], cwd=ROOT)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._listening.close()
        self._process.terminate()
        self._process.wait()

    def receive(self, nbytes: int, *, digest: bool) -> Pass:
        """Receive so many bytes into one buffer, a frame at a time."""
        sock, _ = self._listening.accept()
        with sock:
            sock.recv(1)
            sock.sendall(_COUNT.pack(nbytes))
            frame = memoryview(bytearray(self._frame_bytes))
            return _timed(lambda: _receive(sock, nbytes, frame, digest))


def _receive(sock: socket.socket, nbytes: int, frame: memoryview, digest: bool) -> int:
    left = nbytes
    while left:
        rest = frame[:left]
        left -= rest.nbytes
        state = xxhash.xxh3_64()
        while rest.nbytes:
            got = sock.recv_into(rest, min(rest.nbytes, MAX_RECEIVE))
            if not got:
                raise EOFError
            if digest:
                state.update(rest[:got])
            rest = rest[got:]
    return nbytes


def _send(port: int, frame_bytes: int) -> None:
    one = os.urandom(frame_bytes)
    frames = itertools.cycle([memoryview(bytearray(one)) for _ in range(FRAMES)])
    while True:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"r")
            (nbytes,) = _COUNT.unpack(sock.recv(_COUNT.size, socket.MSG_WAITALL))
            while nbytes:
                sent = next(frames)[:nbytes]
                sock.sendall(sent)
                nbytes -= sent.nbytes


if __name__ == "__main__":
    _send(int(sys.argv[1]), int(sys.argv[2]))
