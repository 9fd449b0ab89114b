"""A server that may have so much memory and no more, with real samples and every poison picture among them.

`python -m tests.faults.little_memory` prints what became of it; `tests/faults/test_little_memory.py` holds it.
"""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

from owl_client import OwlStreamDataset
from owl_stream.wire import RowInfo
from tests.faults.cgroup import MemoryGroup
from tests.faults.growth import numbers
from tests.faults.large import Address, poison_samples
from tests.support.datasets import mixed_samples
from tests.support.patience import PATIENCE_S
from tests.support.server import ROOT, ServerProcess
from tests.support.tars import write_shard
from tests.support.tokenizer import small_tokenizer

LIMIT_BYTES = 1_600_000_000
"""For the server, its two workers and indexing together."""
REAL = ROOT.parent / "shared" / "data"

Key = tuple[str, str]
"""(shard, key) of a sample."""


@dataclass
class Report:
    """What became of the server and of every sample."""

    samples: int = 0
    delivered: Counter[Key] = field(default_factory=Counter)
    bad: dict[Key, str] = field(default_factory=dict)
    poison: list[Key] = field(default_factory=list)
    restarts: int = 0
    kills: int = 0
    peak_bytes: int = 0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = (
            f"{self.samples} samples, {len(self.delivered)} delivered, {len(self.poison)} poison pictures; "
            f"{self.kills} processes killed, {self.restarts} workers replaced; at most {self.peak_bytes / 1e6:.0f} MB"
        )
        reasons = [f"{key}: {self.bad.get((shard, key), 'not named')}" for shard, key in self.poison]
        return "\n".join([head, *reasons, f"what does not hold: {len(self.failures)}", *self.failures])


def write_dataset(directory: Path) -> tuple[Path, list[Key], list[Key]]:
    """The real samples where they lie beside the checkout, else synthetic ones, and poison: all keys, and poison's."""
    real = sorted((REAL / "real").glob("*.tar"))
    for shard in real:
        (directory / shard.name).symlink_to(shard)
    if not real:
        write_shard(directory / "real-00000.tar", mixed_samples(96))
    poison = write_shard(directory / "real-poison.tar", poison_samples())
    tokenizer = REAL / "qwen2-tokenizer.json"
    if not tokenizer.exists():
        tokenizer = small_tokenizer(directory / "tokenizer.json")
    dataset = {"shards": ["real-*.tar"], "tokenizer": str(tokenizer), "global_batch_size": 8}
    config = directory / "owl-stream.yaml"
    config.write_text(yaml.safe_dump({"server": {"workers": 2}, "datasets": {"train": dataset}}))
    keys = [key for shard in sorted(directory.glob("real-*.tar")) for key in _keys(shard)]
    return config, keys, _keys(poison)


def _keys(shard: Path) -> list[Key]:
    with tarfile.open(shard) as tar:
        return [(shard.name, key) for key in dict.fromkeys(name.partition(".")[0] for name in tar.getnames())]


class _Epoch:
    """A reader of one epoch in a thread of its own."""

    def __init__(self, url: str, patience_s: float) -> None:
        self.rows: list[RowInfo] = []
        self.failure: Exception | None = None
        self.dataset = OwlStreamDataset(url, dtype=torch.uint8, give_up_after_s=patience_s)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for batch in self.dataset:
                self.rows += batch.meta.rows
        except Exception as exc:
            self.failure = exc


def run(directory: Path, limit_bytes: int = LIMIT_BYTES, patience_s: float = PATIENCE_S) -> Report:
    """Index and serve an epoch within the limit.

    Raises:
        OSError: no control group can be made here.
    """
    report = Report()
    config, keys, report.poison = write_dataset(directory)
    report.samples = len(keys)
    with MemoryGroup(limit_bytes) as group:
        try:
            with ServerProcess(
                config, arguments=("--index-dir", str(directory / "index")), behind=group.behind
            ) as server:
                _read(report, Address(server.url), group, patience_s)
        except AssertionError as exc:
            report.failures.append(str(exc))
        report.kills, report.peak_bytes = group.kills, group.peak_bytes
    if not report.failures:
        _judge(report, set(keys))
    return report


def _read(report: Report, at: Address, group: MemoryGroup, patience_s: float) -> None:
    quarantined = at.get("/v1/datasets/train/quarantine?limit=10000").json["samples"]
    report.bad = {(each["shard"], each["key"]): f"quarantined: {each['reason']}" for each in quarantined}
    epoch = _Epoch(at.url, patience_s)
    while epoch.thread.is_alive() and not group.kills:
        epoch.thread.join(0.2)
    if epoch.thread.is_alive():
        epoch.dataset.close()
        report.failures.append(f"a process was killed for memory after {len(epoch.rows)} rows of the epoch")
        return
    if epoch.failure is not None:
        report.failures.append(f"the epoch did not end: {epoch.failure!r}")
        return
    for row in epoch.rows:
        if row.status == "repeated" and row.replaces is not None:
            report.delivered[row.replaces] += 1
        elif row.status in ("ok", "masked"):
            report.delivered[row.shard, row.key] += 1
        if row.status == "masked":
            report.bad[row.shard, row.key] = row.reason
    report.restarts = int(numbers(at)["engine_restarts_total"])


def _judge(report: Report, keys: set[Key]) -> None:
    quarantined = {key for key, reason in report.bad.items() if reason.startswith("quarantined")}
    masked = report.bad.keys() - quarantined
    if report.kills:
        report.failures.append(f"the kernel killed {report.kills} processes for memory")
    report.failures += [f"{key}: neither quarantined nor masked" for key in report.poison if key not in report.bad]
    report.failures += [f"{key}: good, and {report.bad[key]}" for key in report.bad if key not in report.poison]
    if report.delivered != Counter(keys - quarantined):
        wrong = Counter(keys - quarantined)
        wrong.subtract(report.delivered)
        report.failures.append(f"not delivered once: {sum(map(bool, wrong.values()))} samples")
    if report.restarts > len(masked):
        report.failures.append(f"{report.restarts} workers were replaced for {len(masked)} masked samples")


def main() -> int:
    """Run from the command line; fails where anything does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=LIMIT_BYTES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = run(Path(directory), arguments.bytes)
    print(report)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
