"""Random faults under load, on real processes: `python -m tests.faults.soak --seconds 600 --seed 0`.

Two servers behind two proxies serve the two ranks of a trainer and a reader at full speed. Servers, workers and ranks
are SIGKILLed and connections dropped, while most streams suffer some harm on their way. Two more servers, with large
frames, are never killed but harmed in every other way, see `tests.faults.hostile`. When the time is over all readers
finish their epoch in peace, their logs are compared with those of undisturbed readers, and the two servers that were
never killed must hold no more than in the beginning.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.comparison import Differences, compare
from tests.faults.harms import Harm, random_harm
from tests.faults.hostile import Hostile, HostileReport
from tests.faults.kills import Killer
from tests.faults.load import Load, epochs_of, undisturbed
from tests.faults.proxy import FaultProxy
from tests.faults.trainer import Trainer
from tests.faults.warm import WarmServer
from tests.support.datasets import small_dataset
from tests.support.layouts import LAYOUTS, OWL
from tests.support.server import ServerProcess

WORLD_SIZE = 2
STRIKES_WITHIN_BYTES = 500_000
"""Where, at the latest, a harm strikes: behind a few batches."""


@dataclass
class Report:
    """What happened, and what became of it."""

    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter)
    dropped: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    nbytes: int = 0
    batches: int = 0
    differences: Differences = field(default_factory=lambda: Differences(0, 0, 0, 0))
    hostile: HostileReport = field(default_factory=HostileReport)

    def __str__(self) -> str:
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        harms = ", ".join(f"{name} {count}" for name, count in sorted(self.struck.items()))
        return (
            f"{self.seconds:.0f} s\n"
            f"kills: {self.kills.total()} ({kills})\n"
            f"cuts: {self.dropped} connections dropped, {self.struck.total()} streams harmed ({harms})\n"
            f"bytes: {self.nbytes / 1e6:.1f} MB through the proxies\n"
            f"batches: {self.batches}\n"
            f"{self.hostile}\n"
            f"mismatches: {self.mismatches} ({self.differences + self.hostile.differences})"
        )

    @property
    def mismatches(self) -> int:
        """Everything that should not be."""
        found = self.differences + self.hostile.differences
        return found.missing + found.duplicated + found.reordered + found.mismatched


def soak(
    directory: Path,
    seconds: float,
    seed: int,
    *,
    layout: str = OWL,
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Harm everything for so long, then compare."""
    chance, report = random.Random(seed), Report()
    settings = {"workers": 2, "prefetch_bytes": 4 << 20, "heartbeat_s": 1.0}
    config = small_dataset(directory / "data", layout=layout, image_size=112, server=settings)
    ServerProcess(config).start().stop()  # which leaves an index
    peace = threading.Event()

    def choose(path: str) -> Harm | None:
        harmed = "/stream" in path and not peace.is_set() and chance.random() < 0.7
        return random_harm(chance, STRIKES_WITHIN_BYTES) if harmed else None

    with ExitStack() as stack:
        hostile = stack.enter_context(Hostile(directory / "hostile", seed, layout))
        servers = [stack.enter_context(WarmServer(config)) for _ in range(2)]
        proxies = [stack.enter_context(FaultProxy(server.url, choose)) for server in servers]
        urls = [proxy.url for proxy in proxies]
        ranks = [
            Trainer(urls, directory / f"rank-{rank}", {"rank": rank, "world_size": WORLD_SIZE, "micro_batch_size": 1})
            for rank in range(WORLD_SIZE)
        ]
        load = Load(urls, micro_batch_size=1)
        for rank in ranks:
            stack.callback(rank.kill)
            rank.start()
        killer = Killer(servers, ranks, chance)
        stack.callback(killer.close)
        hostile.begin()
        began, told = time.monotonic(), 0.0
        while (now := time.monotonic() - began) < seconds:
            time.sleep(chance.random())
            what = chance.choice(("server", "worker", "worker", "trainer", "trainer", "drop", "drop"))
            if what == "drop":
                report.dropped += chance.choice(proxies).drop()
            else:
                killer.kill(what)
                report.kills[what] += 1
            if now > told + 30:
                told = now
                tell(f"{now:.0f} s: {report.kills.total()} kills, {report.dropped} connections dropped")
                tell(f"      {hostile}")
        peace.set()
        hostile.stop()
        killer.close()
        for proxy in proxies:
            proxy.drop()
        logs = [rank.finish() for rank in ranks]
        lines = load.finish()
        report.struck = sum((proxy.struck for proxy in proxies), Counter())
        report.nbytes = sum(proxy.nbytes for proxy in proxies)
        report.hostile = hostile.report()
    with ServerProcess(config) as server:
        for number, log in enumerate(logs):
            report.differences += compare(read(server.url, log, number, WORLD_SIZE), log)
        report.differences += compare(read(server.url, lines, 0, 1), lines)
    report.batches = sum(len(log) for log in (*logs, lines))
    report.seconds = time.monotonic() - began
    return report


def read(url: str, log: list[str], rank: int, world_size: int) -> list[str]:
    """The lines of an undisturbed reader of as many epochs as `log` has."""
    return undisturbed(url, epochs_of(log), rank=rank, world_size=world_size, micro_batch_size=1)


def main() -> int:
    """Run from the command line; fails where anything differs or is left over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layout", choices=LAYOUTS, default=OWL)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = soak(
            Path(directory),
            arguments.seconds,
            arguments.seed,
            layout=arguments.layout,
            tell=lambda text: print(text, flush=True),
        )
    print(report)
    return 1 if report.mismatches or report.hostile.failures else 0


if __name__ == "__main__":
    sys.exit(main())
