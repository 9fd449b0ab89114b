"""Assemblers that die or hang on one sample, as a decoder with a bug would. Sent to real workers by the tests."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owl_stream.assemble import Assembled, Assembler, AssemblerFactory, Dataset, Header, Job
from owl_stream.assemble.assembler import Progress
from owl_stream.assemble.images import Decoded
from owl_stream.engine import Coordinate

_OF_MEMORY = ("memory", "hoard", "crowd")


@dataclass(frozen=True)
class FaultyFactory:
    """Makes assemblers that misbehave at the sample whose bytes hash to `digest`.

    `fault`: a signal's name (the process kills itself with it), "spin" (burns CPU), "stall" (waits), or "unopened" (no
    assembler is ever made: the process is killed before), "memory" (its decoder raises MemoryError), "hoard" (its
    decoder takes two GiB) or "crowd" (only while other rows are in the job). With a `once` path it happens
    only while that file does not exist.
    """

    real: AssemblerFactory
    digest: int
    fault: str
    once: Path | None = None

    def __call__(self) -> FaultyAssembler:
        """A new assembler."""
        if self.fault == "unopened":
            os.kill(os.getpid(), signal.SIGKILL)
        return FaultyAssembler(self.real(), self)


def harm(dataset: Dataset, at: Coordinate, fault: str, once: Path | None = None) -> int:
    """Make a dataset's assembler misbehave at the first row of a micro-batch; returns that row's digest."""
    row = dataset.job(*at).rows[0]
    assert row is not None
    assert isinstance(dataset.assembler_factory, AssemblerFactory)
    dataset.assembler_factory = FaultyFactory(dataset.assembler_factory, row.digest, fault, once)  # type: ignore[assignment] # stands in for it
    return row.digest


class FaultyAssembler:
    """An assembler whose progress hook does the harm, at the moment a decoder would."""

    def __init__(self, real: Assembler, factory: FaultyFactory) -> None:
        self._real, self._factory = real, factory
        self._decode, self._row = real._decoder.decode, -1
        self._job: Job | None = None
        if factory.fault in _OF_MEMORY:
            real._decoder.decode = self._decoded  # type: ignore[method-assign] # where a decoder would fail

    def assemble(
        self, job: Job, buffer: memoryview, progress: Progress = lambda row: None, **options: Any
    ) -> Assembled:
        """As the real one, but for the fault."""

        self._job = job

        def harmful(row: int) -> None:
            progress(row)
            self._row = row
            if row >= 0 and self._factory.fault not in _OF_MEMORY:
                digest = job.row_at(row).digest
                if digest == self._factory.digest and digest not in job.condemned:
                    self._harm()

        return self._real.assemble(job, buffer, harmful, **options)

    def _decoded(self, data: bytes | memoryview, header: Header) -> Decoded:
        assert self._job is not None
        crowded = self._factory.fault != "crowd" or len(self._job.rows) > 1
        if crowded and self._job.row_at(self._row).digest == self._factory.digest:
            self._harm()
        return self._decode(data, header)

    def _harm(self) -> None:
        if self._factory.once is not None:
            if self._factory.once.exists():
                return
            self._factory.once.touch()
        if self._factory.fault == "spin":
            while True:
                pass
        elif self._factory.fault == "memory":
            raise MemoryError
        elif self._factory.fault in _OF_MEMORY:
            np.empty(2 << 30, np.uint8)
        elif self._factory.fault == "stall":
            time.sleep(3600)
        else:
            os.kill(os.getpid(), signal.Signals[self._factory.fault])

    def close(self) -> None:
        """As the real one."""
        self._real.close()
