"""What a reader that stops costs: the server's shared memory, and the speed of everyone else.

    python -m benchmarks.reader_stall --stall-seconds 60

Method: one server as a process of its own. A stream is read as fast as it goes. Other readers stop: they have opened a
stream, taken a few kilobytes and then take nothing, on connections that stay open. Memory: the most seen while they are
stopped, less the most seen before any was; slabs as /metrics counts them, and PSS from /proc/PID/smaps_rollup, summed
over the server and its workers. Speed: slices with and without stopped readers in turn, so that what else the machine
does hits both alike; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import socket
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.datasets import write_config
from tests.support.http import get
from tests.support.server import ServerProcess
from tests.support.tars import chat, picture, write_shard
from tests.support.tokenizer import small_tokenizer

STREAM = "/v1/datasets/train/stream"
PREFETCH_BYTES = 192 << 20
"""A server's default."""

LEAST_RATIO = 0.95
WARM_UP_S, SETTLE_S, SLICE_S, SAMPLE_S = 8.0, 2.0, 4.0, 1.0


@dataclass(frozen=True)
class Memory:
    """What the server holds: bytes of slabs by its own count, bytes of PSS by the kernel's."""

    slabs: int
    pss: int


def memory(server: ServerProcess) -> Memory:
    """The server's memory now."""
    assert server.process is not None
    pid = server.process.pid
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    slabs = re.search(r"^owl_stream_engine_slab_bytes (\S+)", get(f"{server.url}/metrics").body.decode(), re.MULTILINE)
    assert slabs is not None
    return Memory(int(float(slabs[1])), sum(_pss(each) for each in pids))


def _pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


@contextmanager
def stopped_readers(url: str, count: int) -> Iterator[None]:
    """Readers that have begun and then take nothing. Each reads another epoch, so that none shares an assembly."""
    parts = urlsplit(url)
    with ExitStack() as stack:
        for number in range(count):
            sock = socket.socket()
            stack.callback(sock.close)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            sock.connect((parts.hostname, parts.port))
            query = f"epoch={1000 * (number + 1)}&epochs=1000"
            sock.sendall(f"GET {STREAM}?{query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        yield


class FastReader:
    """Reads a stream as fast as it goes."""

    def __init__(self, url: str) -> None:
        self._response = urllib.request.urlopen(f"{url}{STREAM}?epochs=100000", timeout=60)

    def rate(self, seconds: float) -> float:
        """Megabytes a second, over so long."""
        began, nbytes = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            nbytes += len(self._response.read1(1 << 20))
        return nbytes / 1e6 / (time.monotonic() - began)

    def close(self) -> None:
        """Leave."""
        self._response.close()


@dataclass(frozen=True)
class Outcome:
    """Memory in bytes, rates of the other stream in megabytes a second."""

    before: Memory
    stalled: Memory
    alone: list[float]
    beside: list[float]

    @property
    def ratio(self) -> float:
        """Speed beside stopped readers, as a share of the speed alone: medians of slices."""
        return statistics.median(self.beside) / statistics.median(self.alone)


def measure(server: ServerProcess, stopped: int, stall_s: float, slices: int) -> Outcome:
    """Read alone, stop readers once for all of `stall_s` and watch the memory, then alternate for the speed."""
    alone: list[float] = []
    beside: list[float] = []
    with closing(FastReader(server.url)) as reader:
        reader.rate(WARM_UP_S)
        before = _watched(server, reader, WARM_UP_S)
        with stopped_readers(server.url, stopped):
            stalled = _watched(server, reader, stall_s)
        for _ in range(slices):
            reader.rate(SETTLE_S)
            alone.append(reader.rate(SLICE_S))
            with stopped_readers(server.url, stopped):
                reader.rate(SETTLE_S)  # what they had assembled ahead is work like any reader's, and not a stall
                beside.append(reader.rate(SLICE_S))
    return Outcome(before, stalled, alone, beside)


def _watched(server: ServerProcess, reader: FastReader, seconds: float) -> Memory:
    """The most memory seen while the reader goes on for so long."""
    seen, end = [memory(server)], time.monotonic() + seconds
    while time.monotonic() < end:
        reader.rate(SAMPLE_S)
        seen.append(memory(server))
    return Memory(max(each.slabs for each in seen), max(each.pss for each in seen))


def _dataset(directory: Path, server: dict[str, Any]) -> Path:
    """Rows of one image each: frames of one size, so that the pool of slabs has one size too and is soon what it is."""
    texts = [chat(("<|image|>What?", f"Owl {number}.")) for number in range(200)]
    samples = [(f"{n:06}", {"json": text, "jpg": picture(120, 80, n)}) for n, text in enumerate(texts)]
    write_shard(directory / "train-00000.tar", samples)
    small_tokenizer(directory / "tokenizer.json")
    return write_config(directory, image_size=378, cut="off", global_batch_size=8, server=server)


def main() -> int:
    """Measure and print; fails where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stall-seconds", type=float, default=60.0)
    parser.add_argument("--stopped", type=int, default=1, help="readers that stop")
    parser.add_argument("--slices", type=int, default=12)
    arguments = parser.parse_args()
    settings = {"prefetch_bytes": PREFETCH_BYTES, "idle_timeout_s": 600.0}
    with tempfile.TemporaryDirectory() as directory:
        config = _dataset(Path(directory), settings)
        with ServerProcess(config) as server:
            outcome = measure(server, arguments.stopped, arguments.stall_seconds, arguments.slices)
    budget = arguments.stopped * PREFETCH_BYTES
    grown = Memory(outcome.stalled.slabs - outcome.before.slabs, outcome.stalled.pss - outcome.before.pss)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{arguments.stopped} readers stopped for {arguments.stall_seconds:g} s; prefetch budget {_mib(budget)}")
    print(f"slabs: {_mib(outcome.before.slabs)} -> {_mib(outcome.stalled.slabs)}, grown by {_mib(grown.slabs)}")
    print(f"PSS:   {_mib(outcome.before.pss)} -> {_mib(outcome.stalled.pss)}, grown by {_mib(grown.pss)}")
    for name, rates in (("alone", outcome.alone), ("beside", outcome.beside)):
        print(f"{name:>6}: median {statistics.median(rates):.1f} MB/s of {', '.join(f'{rate:.0f}' for rate in rates)}")
    print(f"ratio beside / alone: {outcome.ratio:.3f} (at least {LEAST_RATIO} is promised)")
    kept = max(grown.slabs, grown.pss) <= budget and outcome.ratio >= LEAST_RATIO
    return 0 if kept else 1


def _mib(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
