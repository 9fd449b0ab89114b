"""Storage that hangs, for real: whoever opens a shard waits, while pages about it are asked for and streams go on.

A lease (fcntl(2)) does it: while somebody holds one on a file, every other process that opens it waits until it is
given up, for at most the system's `lease-break-time`, which is 45 s.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

from tests.faults.large import PAGES, Address
from tests.faults.load import Load

HELD_S = 40.0
"""How long storage hangs at most. By then streams have gone on and every page has had an answer."""
AFTER_S = 120.0
"""How long a page is waited for in all, the time behind the stall included."""
BETWEEN_S = 3.0
GOES_ON = 2
"""Batches that a stream must be given meanwhile."""
QUESTIONS = (
    *(f"/pages/datasets/{PAGES}/members/0/0/{place}" for place in range(12)),
    *(f"/pages/datasets/{PAGES}/steps/0/0" for _ in range(4)),
    *(f"/v1/datasets/{PAGES}/plan?step=0" for _ in range(4)),
    *(f"/v1/datasets/{PAGES}/quarantine" for _ in range(2)),
    f"/v1/datasets/{PAGES}",
)


def ignore_lease_signals() -> None:
    """The system tells a lease's holder by SIGIO that somebody waits, which else would end the process."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)


@contextmanager
def hanging(shard: Path) -> Iterator[None]:
    """Whoever opens the shard in this block waits. It is replaced by a copy: a lease needs a file nobody has open."""
    copy = shard.with_suffix(".copy")
    shutil.copy2(shard, copy)
    fd = os.open(copy, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        os.replace(copy, shard)
        yield
    finally:
        os.close(fd)  # which gives the lease up


class HangingStorage:
    """Lets the shards of the dataset for pages hang in turn, and asks for pages; `reader` reads another dataset."""

    def __init__(self, directory: Path, at: Address, reader: Load) -> None:
        self._shards = cycle(sorted(directory.glob(f"{PAGES}-*.tar")))
        self._at, self._reader = at, reader
        self.stalls = 0
        self.answers: Counter[str] = Counter()
        self.told = 0
        self.failures: list[str] = []

    def __call__(self, stopping: threading.Event) -> None:
        """Let one shard hang."""
        with ThreadPoolExecutor(len(QUESTIONS)) as asking:
            goal = len(self._reader.lines) + GOES_ON
            with hanging(next(self._shards)):
                answers = [asking.submit(self._answer, question) for question in QUESTIONS]
                self._wait(lambda: all(answer.done() for answer in answers) and len(self._reader.lines) >= goal)
                held_up = sum(not answer.done() for answer in answers)
                waiting = len(self._reader.lines) < goal
            self.answers.update(answer.result() for answer in answers)
        self.stalls += 1
        if held_up:
            self.failures.append(f"{held_up} page requests had no answer while storage hung for {HELD_S:g} s")
        if waiting:
            self.failures.append(f"a stream had no {GOES_ON} batches while other storage hung for {HELD_S:g} s")
        stopping.wait(BETWEEN_S)

    def _wait(self, done: Callable[[], bool]) -> None:
        pause, told = threading.Event(), False
        for _ in range(int(HELD_S / 0.25)):
            if done():
                break
            told = told or self._at.get("/health").status == 503
            pause.wait(0.25)
        self.told += told

    def _answer(self, path: str) -> str:
        """The status of a page, or that it has none."""
        try:
            return str(self._at.get(path, AFTER_S).status)
        except TimeoutError:
            return "unanswered"
        except OSError as exc:
            return type(exc).__name__
