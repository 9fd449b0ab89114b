"""What a thousand connections that send one byte a second do to `/health` and to a stream.

    python -m benchmarks.slow_connections [--connections 1000] [--rounds 5] [--epochs 4]

Serves the demo's photographs, and reads stretches of the stream in turn with and without the crowd, so that what
else the machine does falls on both. Prints rows a second of each round, the ratio of the medians (1.0: the crowd costs
nothing), how far the rounds without the crowd lie apart, and the slowest of the health checks made meanwhile. The crowd
is a process of its own, but shares the cores. Every round reads epochs of its own: none finds its frames made already.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import socket
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from owl_stream.demo import build_demo_dataset
from owl_stream.demo.server import DemoServer

DATASET = "demo"
CHUNK = 1 << 20


def run_crowd(host: str, port: int, count: int, ready: Any) -> None:
    """`count` connections for ever: each sends a head byte by byte, and comes back when it is cut off.

    Plain sockets in one loop, so that the crowd itself takes little of the cores that it shares with the server.
    """
    sockets = [begin(host, port) for _ in range(count)]
    ready.set()
    while True:
        began = time.monotonic()
        for place, sock in enumerate(sockets):
            try:
                sock.send(b"a")
            except OSError:
                sock.close()
                sockets[place] = begin(host, port)
        time.sleep(max(0.0, began + 1.0 - time.monotonic()))


def begin(host: str, port: int) -> socket.socket:
    """A connection that has said half a line."""
    sock = socket.create_connection((host, port), timeout=60)
    sock.send(b"GET /livez HTTP/1.1\r\nX: ")
    return sock


@contextmanager
def crowded(url: str, count: int) -> Iterator[None]:
    """The block runs while the crowd is there."""
    host, port = url.removeprefix("http://").split(":")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=run_crowd, args=(host, int(port), count, ready))
    process.start()
    try:
        ready.wait()
        yield
    finally:
        process.kill()
        process.join()


class HealthWatch:
    """Asks for `/health` ten times a second, in a thread; `slowest_s` is the longest that an answer took."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.slowest_s, self.asked = 0.0, 0

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            began = time.perf_counter()
            with urllib.request.urlopen(self._url + "/health", timeout=60) as answer:
                answer.read()
            self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
            self.asked += 1


def rows_per_second(url: str, first: int, epochs: int) -> float:
    """Read `epochs` epochs from `first` on as fast as they come."""
    with urllib.request.urlopen(f"{url}/v1/datasets/{DATASET}", timeout=60) as answer:
        described = json.load(answer)
    began = time.perf_counter()
    with urllib.request.urlopen(
        f"{url}/v1/datasets/{DATASET}/stream?epoch={first}&epochs={epochs}", timeout=60
    ) as stream:
        while stream.read(CHUNK):
            pass
    rows: int = described["steps_per_epoch"] * described["global_batch_size"] * epochs
    return rows / (time.perf_counter() - began)


def main() -> None:
    """Run it and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as directory:
        server = DemoServer(build_demo_dataset(Path(directory)))
        server.start()
        try:
            measure(server.url, options.connections, options.rounds, options.epochs)
        finally:
            server.kill()


def measure(url: str, connections: int, rounds: int, epochs: int) -> None:
    """Alternate rounds with and without the crowd."""
    rows_per_second(url, 0, 1)
    firsts = itertools.count(1, epochs)
    alone, beside, slowest_s = [], [], 0.0
    for number in range(rounds):
        with HealthWatch(url):
            alone.append(rows_per_second(url, next(firsts), epochs))
        with crowded(url, connections), HealthWatch(url) as health:
            beside.append(rows_per_second(url, next(firsts), epochs))
        slowest_s = max(slowest_s, health.slowest_s)
        print(
            f"round {number + 1}: {alone[-1]:.0f} rows/s alone, {beside[-1]:.0f} beside {connections} slow ones; "
            f"of {health.asked} health checks the slowest took {health.slowest_s * 1000:.0f} ms"
        )
    ratio = statistics.median(beside) / statistics.median(alone)
    spread = (max(alone) - min(alone)) / statistics.median(alone)
    print(f"ratio of the medians {ratio:.3f}; rounds without the crowd lie {spread:.0%} apart")
    print(f"slowest health check {slowest_s * 1000:.0f} ms")


if __name__ == "__main__":
    main()
