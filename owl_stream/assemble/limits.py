"""How long assembly takes, by stage, and how much CPU time one sample may take."""

from __future__ import annotations

import math
import resource
import time
from types import TracebackType


class Stopwatch:
    """Adds up seconds of wall time by stage. A stage does not begin inside itself."""

    def __init__(self, *stages: str) -> None:
        self.seconds = dict.fromkeys(stages, 0.0)
        self._stages = {name: _Stage(self.seconds, name) for name in stages}

    def stage(self, name: str) -> _Stage:
        """Count what the block takes."""
        return self._stages[name]


class _Stage:
    """Entered several times for every picture: a generator would take longer than some of what it measures."""

    __slots__ = ("_began", "_name", "_seconds")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name, self._began = seconds, name, 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._seconds[self._name] += time.perf_counter() - self._began


class CpuBudget:
    """Lets the kernel kill this process with SIGXCPU when one sample costs more than `seconds` of CPU time.

    A decoder that never returns cannot be stopped from inside. Only for processes that may be killed: None does
    nothing. The kernel counts whole seconds, so a sample may take up to one more.
    """

    def __init__(self, seconds: int | None) -> None:
        self._seconds = seconds
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_CPU)
        self._now_set = self._soft

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
        if soft != self._now_set:  # it changes once a second, samples come by the hundred
            resource.setrlimit(resource.RLIMIT_CPU, (soft, self._hard))
            self._now_set = soft
