"""Control groups with a limit of memory, of version 1 or 2: the kernel's memory killer stands behind it."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.patience import PATIENCE_S

CGROUPS = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group, of version 1 or 2, that has a limit of memory. A context manager: nothing of it is left.

    Raises:
        OSError: none can be made here.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    def __enter__(self) -> Self:
        self._path = _made(f"owl-stream-{os.getpid()}", self._limit_bytes)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        until = time.monotonic() + PATIENCE_S
        while pids := (self._path / "cgroup.procs").read_text().split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            assert time.monotonic() < until, f"processes {pids} of a control group do not end"
            threading.Event().wait(0.05)
        self._path.rmdir()

    @property
    def behind(self) -> tuple[str, ...]:
        """A command that executes the rest of its arguments within the group."""
        return ("sh", "-c", f'echo 0 > {shlex.quote(str(self._path / "cgroup.procs"))} && exec "$@"', "sh")

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed for the limit."""
        for name in ("memory.events", "memory.oom_control"):
            with suppress(FileNotFoundError):
                lines = (line.split() for line in (self._path / name).read_text().splitlines())
                return next(int(value) for key, value in lines if key == "oom_kill")
        raise FileNotFoundError(self._path)

    @property
    def peak_bytes(self) -> int:
        """The most that it ever had, page cache included; the limit where the system does not say."""
        for name in ("memory.peak", "memory.max_usage_in_bytes"):
            with suppress(FileNotFoundError):
                return int((self._path / name).read_text())
        return self._limit_bytes


def _made(name: str, limit_bytes: int) -> Path:
    """A new group below our own, or below one of those above it."""
    failure: OSError = FileNotFoundError("no control groups")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, own = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        within = (root / own.strip("/")).relative_to(root)
        for parent in (root / within, *(root / above for above in within.parents)):
            try:
                return _limited(parent / name, limit_bytes, version=1 if controllers else 2)
            except OSError as exc:
                failure = exc
    raise failure


def _limited(group: Path, limit_bytes: int, version: int) -> Path:
    if version == 2 and "memory" not in (group.parent / "cgroup.subtree_control").read_text().split():
        (group.parent / "cgroup.subtree_control").write_text("+memory")
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if version == 1 else "memory.max")).write_text(str(limit_bytes))
        if version == 2 and (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
    except OSError:
        group.rmdir()
        raise
    return group
