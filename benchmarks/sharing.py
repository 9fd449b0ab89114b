"""Consumers of one server: what a second identical one costs, and whether sixteen ranks get equal shares."""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import ExitStack
from typing import Any

from benchmarks.cpu import cpu_seconds, tree
from benchmarks.report import Line
from benchmarks.rounds import Ratio
from benchmarks.service import Service
from benchmarks.workload import SAMPLES, Workload

RANKS = 16
LAG_S = 0.064
"""By so much the second consumer starts behind the first: jobs are not started at the same moment."""


def measure(workload: Workload, *, rounds: int, seconds: float) -> tuple[list[Line], dict[str, Any]]:
    """Both measurements."""
    added = Ratio.of([_second_consumer(workload) for _ in range(rounds)])
    counts = [_sixteen_ranks(workload, seconds) for _ in range(rounds)]
    shares = Ratio.of([max(abs(count / statistics.mean(taken) - 1) for count in taken) for taken in counts])
    lines = [
        Line("6", "server's CPU that a second identical consumer adds", added, at_most=0.15),
        Line("6", f"{RANKS} ranks: furthest from an equal share", shares, at_most=0.10),
    ]
    return lines, {"batches_of_ranks": counts}


def _second_consumer(workload: Workload) -> float:
    """(CPU with two - CPU with one) / CPU with one, of an epoch each on a server that both have warmed."""
    with ExitStack() as stack:
        service = stack.enter_context(Service(workload))
        one, two = (stack.enter_context(service.dataset()) for _ in range(2))
        costs = []
        for epoch in range(4):
            pids = tree(service.pid)
            before = cpu_seconds(pids)
            readers = [threading.Thread(target=_read, args=(one, epoch, 0.0))]
            if epoch % 2:
                readers.append(threading.Thread(target=_read, args=(two, epoch, LAG_S)))
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            costs.append(cpu_seconds(pids) - before)
    alone, both = costs[0] + costs[2], costs[1] + costs[3]
    return both / alone - 1


def _read(dataset: Any, epoch: int, lag_s: float) -> None:
    """A whole epoch, begun a little later."""
    time.sleep(lag_s)
    dataset.set_epoch(epoch)
    for _ in dataset:
        pass


def _sixteen_ranks(workload: Workload, seconds: float) -> list[int]:
    """Batches that each rank got in the time, reading as fast as it can."""
    with ExitStack() as stack:
        service = stack.enter_context(Service(workload, global_batch_size=RANKS))
        counts = [0] * RANKS
        begun, stop = threading.Barrier(RANKS + 1), threading.Event()

        def read(rank: int) -> None:
            with service.dataset(rank=rank, world_size=RANKS) as dataset:
                for number in range(SAMPLES):
                    for _ in dataset:
                        if number == 0 and counts[rank] == 0:
                            begun.wait()
                        counts[rank] += 1
                        if stop.is_set():
                            return

        readers = [threading.Thread(target=read, args=(rank,)) for rank in range(RANKS)]
        for reader in readers:
            reader.start()
        begun.wait()
        time.sleep(seconds / 3)  # until what was assembled ahead at the start is gone
        before = list(counts)
        time.sleep(seconds)
        taken = [after - count for after, count in zip(counts, before, strict=True)]
        stop.set()
        for reader in readers:
            reader.join()
    return taken
