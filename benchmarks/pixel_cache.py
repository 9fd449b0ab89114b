"""The pixel cache: an epoch that fills it beside epochs that read it, and beside a server without one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from benchmarks.report import Line
from benchmarks.rounds import Ratio
from benchmarks.service import Service
from benchmarks.workload import SAMPLES, Workload
from owl_client import OwlStreamDataset


def measure(workload: Workload, *, rounds: int) -> tuple[list[Line], dict[str, Any]]:
    """Each round begins with an empty cache and reads two epochs."""
    first: list[float] = []
    second: list[float] = []
    directory = workload.directory / "pixels"
    for _ in range(rounds):
        shutil.rmtree(directory, ignore_errors=True)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            service = stack.enter_context(Service(workload, server={"cache": {"dir": str(directory)}}))
            dataset = stack.enter_context(service.dataset())
            first.append(_rate(dataset))
            second.append(_rate(dataset))
    gain = Ratio.of([warm / cold for cold, warm in zip(first, second, strict=True)])
    line = Line("5", f"`{workload.kind}`, pixel cache: second epoch / first", gain, at_least=2.5)
    return [line], {"first_images_per_s": first, "second_images_per_s": second}


def _rate(dataset: OwlStreamDataset) -> float:
    """Images a second of one epoch, from asking for it to having it."""
    began = time.perf_counter()
    assert sum(_rows(dataset)) == SAMPLES
    return SAMPLES / (time.perf_counter() - began)


def _rows(dataset: OwlStreamDataset) -> Iterator[int]:
    for batch in dataset:
        yield sum(row.status == "ok" for row in batch.meta.rows)
