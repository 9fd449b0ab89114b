"""What planning costs over an index of 100 million samples: opening it, one cold step, memory, bytes on disk.

    python -m benchmarks.plan_scale                      5.6 GB in a temporary directory, removed at the end
    python -m benchmarks.plan_scale --samples 1000000    smaller

The index is synthetic but on disk as a real one: the tables of every shard are written with random costs and spans,
then opened as a server's start opens them. Every open and every measurement is a process of its own. A step is cold:
its window was never asked for before, in whatever epoch. The page cache is warm, as it is after an open. CPU is what a
step takes of a core, wherever others use the machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthetic import imaginary_shards, open_imaginary_index, write_imaginary_tables
from owl_stream.config import DatasetConfig, PlanSettings
from owl_stream.plan import Plan
from owl_stream.shards import Index

MAX_STEP_MS, MAX_RESIDENT_MB, MAX_BYTES = 50.0, 300.0, 64.0
CASES: tuple[dict[str, Any], ...] = (
    {"global_batch_size": 8, "shuffle": "full"},
    {"global_batch_size": 256, "shuffle": "full"},
    {"global_batch_size": 256, "shuffle": "full", "modality": "off"},
    {"global_batch_size": 256, "shuffle": "block"},
    {"global_batch_size": 256, "shuffle": "none"},
)


def settings_of(case: dict[str, Any]) -> PlanSettings:
    """The default plan with what the case changes; windows of 32 steps."""
    return replace(DatasetConfig(shards=("none.tar",), tokenizer="none").plan, **case)


def measure_open(index_dir: Path, samples: int, shards: int, steps: int) -> dict[str, Any]:
    """Seconds to open the index in this process, and its memory then."""
    listed = imaginary_shards(index_dir, samples, shards)
    began = time.perf_counter()
    with open_imaginary_index(index_dir, listed) as index:
        seconds = time.perf_counter() - began
        assert index.samples == samples
    return {"open_s": seconds, "peak_resident_mb": peak_resident_mb()}


def measure_steps(index_dir: Path, samples: int, shards: int, steps: int) -> dict[str, Any]:
    """Milliseconds of cold steps at places spread over epochs, for every case; and the memory at the end."""
    with open_imaginary_index(index_dir, imaginary_shards(index_dir, samples, shards)) as index:
        cases = [{**case, **time_steps(index, settings_of(case), steps)} for case in CASES]
    return {"cases": cases, "peak_resident_mb": peak_resident_mb()}


def time_steps(index: Index, settings: PlanSettings, count: int) -> dict[str, Any]:
    """Cold steps and their deal to 8 ranks, in milliseconds."""
    rng = np.random.default_rng(0)
    plan = Plan(index, settings)
    steps, cpus, deals = [], [], []
    for epoch in range(count):
        number = int(rng.integers(0, plan.steps_per_epoch))
        began, cpu = time.perf_counter(), time.process_time()
        step = plan.step(epoch, number)
        planned = time.perf_counter()
        cpus.append((time.process_time() - cpu) * 1000)
        step.deal(8, settings.global_batch_size // 8)
        steps.append((planned - began) * 1000)
        deals.append((time.perf_counter() - planned) * 1000)
    return {
        "window_rows": settings.global_batch_size * settings.bucket_window,
        "step_ms": {"median": float(np.median(steps)), "p90": float(np.quantile(steps, 0.9)), "max": max(steps)},
        "step_cpu_ms_median": float(np.median(cpus)),
        "deal_ms_median": float(np.median(deals)),
    }


def peak_resident_mb() -> float:
    """The most memory that this process has held; `ru_maxrss` would include what its parent held before `exec`."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index] # Linux always says it


def in_a_process(stage: str, index_dir: Path, samples: int, shards: int, steps: int) -> dict[str, Any]:
    """A stage of the benchmark in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.plan_scale", "--stage", stage, "--directory", str(index_dir)]
    command += ["--samples", str(samples), "--shards", str(shards), "--steps", str(steps)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(answer.stdout)
    return result


def benchmark(directory: Path, samples: int, shards: int, steps: int) -> dict[str, Any]:
    """Write the tables, open them twice, plan."""
    began = time.perf_counter()
    for _ in write_imaginary_tables(directory, imaginary_shards(directory, samples, shards), samples):
        pass
    print(f"tables of {samples:,} samples written in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    first = in_a_process("open", directory, samples, shards, steps)
    again = in_a_process("open", directory, samples, shards, steps)
    plan = in_a_process("plan", directory, samples, shards, steps)
    nbytes = sum(path.stat().st_size for path in directory.iterdir())
    return {"samples": samples, "shards": shards, "bytes_a_sample": nbytes / samples, "first_open": first} | {
        "open": again,
        "plan": plan,
    }


def show(result: dict[str, Any]) -> None:
    """Print the result as tables, with what was asked for beside it."""
    first, again, plan = result["first_open"], result["open"], result["plan"]
    print(f"{result['samples']:,} samples in {result['shards']:,} shards\n")
    print(f"{'index on disk, all files':44}{result['bytes_a_sample']:>9.1f} bytes a sample (at most {MAX_BYTES:.0f})")
    print(f"{'first open (columns are put together)':44}{first['open_s']:>9.1f} s, {first['peak_resident_mb']:.0f} MB")
    print(f"{'every later open':44}{again['open_s']:>9.1f} s, {again['peak_resident_mb']:.0f} MB")
    print(
        f"{'peak memory, with all plans below':44}{plan['peak_resident_mb']:>9.0f} MB (at most {MAX_RESIDENT_MB:.0f})"
    )
    title = f"a cold step, ms (at most {MAX_STEP_MS:.0f})"
    print(f"\n{title:36}{'median':>8}{'p90':>8}{'max':>8}{'CPU':>8}{'deal':>8}")
    for case in plan["cases"]:
        name = f"G {case['global_batch_size']}, {case['shuffle']}, {case.get('modality', 'pure')}"
        ms = case["step_ms"]
        print(
            f"{name:20}{case['window_rows']:>6} row window{ms['median']:>7.1f}{ms['p90']:>8.1f}{ms['max']:>8.1f}"
            f"{case['step_cpu_ms_median']:>8.1f}{case['deal_ms_median']:>8.1f}"
        )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="plan_scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60, help="cold steps per case")
    parser.add_argument("--directory", type=Path, help="where the index is kept; a temporary directory by default")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results as JSON too")
    parser.add_argument("--stage", choices=("open", "plan"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    chosen = arguments(argv)
    if chosen.stage:
        stage = measure_open if chosen.stage == "open" else measure_steps
        print(json.dumps(stage(chosen.directory, chosen.samples, chosen.shards, chosen.steps)))
        return 0
    report: dict[str, Any] = {
        "benchmark": "plan_scale",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}",
        "method": f"{chosen.steps} cold steps per case, each at a random place of another epoch, page cache warm",
    }
    print(f"{report['machine']}\n{report['method']}")
    with tempfile.TemporaryDirectory() as temporary:
        report["result"] = benchmark(chosen.directory or Path(temporary), chosen.samples, chosen.shards, chosen.steps)
    show(report["result"])
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
