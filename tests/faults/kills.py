"""Server, worker and trainer are SIGKILLed in turn: `python -m tests.faults.kills --count 1000 --seed 0`.

Two servers have the same data. The trainer reads from either; a killed server starts again while the other serves.
When all kills are done the trainer finishes its epoch, and its log is compared with an undisturbed reader's.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from owl_client import OwlStreamDataset
from tests.faults.comparison import Differences, compare
from tests.faults.trainer import Trainer
from tests.faults.warm import WarmServer
from tests.support.datasets import small_dataset
from tests.support.hashes import batch_line
from tests.support.http import get
from tests.support.layouts import LAYOUTS, OWL
from tests.support.server import ServerProcess

VICTIMS = ("server", "worker", "trainer")


@dataclass(frozen=True)
class Report:
    """What was killed and what became of the sequence."""

    kills: Counter[str]
    batches: int
    epochs: int
    seconds: float
    differences: Differences

    def __str__(self) -> str:
        killed = ", ".join(f"{name} {count}" for name, count in self.kills.items())
        return (
            f"{self.kills.total()} SIGKILLs ({killed}) in {self.seconds:.0f} s; {self.batches} batches of "
            f"{self.epochs} epochs: {self.differences}"
        )


def undisturbed(url: str, epochs: int) -> list[str]:
    """The lines of a reader that nothing happens to."""
    dataset = OwlStreamDataset(url, dtype=torch.uint8)
    return [batch_line(batch) for _ in range(epochs) for batch in dataset]


class Killer:
    """Kills what trainers depend on, and trainers. Of two servers one always serves."""

    def __init__(self, servers: Sequence[WarmServer], trainers: Sequence[Trainer], chance: random.Random) -> None:
        self._servers, self._trainers, self._chance = list(servers), list(trainers), chance
        self._starting: Future[WarmServer] | None = None
        self._pool = ThreadPoolExecutor(1)

    def kill(self, victim: str) -> None:
        """Kill one victim and see that it comes back."""
        {"server": self._kill_server, "worker": self._kill_worker, "trainer": self._kill_trainer}[victim]()

    def close(self) -> None:
        """Wait for what is being started."""
        self._await_start()
        self._pool.shutdown()

    def _kill_server(self) -> None:
        self._await_start()
        serving = max(self._servers, key=lambda server: int(get(f"{server.url}/health").json["streams"]))
        serving.kill()
        self._starting = self._pool.submit(serving.start)

    def _kill_worker(self) -> None:
        for server in self._chance.sample(self._servers, len(self._servers)):
            if pids := server.workers:
                os.kill(self._chance.choice(pids), signal.SIGKILL)
                return
        self._await_start()  # the one that lives has lost its workers and is starting others
        self._kill_worker()

    def _kill_trainer(self) -> None:
        trainer = self._chance.choice(self._trainers)
        trainer.kill()
        trainer.start()

    def _await_start(self) -> None:
        if self._starting is not None:
            self._starting.result()
            self._starting = None


def run(
    directory: Path,
    count: int,
    seed: int,
    *,
    layout: str = OWL,
    most_s: float = float("inf"),
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Kill `count` times, or for as long as `most_s`, and compare."""
    chance, began = random.Random(seed), time.monotonic()
    # Frames of up to a megabyte, so that what is killed is often in the middle of one.
    settings = {"workers": 2, "prefetch_bytes": 4 << 20}
    config = small_dataset(directory / "data", layout=layout, image_size=224, server=settings)
    kills: Counter[str] = Counter()
    ServerProcess(config).start().stop()  # which leaves an index
    with ExitStack() as stack:
        servers = [stack.enter_context(WarmServer(config)) for _ in range(2)]
        trainer = Trainer([server.url for server in servers], directory / "trainer", {"prefetch": 1})
        stack.callback(trainer.kill)
        killer = Killer(servers, [trainer], chance)
        stack.callback(killer.close)
        trainer.start()
        for number in range(count):
            if time.monotonic() - began > most_s:
                break
            trainer.advance(chance.randint(1, 3))
            time.sleep(chance.random() * 0.02)  # so that a kill does not always fall just behind a batch
            killer.kill(VICTIMS[number % 3])
            kills[VICTIMS[number % 3]] += 1
            if number % 50 == 49:
                tell(f"{number + 1} kills, {time.monotonic() - began:.0f} s")
        got = trainer.finish()
        epochs = int(got[-1].split()[0]) + 1
    with ServerProcess(config) as server:
        expected = undisturbed(server.url, epochs)
    return Report(kills, len(got), epochs, time.monotonic() - began, compare(expected, got))


def main() -> int:
    """Run from the command line; fails where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=LAYOUTS, default=OWL)
    parser.add_argument("--most-seconds", type=float, default=float("inf"), help="stop killing when they are over")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = run(
            Path(directory),
            arguments.count,
            arguments.seed,
            layout=arguments.layout,
            most_s=arguments.most_seconds,
            tell=lambda text: print(text, flush=True),
        )
    print(report)
    return 0 if report.differences.none else 1


if __name__ == "__main__":
    sys.exit(main())
