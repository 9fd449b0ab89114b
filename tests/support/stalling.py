"""Storage that stalls for real: whoever opens a file waits until the test lets go of it."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Stall:
    """A file that nobody else can open now."""

    def __init__(self, file: int) -> None:
        self._file = file

    @property
    def felt(self) -> bool:
        """Whether somebody waits to open it."""
        return fcntl.fcntl(self._file, fcntl.F_GETLEASE) != fcntl.F_WRLCK


@contextmanager
def stalled(path: Path) -> Iterator[Stall]:
    """While the block runs, `open` of the file does not return in any other process (fcntl(2), leases).

    Nobody may have the file open. The kernel keeps others waiting for 45 s at most (/proc/sys/fs/lease-break-time).
    """
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # it tells who holds the lease, and is ignored by default
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield Stall(file)
    finally:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(file)
