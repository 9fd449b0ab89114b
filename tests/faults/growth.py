"""What a server process holds while it runs: descriptors and memory over time, slabs and leases once it is quiet."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from owl_stream.engine.processes import KEEP_FREE_BYTES
from tests.faults.large import Address

EVERY_S = 1.0
FEW = 60
"""Looks that say nothing about growth: what is kept for later still fills."""
SLAB = "/memfd:owl-stream-frame"
QUIET_S = 120.0
"""How long a server may take until nothing of the streams that have ended is left."""


@dataclass(frozen=True)
class Held:
    """What a process holds at a time. `descriptors` are those that are no slabs; `own_bytes` is PSS without slabs."""

    descriptors: int
    slabs: int
    slab_bytes: int
    pss_bytes: int
    own_bytes: int

    @classmethod
    def of(cls, pid: int) -> Held:
        """What it holds now.

        Raises:
            OSError: there is no such process, or it is somebody else's.
        """
        others, sizes = 0, dict[int, int]()
        for number in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{number}"
            with suppress(FileNotFoundError):  # closed meanwhile
                if os.readlink(path).startswith(SLAB):
                    slab = os.stat(path)
                    sizes[slab.st_ino] = slab.st_size  # one that is mapped has two descriptors
                else:
                    others += 1
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        pss, shared = (int(found) << 10 for found in re.findall(r"^Pss(?:_Shmem)?: +(\d+) kB", rollup, re.MULTILINE))
        return cls(others, len(sizes), sum(sizes.values()), pss, pss - shared)


@dataclass(frozen=True)
class Series:
    """One number over time: its lower quartiles in the second fifth of the time and in the last, and its slack.

    Harm comes in rounds, which a lower quartile does not see: it is what is held between them.
    """

    name: str
    early: float
    late: float
    slack: float

    @classmethod
    def of(cls, name: str, values: Sequence[float], least_slack: float) -> Series:
        """A twentieth of what it was, or `least_slack`, is no growth."""
        fifth = max(1, len(values) // 5)
        early, late = _quartile(values[fifth : 2 * fifth] or values), _quartile(values[-fifth:])
        return cls(name, early, late, max(0.05 * early, least_slack))

    @property
    def grew(self) -> bool:
        """Whether there was more of it in the end."""
        return self.late > self.early + self.slack

    def __str__(self) -> str:
        return f"{self.name} {self.early:,.0f} -> {self.late:,.0f}"


def _quartile(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 4]


class Growth:
    """Looks at a process again and again."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self._pid = name, pid
        self.first = Held.of(pid)
        self.seen: list[Held] = []

    def __call__(self, stopping: threading.Event) -> None:
        """Look once."""
        self.seen.append(Held.of(self._pid))
        stopping.wait(EVERY_S)

    def series(self) -> list[Series]:
        """Descriptors and MB over the whole time."""
        return [
            Series.of("descriptors", [held.descriptors for held in self.seen], 32),
            Series.of("PSS without slabs, MB", [held.own_bytes / 1e6 for held in self.seen], 24),
            Series.of("PSS, MB", [held.pss_bytes / 1e6 for held in self.seen], 96),
        ]

    def failures(self) -> list[str]:
        """What grew."""
        if len(self.seen) < FEW:
            return []
        return [f"{self.name}: {series} grew" for series in self.series() if series.grew]


def numbers(at: Address) -> dict[str, float]:
    """A server's metrics by name, labels and all."""
    lines = at.get("/metrics").body.decode().splitlines()
    parts = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name.removeprefix("owl_stream_"): float(value) for name, _, value in parts}


@dataclass(frozen=True)
class Quiet:
    """A server that nobody reads from: what is left, and what should not be."""

    numbers: dict[str, float]
    held: Held
    failures: tuple[str, ...]

    @classmethod
    def of(cls, at: Address, pid: int, before: Held) -> Quiet:
        """Wait until nothing is left that should not be, or for as long as that may take."""
        until = time.monotonic() + QUIET_S
        while True:
            found = numbers(at)
            quiet = cls(found, held := Held.of(pid), tuple(_left(found, held, before)))
            if not quiet.failures or time.monotonic() > until:
                return quiet
            threading.Event().wait(0.2)


def _left(found: dict[str, float], held: Held, before: Held) -> list[str]:
    """What should not be, in words."""
    slabs = found["engine_slab_bytes"]
    zero = ("streams_open", "engine_leased", "engine_busy", "engine_queued", "engine_kept_bytes")
    left = [f"{name} is {found[name]:,.0f}, expected 0" for name in zero if found[name]]
    if found.get("engine_free_bytes") != slabs:
        left.append(f"engine_free_bytes is {found.get('engine_free_bytes')}, expected all of {slabs:,.0f}")
    if slabs > KEEP_FREE_BYTES:
        left.append(f"engine_slab_bytes is {slabs:,.0f}, expected at most the pool's {KEEP_FREE_BYTES:,}")
    if slabs != held.slab_bytes:
        left.append(f"{held.slabs} slabs of {held.slab_bytes:,} bytes are open, engine_slab_bytes is {slabs:,.0f}")
    if held.descriptors > before.descriptors + 16:
        left.append(f"{held.descriptors} descriptors beside slabs, {before.descriptors} before anything happened")
    return left
