"""Assemblers that die or hang on one sample, as a decoder with a bug would. Sent to real workers by the tests."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl_stream.assemble import Assembled, Assembler, AssemblerFactory, Job
from owl_stream.assemble.assembler import Progress


@dataclass(frozen=True)
class FaultyFactory:
    """Makes assemblers that misbehave at the sample whose bytes hash to `digest`.

    `fault`: a signal's name (the process kills itself with it), "spin" (burns CPU), "stall" (waits), or "unopened" (no
    assembler is ever made: the process is killed before). With a `once` path it happens only while that file does not
    exist.
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


class FaultyAssembler:
    """An assembler whose progress hook does the harm, at the moment a decoder would."""

    def __init__(self, real: Assembler, factory: FaultyFactory) -> None:
        self._real, self._factory = real, factory

    def assemble(self, job: Job, buffer: memoryview, progress: Progress, **options: Any) -> Assembled:
        """As the real one, but for the fault."""

        def harmful(row: int) -> None:
            progress(row)
            if row >= 0:
                digest = job.row_at(row).digest
                if digest == self._factory.digest and digest not in job.condemned:
                    self._harm()

        return self._real.assemble(job, buffer, harmful, **options)

    def _harm(self) -> None:
        if self._factory.once is not None:
            if self._factory.once.exists():
                return
            self._factory.once.touch()
        if self._factory.fault == "spin":
            while True:
                pass
        elif self._factory.fault == "stall":
            time.sleep(3600)
        else:
            os.kill(os.getpid(), signal.Signals[self._factory.fault])

    def close(self) -> None:
        """As the real one."""
        self._real.close()
