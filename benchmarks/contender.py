"""One contender in a process of its own, which works only when told: so that several can take turns in one run.

`python -m benchmarks.contender NAME WORKLOAD.json` reads lines `WARM IMAGES` and answers each with one JSON line: what
reading IMAGES images took, once WARM images were read that may have waited in queues since the last turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from benchmarks.cpu import cpu_seconds, tree
from benchmarks.workload import Workload

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Turn:
    """What one turn took. `cpu_s` is of all processes, `host_cpu_s` of those that run on the training host."""

    images: int
    nbytes: int
    seconds: float
    cpu_s: float
    host_cpu_s: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Read:
    """One batch that a contender has got."""

    images: int
    nbytes: int


@dataclass(frozen=True)
class Feed:
    """An endless run of batches; `remote` are roots of process trees that need not run on the training host."""

    batches: Iterator[Read]
    remote: tuple[int, ...] = ()


def counted(batches: Iterator[dict[str, torch.Tensor]]) -> Iterator[Read]:
    """Batches of an in-process loader, as counts."""
    for batch in batches:
        yield Read(len(batch["input_ids"]), sum(tensor.nbytes for tensor in batch.values()))


class Contender:
    """The parent's end: a context manager that ends the process."""

    def __init__(self, name: str, workload: Workload, python: str | Path = sys.executable, **options: Any) -> None:
        self.name, self._workload, self._python, self._options = name, workload, python, options

    def __enter__(self) -> Contender:
        settings = {**asdict(self._workload), "options": self._options}
        self._process = subprocess.Popen(
            [str(self._python), "-m", "benchmarks.contender", self.name, json.dumps(settings, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}",
                "PYTHONWARNINGS": "ignore",
            },
        )
        self._answer()
        return self

    def turn(self, warm: int, images: int) -> Turn:
        """Have it read; returns once it has."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{warm} {images}\n")
        self._process.stdin.flush()
        return Turn(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"contender {self.name} ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _take_turns(feed: Feed) -> None:
    me = os.getpid()
    print("{}", flush=True)
    for line in sys.stdin:
        warm, images = map(int, line.split())
        _read(feed.batches, warm)
        remote = [pid for root in feed.remote for pid in tree(root)]
        everyone = tree(me)
        local = [pid for pid in everyone if pid not in remote]
        began = (time.perf_counter(), cpu_seconds(everyone), cpu_seconds(local))
        got, nbytes = _read(feed.batches, images)
        ended = (time.perf_counter(), cpu_seconds(everyone), cpu_seconds(local))
        seconds, cpu_s, host_cpu_s = (after - before for before, after in zip(began, ended, strict=True))
        print(json.dumps(asdict(Turn(got, nbytes, seconds, cpu_s, host_cpu_s))), flush=True)


def _read(batches: Iterator[Read], images: int) -> tuple[int, int]:
    got = nbytes = 0
    while got < images:
        read = next(batches)
        got, nbytes = got + read.images, nbytes + read.nbytes
    return got, nbytes


def main() -> None:
    """The child's whole life."""
    from benchmarks.feeds import FEEDS  # noqa: PLC0415 # it imports this module

    name, settings = sys.argv[1], json.loads(sys.argv[2])
    workload = Workload(settings["kind"], Path(settings["directory"]), Path(settings["tokenizer"]))
    with ExitStack() as stack:
        _take_turns(FEEDS[name](workload, stack, **settings["options"]))
    sys.stdout.flush()
    os._exit(0)  # loaders of others leave threads behind that would be waited for


if __name__ == "__main__":
    main()
