"""The decode ceiling: our decoder and our resizer in bare processes, from memory to memory, and nothing else at all.

`ceiling` ends with crops as a batch holds them, planes of red, green and blue in memory of a batch's size; `kernels`
with what the resizer leaves in a buffer that stays in the cache, which no loader could hand to anybody.
"""

from __future__ import annotations

import multiprocessing
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from benchmarks.contender import Feed, Read
from benchmarks.workload import IMAGE_SIZE, LAYOUT, SAMPLES, Workload
from owl_stream.assemble.header import Header, probe
from owl_stream.assemble.images import Decoder
from owl_stream.assemble.resizers import make_resizer
from owl_stream.layouts import Choices, Layout, Resize, Visual, get_layout
from owl_stream.layouts.owl3.grid import choose_grid

PROCESSES = 2
OUTSTANDING = 6
BATCHES = 4
"""Of memory that one process writes in turn: more than the cache holds, as the slabs of the service are."""


@dataclass
class _Decoding:
    """What one process holds: every picture's bytes, and where to put its pixels."""

    workload: Workload
    pictures: list[tuple[bytes, Header]] = field(default_factory=list)
    decoder: Decoder = field(default_factory=Decoder)
    resize: Resize = field(default_factory=lambda: make_resizer("simd"))

    def __post_init__(self) -> None:
        self.rows, self.cuts = self.workload.rows, self.workload.kind == "cut"
        layout = get_layout(LAYOUT)
        self.layout: Layout = layout(layout.settle(Choices(self.workload.vision)))
        crops = 8 if self.cuts else 1
        self.memory = np.empty((BATCHES, self.rows, crops, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)

    def run(self, start: int, crops: bool) -> int:
        """Work on one batch of pictures."""
        memory = self.memory[start // self.rows % BATCHES]
        for at, (data, header) in enumerate(self.pictures[start : start + self.rows]):
            pixels = self.decoder.decode(data, header).pixels
            grid = choose_grid(header.width, header.height, IMAGE_SIZE) if self.cuts else None
            if crops:
                count = 1 if grid is None else grid[0] * grid[1] + 1
                visual = Visual(0, 0, "pixel_values", 0, count, grid or ())
                self.layout.draw(pixels, visual, memory[at, :count], self.resize)
                continue
            if grid is not None:
                self.resize(pixels, grid[1] * IMAGE_SIZE, grid[0] * IMAGE_SIZE)
            self.resize(pixels, IMAGE_SIZE, IMAGE_SIZE)
        return self.rows


_here: list[_Decoding] = []


def _load(workload: Workload) -> None:
    decoding = _Decoding(workload)
    for path in workload.shards:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    data = file.read()
                    decoding.pictures.append((data, probe(data, 10**8)))
    _here[:] = [decoding]


def _run(start: int, crops: bool) -> int:
    return _here[0].run(start, crops)


def ceiling(workload: Workload, stack: ExitStack, *, crops: bool) -> Feed:
    """Images as they are done; the processes rest while nobody asks."""
    context = multiprocessing.get_context("spawn")
    pool = stack.enter_context(ProcessPoolExecutor(PROCESSES, context, _load, (workload,)))

    def batches() -> Iterator[Read]:
        waiting: deque[Future[int]] = deque()
        start = 0
        while True:
            while len(waiting) < OUTSTANDING:
                waiting.append(pool.submit(_run, start, crops))
                start = (start + workload.rows) % SAMPLES
            yield Read(waiting.popleft().result(), 0)

    return Feed(batches())
