"""How long assembly takes, by stage, and how much CPU time and memory one sample may take."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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


SLACK_BYTES = 64 << 20
"""Beside what a picture may take: what the allocator does not give back, and what the interpreter needs meanwhile."""

NO_MEMORY = "decoding needs more memory than one picture may take"
"""Why a sample is condemned; the same words from every engine and server."""


class OutOfMemoryError(Exception):
    """A sample's pictures took all memory that they may, in a process that may end and be replaced for it."""


@dataclass(frozen=True)
class SampleLimits:
    """What one sample may take of a process that may be killed: seconds of CPU time, and memory by its recipe.

    Samples whose digests are `proven` went well alone in a process of their own: they have `lone_cpu_s` instead, and
    no limit of memory.
    """

    cpu_s: int
    lone_cpu_s: int
    proven: frozenset[int] = frozenset()

    def cpu_of(self, digest: int) -> int:
        """CPU seconds of a sample."""
        return self.lone_cpu_s if digest in self.proven else self.cpu_s


class CpuBudget:
    """Lets the kernel kill this process with SIGXCPU when one sample costs more CPU time than it may.

    A decoder that never returns cannot be stopped from inside. Only for processes that may be killed. The kernel counts
    whole seconds, so a sample may take up to one more.
    """

    def __init__(self) -> None:
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_CPU)
        self._now_set = self._soft

    def renew(self, seconds: int) -> None:
        """Begin a sample."""
        end = math.ceil(time.process_time() + seconds)
        self._set(min((end, *(limit for limit in (self._soft, self._hard) if limit != resource.RLIM_INFINITY))))

    def __enter__(self) -> CpuBudget:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._set(self._soft)

    def _set(self, soft: int) -> None:
        if soft != self._now_set:  # it changes once a second, samples come by the hundred
            resource.setrlimit(resource.RLIMIT_CPU, (soft, self._hard))
            self._now_set = soft


@contextmanager
def at_most_more(nbytes: int) -> Iterator[None]:
    """Let this process take `nbytes` more of private memory in the block, and no more; shared memory does not count.

    Python and numpy then raise MemoryError; a library may abort the process instead. Without /proc there is no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _private_bytes() + nbytes
    if limit <= nbytes or (soft != resource.RLIM_INFINITY and soft < limit):
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _private_bytes() -> int:
    """What the kernel counts under RLIMIT_DATA; 0 where it does not say."""
    try:
        statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(statm, 200).split()[5]) * resource.getpagesize()
    finally:
        os.close(statm)


def give_back_memory() -> None:
    """Free what nobody uses, and have the allocator return what it keeps."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)
