"""CPU seconds of a process and of everything it has started, from /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IDLE_SHARE, _LOOK_S = 0.1, 0.25

_TICK = os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Process ids of the direct children of every thread of `pid`."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants that live."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes and of children that they have reaped."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICK


def wait_until_idle(pid: int, patience_s: float = 30.0) -> bool:
    """Wait until `pid` and all it has started use less than a tenth of a core; False when they still do at the end."""
    used, ends = cpu_seconds(tree(pid)), time.monotonic() + patience_s
    while time.monotonic() < ends:
        time.sleep(_LOOK_S)
        before, used = used, cpu_seconds(tree(pid))
        if used - before < _IDLE_SHARE * _LOOK_S:
            return True
    return False


def resident_bytes(pids: list[int]) -> int:
    """Proportional share of memory (pages that several map are divided among them)."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total << 10


def descriptors(pids: list[int]) -> int:
    """Open descriptors of these processes."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
