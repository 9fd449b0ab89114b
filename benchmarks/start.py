"""How long a trainer waits for its first batch once a server is ready, and how much memory that server has then."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from benchmarks.cpu import resident_bytes, tree
from benchmarks.report import Line
from benchmarks.rounds import Ratio
from benchmarks.service import Service
from benchmarks.workload import Workload

GIB = 1 << 30


def measure(workload: Workload, *, rounds: int) -> tuple[list[Line], dict[str, Any]]:
    """A new server each round; memory after an epoch."""
    waits, memory = [], []
    for _ in range(rounds):
        with ExitStack() as stack:
            service = stack.enter_context(Service(workload))
            dataset = stack.enter_context(service.dataset())
            began = time.perf_counter()
            batches = iter(dataset)
            next(batches)
            waits.append(time.perf_counter() - began)
            for _ in batches:
                pass
            memory.append(resident_bytes(tree(service.pid)) / GIB)
    lines = [
        Line("8", "from a ready server to the first batch", Ratio.of(waits), at_most=0.5, unit="s"),
        Line("8", "memory of server and workers after an epoch", Ratio.of(memory), at_most=1.5, unit="GiB"),
    ]
    return lines, {"waits_s": waits, "memory_gib": memory}
