"""Reading while the trainer's main thread holds the interpreter's lock, beside reading while it only waits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks.contender import Read
from benchmarks.report import Line
from benchmarks.rounds import Ratio
from benchmarks.service import Service, endless
from benchmarks.workload import Workload

WARM = 20


def measure(workload: Workload, *, rounds: int, seconds: float) -> tuple[list[Line], dict[str, Any]]:
    """Alternate both. The busy trainer counts in pure Python until the next batch may be there, and then takes it."""
    idle: list[float] = []
    busy: list[float] = []
    with ExitStack() as stack:
        service = stack.enter_context(Service(workload))
        batches = endless(stack.enter_context(service.dataset()))
        for _ in range(rounds):
            idle.append(_rate(batches, seconds, spin_s=0.0))
            busy.append(_rate(batches, seconds, spin_s=1 / idle[-1]))
    share = Ratio.of([one / other for one, other in zip(busy, idle, strict=True)])
    line = Line("10", "images/s while the main thread runs pure Python / idle", share, at_least=0.7)
    return [line], {"idle_images_per_s": idle, "busy_images_per_s": busy}


def _rate(batches: Iterator[Read], seconds: float, spin_s: float) -> float:
    """Images a second. `spin_s` of pure Python are spent on every image that has come."""
    for _ in range(WARM):
        next(batches)
    began = time.perf_counter()
    images = 0
    while time.perf_counter() < began + seconds:
        images += (got := next(batches).images)
        _spin(got * spin_s)
    return images / (time.perf_counter() - began)


def _spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    count = 0
    while time.perf_counter() < until:
        count += 1
