"""Somebody who reads a stream of a server while a test looks at something else."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.patience import PATIENCE_S
from tests.support.server import ServerProcess


@contextmanager
def reading(server: ServerProcess, **asked: int) -> Iterator[None]:
    """Somebody who reads a stream, as fast as it comes, until the block ends."""
    query = "&".join(f"{name}={value}" for name, value in {"epochs": 100_000, **asked}.items())
    done = threading.Event()

    def read() -> None:
        with urllib.request.urlopen(f"{server.url}/v1/datasets/train/stream?{query}", timeout=PATIENCE_S) as stream:
            while not done.is_set():
                stream.read(1 << 14)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()
