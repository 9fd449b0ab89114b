"""Two servers with large frames, one plain and one with TLS, that are never killed, and all who mean them harm.

Beside hostile readers, hanging storage and poison pictures, our own clients read on. What they are given is compared
with what an undisturbed reader gets, and in the end the servers must hold no more than in the beginning.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from owl_client import Tls
from tests.faults.churn import Churn
from tests.faults.comparison import Differences, compare
from tests.faults.growth import Growth, Quiet, Series
from tests.faults.large import ROWS, Address, poison_samples, write_certificates, write_large
from tests.faults.load import Load, epochs_of, undisturbed
from tests.faults.loops import Loop
from tests.faults.storage import HangingStorage, ignore_lease_signals
from tests.faults.talkers import Listeners
from tests.support.http import get
from tests.support.layouts import OWL
from tests.support.server import ServerProcess

IDLE_S = 2.0
HOSTILE = 6
"""Hostile readers at a time."""
LISTENERS = 2
"""Clients of talkers at a time."""
TOKEN = "{}-0123456789abcdef"
BETWEEN_ROUNDS_S = 15.0
ENDS_S = 300.0
"""How long all of them may take to their ends, once there is peace."""


def _settings(**settings: Any) -> dict[str, Any]:
    return {
        "prefetch_bytes": 48 << 20,
        "idle_timeout_s": IDLE_S,
        "heartbeat_s": 0.5,
        "job_timeout_s": 20.0,
        "max_streams": 24,
        **settings,
    }


@dataclass
class HostileReport:
    """What was done to the two servers, and what is left of it."""

    gone: Counter[tuple[str, str]] = field(default_factory=Counter)
    elsewhere: Counter[str] = field(default_factory=Counter)
    batches: Counter[str] = field(default_factory=Counter)
    ended: dict[str, int] = field(default_factory=dict)
    stalls: int = 0
    pages: Counter[str] = field(default_factory=Counter)
    told: int = 0
    over: Counter[str] = field(default_factory=Counter)
    poison: Counter[str] = field(default_factory=Counter)
    lines: int = 0
    series: dict[str, list[Series]] = field(default_factory=dict)
    quiet: dict[str, Quiet] = field(default_factory=dict)
    differences: Differences = field(default_factory=lambda: Differences(0, 0, 0, 0))
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        named = Counter({f"{transport} {how}": count for (how, transport), count in self.gone.items()})
        told = [
            f"readers gone in mid-frame: {self.gone.total()} ({_counts(named)}); elsewhere: {_counts(self.elsewhere)}",
            f"connections that read no batch: {self.batches.total()} ({_counts(self.batches)})",
            f"streams ended by the servers: {_counts(self.ended)}",
            f"storage hung {self.stalls} times, /health told of {self.told}; pages: {_counts(self.pages)}",
            f"clients that went on from a talker: {self.over.total()} ({_counts(self.over)})",
            f"poison pictures: {self.poison.total()} ({_counts(self.poison)})",
            f"large batches: {self.lines}, {self.differences}",
        ]
        for name, quiet in self.quiet.items():
            grown = "; ".join(map(str, self.series[name]))
            left = f"leased {quiet.numbers['engine_leased']:.0f}, slabs {quiet.held.slab_bytes / 1e6:.0f} MB"
            told.append(f"{name} server: {grown}; quiet: {left}, {quiet.held.descriptors} descriptors beside slabs")
        return "\n".join([*told, f"what does not hold: {len(self.failures)}", *self.failures])


class Hostile:
    """A context manager that runs the servers. Harm is done from `begin` until `stop`; `report` judges."""

    def __init__(self, directory: Path, seed: int, layout: str = OWL) -> None:
        self._directory, self._seed, self._layout = directory, seed, layout
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        ignore_lease_signals()
        try:
            self._start_servers()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def _start_servers(self) -> None:
        ca, tls = write_certificates(self._directory / "tls")
        names = ("trainer", "abuser", *(f"hostile-{number}" for number in range(HOSTILE)))
        access = {"tokens": {name: TOKEN.format(name) for name in names}, "metrics": "open"}
        limits = {"tls": tls, "access": access, "max_streams_per_token": 2, "workers": 1}
        servers = {"plain": _settings(workers=2), "secure": _settings(**limits), "undisturbed": {"workers": 2}}
        self._configs = write_large(self._directory / "large", servers, self._layout)
        self._servers = {
            name: self._stack.enter_context(ServerProcess(self._configs[name])) for name in ("plain", "secure")
        }
        self._plain = Address(self._servers["plain"].url)
        self._secure = {name: Address(self._servers["secure"].url, ca, TOKEN.format(name)) for name in names}
        described = get(f"{self._plain.url}/v1/datasets/train").json
        self._steps = int(described["steps_per_epoch"])

    def begin(self) -> None:
        """Start all who read and all who do harm."""
        self._growth = {name: Growth(name, self._pid(name)) for name in self._servers}
        trainer = self._secure["trainer"]
        patient: dict[str, Any] = {"give_up_after_s": ENDS_S, "micro_batch_size": ROWS}
        self._loads = {
            "memory": Load([self._plain.url], **patient),
            "pausing": Load([self._plain.url], pause_s=2 * IDLE_S, **patient),
            "tls": Load([trainer.url], tls=Tls(trainer.ca), token=trainer.token, **patient),
        }
        self._churn = Churn(2 * IDLE_S, self._steps)
        self._storage = HangingStorage(self._directory / "large", self._plain, self._loads["memory"])
        self._listeners = [Listeners(self._plain.url, self._seed + number) for number in range(LISTENERS)]
        readers = [
            Loop(
                f"hostile reader {number}",
                self._churn.reader(self._plain, self._secure[f"hostile-{number}"], self._seed + number),
            )
            for number in range(HOSTILE)
        ]
        self._loops = [
            *readers,
            Loop("connections that never read", self._never_read),
            Loop("hanging storage", self._storage),
            *(Loop("listeners", listeners) for listeners in self._listeners),
            *(Loop(f"growth of the {name} server", growth) for name, growth in self._growth.items()),
        ]

    def __str__(self) -> str:
        """How far it is."""
        churn, storage = self._churn, self._storage
        return (
            f"{churn.gone.total()} readers gone in mid-frame, {churn.batches.total()} connections that read no batch, "
            f"storage hung {storage.stalls} times, {self._over().total()} clients went on from a talker"
        )

    def stop(self) -> None:
        """Do no more harm, and let readers end with their epochs, without waiting."""
        for loop in self._loops:
            loop.stop()
        for load in self._loads.values():
            load.stop()

    def report(self) -> HostileReport:
        """Stop, wait until the servers are quiet, compare what was read, and judge."""
        self.stop()
        found = HostileReport(
            gone=self._churn.gone,
            elsewhere=self._churn.elsewhere,
            batches=self._churn.batches,
            pages=self._storage.answers,
        )
        until = time.monotonic() + ENDS_S
        for loop in self._loops:
            found.failures += loop.finish(max(0.0, until - time.monotonic()))
        listened = (lines for listeners in self._listeners for lines in listeners.epochs)
        read = {f"listener {number}": lines for number, lines in enumerate(listened)}
        for name, load in self._loads.items():
            try:
                read[name] = load.finish(max(0.0, until - time.monotonic()))
            except Exception as exc:
                found.failures.append(f"{name} reader: {exc!r}")
        self._judge(found)
        self._stack.close()
        self._compare(found, read)
        return found

    def _never_read(self, stopping: threading.Event) -> None:
        """A round of connections that ask for batches: of everybody, and of one token."""
        for at, name in ((self._plain, "plain"), (self._secure["abuser"], "token")):
            if not stopping.is_set():
                self._churn.never_read(at, name, stopping)
        stopping.wait(BETWEEN_ROUNDS_S)

    def _judge(self, found: HostileReport) -> None:
        found.stalls, found.told = self._storage.stalls, self._storage.told
        found.over = self._over()
        found.failures += self._storage.failures
        for listeners in self._listeners:
            found.failures += listeners.failures
        for name, growth in self._growth.items():
            at = self._plain if name == "plain" else self._secure["trainer"]
            found.quiet[name] = Quiet.of(at, self._pid(name), growth.first)
            found.series[name] = growth.series()
            found.failures += [f"{name} server: {left}" for left in found.quiet[name].failures] + growth.failures()
            for metric, value in found.quiet[name].numbers.items():
                if metric.startswith("streams_ended_total{"):
                    reason = metric.partition('"')[2].rstrip('"}')
                    found.ended[reason] = found.ended.get(reason, 0) + int(value)
        self._judge_poison(found)

    def _judge_poison(self, found: HostileReport) -> None:
        """Every poison picture is quarantined or masked, by name."""
        bad = {each["key"]: each["reason"] for each in self._plain.get("/v1/datasets/train/quarantine").json["samples"]}
        masked = self._plain.get("/pages/overview").json["masked"]
        bad |= {each["key"]: each["reason"] for each in masked}
        for key, _ in poison_samples():
            if key in bad:
                found.poison[bad[key]] += 1
            else:
                found.failures.append(f"{key}: neither quarantined nor masked")

    def _compare(self, found: HostileReport, read: dict[str, list[str]]) -> None:
        found.lines = sum(map(len, read.values()))
        epochs = max((epochs_of(lines) for lines in read.values()), default=1)
        with ServerProcess(self._configs["undisturbed"]) as server:
            truth = undisturbed(server.url, epochs, micro_batch_size=ROWS)
        for lines in read.values():
            expected = [line for line in truth if int(line.split()[0]) < epochs_of(lines)]
            found.differences += compare(expected, lines)

    def _over(self) -> Counter[str]:
        return sum((listeners.over for listeners in self._listeners), Counter())

    def _pid(self, name: str) -> int:
        process = self._servers[name].process
        assert process is not None
        return process.pid


def _counts(counted: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items())) or "none"
