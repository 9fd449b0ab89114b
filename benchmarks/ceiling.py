"""The decode ceiling: our decoder and our resizer in bare processes, from memory to memory, and nothing else at all.

`ceiling` ends with crops or patches as a batch holds them, in memory of a batch's size; `kernels`
with what the resizer leaves in a buffer that stays in the cache, which no loader could hand to anybody.
"""

from __future__ import annotations

import multiprocessing
import tarfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.contender import Feed, Read
from benchmarks.workload import MAX_LENGTH, SAMPLES, Workload
from owl_stream.assemble.header import Header, probe
from owl_stream.assemble.images import Decoder
from owl_stream.assemble.resizers import make_resizer
from owl_stream.assemble.tokenizer import load_tokenizer
from owl_stream.layouts import Chat, Image, LengthLimit, Visual
from owl_stream.records import Message

PROCESSES = 2
OUTSTANDING = 6
BATCHES = 4
"""Of memory that one process writes in turn: more than the cache holds, as the slabs of the service are."""


class _Picture(NamedTuple):
    data: bytes
    header: Header
    visual: Visual


class _Decoding:
    """What one process holds: every picture's bytes, and where to put its pixels."""

    def __init__(self, workload: Workload) -> None:
        self.rows, self._workload = workload.rows, workload
        recipe = workload.recipe()
        self._layout = recipe.make_layout()
        self._decoder, self._resize = Decoder(self._layout.transparency), make_resizer("simd")
        self._tokenizer = load_tokenizer(recipe.tokenizer, Path(), self._layout.tokens).build()
        self._pictures = list(self._read())
        visuals = [picture.visual for picture in self._pictures]
        dims = next(entry.dims for entry in self._layout.schema if entry.name == visuals[0].tensor)
        most = max(visual.rows for visual in visuals)
        self.memory = np.empty((BATCHES, self.rows, most, *map(int, dims[1:])), np.uint8)

    def _read(self) -> Iterator[_Picture]:
        for path in self._workload.shards:
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if member.name.endswith(".jpg") and file is not None:
                        data = file.read()
                        header = probe(data, 10**8)
                        yield _Picture(data, header, self._visual(header))

    def _visual(self, header: Header) -> Visual:
        """Where the only picture of a sample goes."""
        messages = [Message("user", "<|image|>"), Message("assistant", "An owl.")]
        limit = LengthLimit(MAX_LENGTH, "truncate")
        medium = Image(header.width, header.height)
        return self._layout.encode(Chat(messages), [medium], self._tokenizer, limit).visuals[0]

    def run(self, start: int, draw: bool) -> int:
        """Work on one batch of pictures."""
        memory = self.memory[start // self.rows % BATCHES]
        for at, (data, header, visual) in enumerate(self._pictures[start : start + self.rows]):
            pixels = self._decoder.decode(data, header).pixels
            if draw:
                self._layout.draw(pixels, visual, memory[at, : visual.rows], self._resize)
            else:
                for width, height in self._layout.targets(visual):
                    self._resize(pixels, width, height)
        return self.rows


_here: list[_Decoding] = []


def _load(workload: Workload) -> None:
    _here[:] = [_Decoding(workload)]


def _run(start: int, draw: bool) -> int:
    return _here[0].run(start, draw)


def ceiling(workload: Workload, stack: ExitStack, *, draw: bool) -> Feed:
    """Images as they are done; the processes rest while nobody asks."""
    context = multiprocessing.get_context("spawn")
    pool = stack.enter_context(ProcessPoolExecutor(PROCESSES, context, _load, (workload,)))

    def batches() -> Iterator[Read]:
        waiting: deque[Future[int]] = deque()
        start = 0
        while True:
            while len(waiting) < OUTSTANDING:
                waiting.append(pool.submit(_run, start, draw))
                start = (start + workload.rows) % SAMPLES
            yield Read(waiting.popleft().result(), 0)

    return Feed(batches())
