"""A long stream: does anything grow, and is it as fast at the end as at the beginning?

Between two looks bare processes decode for a second: a machine that others use too is now faster, now slower, so what
is compared is the stream's speed as a share of theirs.

python -m benchmarks.endurance --seconds 900
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contender import Contender
from benchmarks.cpu import descriptors, resident_bytes, tree
from benchmarks.report import Line, show
from benchmarks.rounds import Ratio
from benchmarks.service import Service, endless
from benchmarks.workload import Workload, prepare

LOOKS = 60
WAITING, DECODED = 320, 800
"""Images that may wait in queues, and that bare processes decode between two looks."""
SETTLED = 0.2
"""Share of the run after which nothing may grow any more."""


@dataclass(frozen=True)
class Look:
    """What there was at one moment. `images` since the look before, `ceiling`: images a second of bare processes."""

    images: int
    seconds: float
    ceiling: float
    server_bytes: int
    client_bytes: int
    server_descriptors: int
    client_descriptors: int


def measure(workload: Workload, *, seconds: float) -> tuple[list[Line], dict[str, Any]]:
    """Stream for so long, looking at regular times."""
    with ExitStack() as stack:
        service = stack.enter_context(Service(workload))
        batches = endless(stack.enter_context(service.dataset()))
        bare = stack.enter_context(Contender("ceiling", workload))
        looks = []
        for _ in range(LOOKS):
            decoded = bare.turn(WAITING, DECODED)  # once the server has assembled all that it may ahead
            for _ in range(WAITING // workload.rows):
                next(batches)
            began, images = time.perf_counter(), 0
            while time.perf_counter() < began + seconds / LOOKS:
                images += next(batches).images
            server, client = tree(service.pid), [os.getpid()]
            took = time.perf_counter() - began
            memory = (resident_bytes(server), resident_bytes(client))
            looks.append(Look(images, took, decoded.rate, *memory, descriptors(server), descriptors(client)))
    settled = looks[int(LOOKS * SETTLED) :]
    tenth = max(1, LOOKS // 10)
    speed = _share(looks[-tenth:]) / _share(looks[:tenth])
    memory_growth = _growth([look.server_bytes + look.client_bytes for look in settled])
    descriptor_growth = _growth([look.server_descriptors + look.client_descriptors for look in settled])
    lines = [
        Line(
            "9",
            f"{seconds / 60:.0f} minutes: images/s as a share of bare decoding, last tenth / first",
            _one(speed),
            at_least=0.95,
        ),
        Line("9", "growth of memory once it is settled", _one(memory_growth), at_most=0.03),
        Line("9", "growth of descriptors once it is settled", _one(descriptor_growth), at_most=0.0),
    ]
    return lines, {"looks": [vars(look) for look in looks]}


def _share(looks: Sequence[Look]) -> float:
    """Of what bare processes did beside it."""
    return statistics.median(look.images / look.seconds / look.ceiling for look in looks)


def _growth(values: Sequence[int]) -> float:
    """Last third over first third of what was seen, less one."""
    third = max(1, len(values) // 3)
    return statistics.median(values[-third:]) / statistics.median(values[:third]) - 1


def _one(value: float) -> Ratio:
    return Ratio.of([value])


def main() -> int:
    """Run it alone."""
    parser = argparse.ArgumentParser(prog="endurance", description=__doc__)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--data", type=Path, default=Path(".cache/bench"))
    chosen = parser.parse_args()
    lines, _ = measure(prepare(chosen.data.resolve(), [], None)["plain"], seconds=chosen.seconds)
    show(lines)
    return 0 if all(line.holds for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
