"""How many cores this process may really use: what affinity leaves of them, and what a container is allowed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Whole cores, at least 1. A limit of one and a half counts as two: both are busy three quarters of the time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [math.ceil(limit) for limit in cpu_limits(cgroups, membership)]
    return max(1, min([cores, *limits]))


def cpu_limits(cgroups: Path, membership: Path) -> Iterator[float]:
    """Cores that control groups allow this process, one for each group above it that sets a limit.

    Version 2 writes "quota period" in `cpu.max`, version 1 each in a file of its own. Where nothing can be read there
    is no limit that we know of.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            root = cgroups
        elif "cpu" in controllers.split(","):
            root = cgroups / controllers if (cgroups / controllers).is_dir() else cgroups / "cpu"
        else:
            continue
        # In a container the path may be the host's: then only the root is there, and it is the container's own.
        for group in {root, *_up(root, path)}:
            limit = _limit(group)
            if limit is not None:
                yield limit


def _up(root: Path, path: str) -> Iterator[Path]:
    group = root / path.strip("/")
    while group != root and root in group.parents:
        yield group
        group = group.parent


def _limit(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or not int(quota) or not int(period):
        return None  # "max", or -1
    return int(quota) / int(period)
