"""The decode ceiling: our decoder and our resizer in bare processes, from memory to memory, and nothing else at all."""

from __future__ import annotations

import multiprocessing
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.contender import Feed, Read
from benchmarks.workload import BATCH, IMAGE_SIZE, SAMPLES, Kind, Workload
from owl_stream.assemble.crops import SimdResizer
from owl_stream.assemble.header import Header, probe
from owl_stream.assemble.images import Decoder
from owl_stream.layouts.grid import choose_grid

PROCESSES = 2
OUTSTANDING = 6


@dataclass
class _Decoding:
    """What one process holds: every picture's bytes, and where to put its pixels."""

    kind: Kind
    pictures: list[tuple[bytes, Header]] = field(default_factory=list)
    decoder: Decoder = field(default_factory=Decoder)
    resize: SimdResizer = field(default_factory=SimdResizer)

    def run(self, start: int) -> int:
        for data, header in self.pictures[start : start + BATCH]:
            pixels = self.decoder.decode(data, header)
            if self.kind == "cut":
                rows, cols = choose_grid(header.width, header.height, IMAGE_SIZE)
                self.resize(pixels, cols * IMAGE_SIZE, rows * IMAGE_SIZE)
            self.resize(pixels, IMAGE_SIZE, IMAGE_SIZE)
        return BATCH


_here: list[_Decoding] = []


def _load(workload: Workload) -> None:
    decoding = _Decoding(workload.kind)
    for path in workload.shards:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    data = file.read()
                    decoding.pictures.append((data, probe(data, 10**8)))
    _here[:] = [decoding]


def _run(start: int) -> int:
    return _here[0].run(start)


def ceiling(workload: Workload, stack: ExitStack) -> Feed:
    """Images as they are done; the processes rest while nobody asks."""
    context = multiprocessing.get_context("spawn")
    pool = stack.enter_context(ProcessPoolExecutor(PROCESSES, context, _load, (workload,)))

    def batches() -> Iterator[Read]:
        waiting: deque[Future[int]] = deque()
        start = 0
        while True:
            while len(waiting) < OUTSTANDING:
                waiting.append(pool.submit(_run, start))
                start = (start + BATCH) % SAMPLES
            yield Read(waiting.popleft().result(), 0)

    return Feed(batches())
