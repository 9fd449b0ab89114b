"""How long assembly takes, by stage, and how much CPU time one sample may take."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class Stopwatch:
    """Adds up seconds of wall time by stage."""

    def __init__(self, *stages: str) -> None:
        self.seconds = dict.fromkeys(stages, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what the block takes."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - begin


class CpuBudget:
    """Lets the kernel kill this process with SIGXCPU when one sample costs more than `seconds` of CPU time.

    A decoder that never returns cannot be stopped from inside. Only for processes that may be killed: None does
    nothing. The kernel counts whole seconds, so a sample may take up to one more.
    """

    def __init__(self, seconds: int | None) -> None:
        self._seconds = seconds
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_CPU)

    def renew(self) -> None:
        """Begin a sample."""
        if self._seconds is not None:
            end = math.ceil(time.process_time() + self._seconds)
            self._set(min((end, *(limit for limit in (self._soft, self._hard) if limit != resource.RLIM_INFINITY))))

    def __enter__(self) -> CpuBudget:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._seconds is not None:
            self._set(self._soft)

    def _set(self, soft: int) -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, self._hard))
