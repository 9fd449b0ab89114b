"""Where the CPU goes under load, by py-spy: server, workers and client, each as shares of its own samples.

python -m benchmarks.profile                                    this checkout
python -m benchmarks.profile --root ../another --kind cut       another one, at the same work
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contender import ROOT
from benchmarks.cpu import tree
from benchmarks.service import Service
from benchmarks.workload import KINDS, Kind, Workload, prepare

READER = """
import itertools, sys, torch
from owl_client import OwlStreamDataset
dataset = OwlStreamDataset(sys.argv[1], dtype=torch.uint8)
for epoch in itertools.count():
    for batch in dataset:
        pass
"""
RATE_HZ = 200
WARM_S = 4.0


def profile(pids: Sequence[int], seconds: float) -> list[Counter[str]]:
    """Samples on the CPU by innermost Python function, of every process at the same time."""
    with tempfile.TemporaryDirectory() as directory:
        outs = [Path(directory) / str(pid) for pid in pids]
        spies = [_spy(pid, out, seconds) for pid, out in zip(pids, outs, strict=True)]
        for spy in spies:
            spy.wait()
        return [_leaves(out) for out in outs]


def _spy(pid: int, out: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Threads that wait are left out by py-spy itself; C code counts for the Python function that called it."""
    command = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid), "--output", str(out)]
    command += [
        "--format",
        "raw",
        "--duration",
        str(int(seconds)),
        "--rate",
        str(RATE_HZ),
        "--function",
        "--nonblocking",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _leaves(out: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for line in out.read_text(encoding="utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        counts[_short(stack.rpartition(";")[2])] += int(count)
    return counts


def _short(frame: str) -> str:
    """`function (path/of/file.py)` with no more of the path than tells where to look."""
    name, _, path = frame.partition(" (")
    return f"{name} ({'/'.join(path.rstrip(')').split('/')[-2:])})"


def measure(workload: Workload, root: Path, seconds: float) -> dict[str, Counter[str]]:
    """Profiles of a server, all its workers together, and one reader, all from the checkout `root`."""
    os.environ["OWL_BENCH_ROOT"] = str(root)
    with Service(workload) as service:
        environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'client'}"}
        reader = subprocess.Popen([sys.executable, "-c", READER, service.url], env=environment)
        try:
            time.sleep(WARM_S)
            workers = [pid for pid in tree(service.pid) if pid != service.pid and _is_worker(pid)]
            server, client, *rest = profile([service.pid, reader.pid, *workers], seconds)
        finally:
            reader.kill()
            reader.wait()
    return {"server": server, "workers": sum(rest, Counter()), "client": client}


def _is_worker(pid: int) -> bool:
    """Not the helper processes of `multiprocessing`, which never work."""
    return b"tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def main() -> int:
    """Profile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="a checkout")
    parser.add_argument("--kind", choices=KINDS, default="plain")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--top", type=int, default=8)
    parser.add_argument("--photographs", nargs="*", type=Path, default=[])
    parser.add_argument("--tokenizer", type=Path)
    chosen = parser.parse_args()
    kind: Kind = chosen.kind
    workload = prepare(Path(".cache/bench").resolve(), chosen.photographs, chosen.tokenizer)[kind]
    for part, counts in measure(workload, chosen.root.resolve(), chosen.seconds).items():
        total = max(counts.total(), 1)
        print(f"\n{part}: {total / RATE_HZ / chosen.seconds:.2f} threads busy")
        for name, count in counts.most_common(chosen.top):
            print(f"  {count / total:6.1%}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
