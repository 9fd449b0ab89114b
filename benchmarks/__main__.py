"""Every claim of speed in one run, as a table: `make bench`, or

    python -m benchmarks                 about 35 minutes
    python -m benchmarks --quick         about 4: fewer and shorter rounds, one workload's peers, no long stream
    python -m benchmarks --only plain,transport

Everything is a ratio to something measured beside it, turn by turn; a median of rounds stands with its spread. The exit
code is 1 where a claim fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import endurance, interpreter, pixel_cache, sharing, start, throughput, transport, wire
from benchmarks.balance import measure_balance
from benchmarks.report import Line, machine, show, show_contenders
from benchmarks.workload import KINDS, Kind, Workload, prepare

Part = Callable[[], tuple[list[Line], dict[str, Any]]]


@dataclass(frozen=True)
class Length:
    """How long a run takes: rounds of comparisons, and seconds of one turn."""

    rounds: int
    seconds: float
    peers: bool
    endurance_s: float


FULL = Length(rounds=7, seconds=4.0, peers=True, endurance_s=240.0)
QUICK = Length(rounds=3, seconds=2.0, peers=False, endurance_s=20.0)


def parts(workloads: dict[Kind, Workload], real: Sequence[Path], length: Length) -> dict[str, Part]:
    """What can be measured, by name, in the order of the acceptance list."""
    plain, few = workloads["plain"], min(5, length.rounds)

    def compare(kind: Kind) -> Part:
        return lambda: throughput.measure(
            workloads[kind], rounds=length.rounds, seconds=length.seconds, peers=length.peers and kind != "native"
        )

    def compare_ceiling(kind: Kind) -> Part:
        return lambda: throughput.measure_ceiling(workloads[kind], rounds=3 * length.rounds, seconds=length.seconds / 2)

    return {
        "plain": compare("plain"),
        "plain-ceiling": compare_ceiling("plain"),
        "cut": compare("cut"),
        "cut-ceiling": compare_ceiling("cut"),
        "native": compare("native"),
        "native-ceiling": compare_ceiling("native"),
        "native-wire": lambda: wire.measure(workloads["native"]),
        "transport": lambda: transport.measure(plain, rounds=3 * length.rounds),
        "transport-cut": lambda: transport.measure(workloads["cut"], rounds=3 * length.rounds, passes=1),
        "transport-socket": lambda: transport.measure(plain, rounds=3 * length.rounds, shared_memory=False),
        "cache": lambda: pixel_cache.measure(plain, rounds=few),
        "sharing": lambda: sharing.measure(plain, rounds=few, seconds=length.seconds * 3),
        "balance": lambda: measure_balance(plain, real),
        "start": lambda: start.measure(plain, rounds=few),
        "endurance": lambda: endurance.measure(plain, seconds=length.endurance_s),
        "interpreter": lambda: interpreter.measure(plain, rounds=length.rounds, seconds=length.seconds),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes")
    parser.add_argument("--only", help="parts to run, separated by commas")
    parser.add_argument("--photographs", nargs="*", type=Path, default=[], help="tars of chats with JPEGs to read")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizers file; a small one is trained by default")
    parser.add_argument("--data", type=Path, default=Path(".cache/bench"), help="where the workloads are written")
    parser.add_argument("--endurance", type=float, metavar="SECONDS", help="length of the long stream")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write everything there too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    chosen = arguments(argv)
    length = QUICK if chosen.quick else FULL
    if chosen.endurance is not None:
        length = Length(length.rounds, length.seconds, length.peers, chosen.endurance)
    workloads = prepare(chosen.data.resolve(), chosen.photographs, chosen.tokenizer)
    available = parts(workloads, chosen.photographs, length)
    names = chosen.only.split(",") if chosen.only else list(available)
    unknown = [name for name in names if name not in available]
    if unknown:
        print(f"benchmarks: no part {unknown[0]!r}; there is: {', '.join(available)}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"machine": machine(), "photographs": "real" if chosen.photographs else "wheel"}
    lines: list[Line] = []
    for name in names:
        began = time.monotonic()
        found, report[name] = available[name]()
        lines += found
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    lines.sort(key=lambda line: int(line.number))
    _show(report, lines)
    if chosen.json:
        report["acceptance"] = [line.to_json() for line in lines]
        chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0 if all(line.holds for line in lines) else 1


def _show(report: dict[str, Any], lines: list[Line]) -> None:
    here = report["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in here["libraries"].items())
    print(f"{here['cpu']}, {here['cores']} cores, load {here['load']:.1f}, Python {here['python']}\n{versions}")
    print("Medians of rounds in which all contenders take turns, [least to greatest].")
    for kind in KINDS:
        if kind in report:
            show_contenders(kind, report[kind])
    print()
    show(lines)


if __name__ == "__main__":
    sys.exit(main())
