"""How much of a batch is padding and how unevenly ranks are loaded: the plan's batches beside random ones.

    python -m benchmarks.padding                                   synthetic costs, and a plan of 100 million samples
    python -m benchmarks.padding --config owl-stream.yaml          the data of a configuration
    python -m benchmarks.padding --shards 'data/*.tar' --tokenizer tokenizer.json

Padding efficiency is attended / all text tokens, filler rows left out. The cost of a rank is what dealing weighs: its
padded text tokens and its vision tokens. The ratio dearest / mean rank is averaged over steps without fillers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from owl_stream.config import Config, DatasetConfig, PlanSettings, load_config, make_config
from owl_stream.errors import OwlStreamError, UsageError
from owl_stream.plan import Plan, Table, check_deal
from owl_stream.shards import Costs, Pool, RowSize

Rows = NDArray[np.int64]
"""[n, 2]: text tokens and vision tokens of the rows of a micro-batch, fillers left out."""

Step = list[list[Rows]]
"""[W][M] micro-batches."""

LARGEST_FRAME = 2**32 - 1
CROP_TOKENS = 27**2
"""Vision tokens of a synthetic crop: one of mPLUG-Owl3, of either release."""

SHUFFLES = 20


@dataclass(frozen=True)
class Case:
    """One way to train: G, W, m, and the window."""

    global_batch_size: int
    world_size: int
    micro_batch_size: int
    bucket_window: int


@dataclass(frozen=True)
class Outcome:
    """What a way of batching gives: attended / all tokens, and dearest / mean rank cost (1.0 for one rank)."""

    efficiency: float
    imbalance: float


CASES = (Case(8, 1, 8, 32), Case(8, 1, 4, 32), Case(32, 4, 8, 4), Case(32, 4, 8, 32), Case(32, 4, 2, 4))


def measure(steps: Iterator[Step], case: Case, settings: PlanSettings) -> Outcome:
    """Padding and balance of steps that were dealt, by whatever means."""
    attended = padded = 0
    ratios = []
    for step in steps:
        for rows in (micro for rank in step for micro in rank if len(micro)):
            attended += int(rows[:, 0].sum())
            padded += len(rows) * int(rows[:, 0].max())
        if all(len(micro) == case.micro_batch_size for rank in step for micro in rank):
            costs = [sum(cost(micro, settings) for micro in rank) for rank in step]
            ratios.append(max(costs) * len(costs) / max(sum(costs), 1))
    return Outcome(attended / padded, float(np.mean(ratios)) if ratios else float("nan"))


def cost(rows: Rows, settings: PlanSettings) -> int:
    """What dealing weighs a full micro-batch."""
    text = len(rows) * int(rows[:, 0].max()) * settings.text_token_cost
    return text + int(rows[:, 1].sum()) * settings.vision_token_cost


def random_steps(rows: Rows, case: Case, seed: int) -> Iterator[Step]:
    """The same rows shuffled and cut: what a loader without a plan does."""
    shuffled = rows[np.random.default_rng(seed).permutation(len(rows))]
    micros = check_deal(case.global_batch_size, case.world_size, case.micro_batch_size)
    for start in range(0, len(rows), case.global_batch_size):
        cuts = [start + number * case.micro_batch_size for number in range(case.world_size * micros)]
        batches = [shuffled[cut : cut + case.micro_batch_size] for cut in cuts]
        yield [batches[rank * micros : (rank + 1) * micros] for rank in range(case.world_size)]


def planned_steps(plan: Plan, case: Case) -> Iterator[Step]:
    """Epoch 0 of a plan."""
    for number in range(plan.steps_per_epoch):
        step = plan.step(0, number)
        columns = np.stack([step.costs.text_tokens, step.costs.vision_tokens], axis=1)
        dealt = step.deal(case.world_size, case.micro_batch_size).rows
        yield [[columns[micro[micro >= 0]] for micro in rank] for rank in dealt]


def served_steps(name: str, config: Config, index_dir: Path, case: Case) -> Iterator[Step]:
    """Epoch 0 of a dataset, as its jobs say."""
    from owl_stream.assemble.dataset import open_dataset  # noqa: PLC0415 - synthetic runs need no server extra

    chosen = with_case(config.datasets[name], case)
    dataset = open_dataset(name, chosen, config.base, index_dir, os.cpu_count() or 1, max_frame_bytes=LARGEST_FRAME)
    try:
        ranks, micros = range(case.world_size), case.global_batch_size // case.world_size // case.micro_batch_size
        for number in range(dataset.steps_per_epoch):
            step: Step = []
            for rank in ranks:
                sizes = (case.world_size, case.micro_batch_size)
                jobs = [dataset.job(0, number, micro, rank, *sizes) for micro in range(micros)]
                step.append([as_rows([row.size for row in job.rows if row is not None]) for job in jobs])
            yield step
    finally:
        dataset.close()


def with_case(config: DatasetConfig, case: Case) -> DatasetConfig:
    """The dataset's settings, with what the case changes."""
    return config.model_copy(
        update={"global_batch_size": case.global_batch_size, "bucket_window": case.bucket_window, "last": "fill"}
    )


def as_rows(sizes: Sequence[RowSize]) -> Rows:
    """Rows of these sizes."""
    return np.array([(size.text_tokens, size.vision_tokens) for size in sizes], dtype=np.int64).reshape(-1, 2)


def compare(steps: list[Step], case: Case, settings: PlanSettings) -> dict[str, Any]:
    """The plan beside the mean of several random shuffles of the same rows."""
    plan = measure(iter(steps), case, settings)
    rows = np.concatenate([micro for step in steps for rank in step for micro in rank])
    shuffles = [measure(random_steps(rows, case, seed), case, settings) for seed in range(SHUFFLES)]
    random = Outcome(*(float(np.mean([getattr(o, name) for o in shuffles])) for name in ("efficiency", "imbalance")))
    return {
        "case": asdict(case),
        "samples": len(rows),
        "plan": asdict(plan),
        "random": asdict(random),
        "efficiency_ratio": plan.efficiency / random.efficiency,
    }


@dataclass(frozen=True)
class SyntheticTable:
    """Arithmetic costs without memory: 60 to 400 text tokens, 1 to 6 crops, every tenth sample text-only."""

    samples: int

    def pool_size(self, pool: Pool) -> int:
        """As Table."""
        text = -(-self.samples // 10)
        sizes: dict[Pool, int] = {"all": self.samples, "text": text, "image": self.samples - text}
        return sizes.get(pool, 0)

    def pool_ids(self, pool: Pool, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """As Table."""
        if pool == "image":
            return positions // 9 * 10 + 1 + positions % 9
        return positions * 10 if pool == "text" else positions

    def pool_counts_by_shard(self, pool: Pool) -> NDArray[np.int64]:
        """As Table: about 10,000 samples a shard."""
        shards = -(-self.samples // 10_000)
        return np.diff(np.arange(shards + 1, dtype=np.int64) * self.pool_size(pool) // shards)

    def costs(self, ids: NDArray[np.int64]) -> Costs:
        """As Table."""
        scattered = ids * 0x9E3779B1 % (1 << 32)
        crops = np.where(ids % 10 == 0, 0, 1 + (scattered >> 7) % 6)
        zeros = np.zeros_like(ids)
        text = 60 + (scattered >> 11) % 341
        return Costs.of(np.stack([text, zeros + 20, crops, crops * CROP_TOKENS, zeros, zeros], axis=1))


def time_plan(table: Table, settings: PlanSettings, samples: int) -> dict[str, Any]:
    """Milliseconds to make a plan, to ask one cold step, and to deal it: the median of nine."""
    times: dict[str, list[float]] = {"plan_ms": [], "step_ms": [], "deal_ms": []}
    for repeat in range(9):
        marks = [time.perf_counter()]
        plan = Plan(table, settings)
        marks.append(time.perf_counter())
        step = plan.step(repeat, plan.steps_per_epoch // 2)
        marks.append(time.perf_counter())
        step.deal(4, 8)
        marks.append(time.perf_counter())
        for key, seconds in zip(times, np.diff(marks), strict=True):
            times[key].append(float(seconds) * 1000)
    return {"samples": samples, **{key: float(np.median(values)) for key, values in times.items()}}


def show(results: list[dict[str, Any]]) -> None:
    """Print the comparisons as a table."""
    print(f"{'':28}{'padding efficiency':^28}{'dearest / mean rank':^24}")
    print(
        f"{'G':>5}{'W':>4}{'m':>4}{'window':>8}{'':7}{'plan':>8}{'random':>10}{'ratio':>10}{'plan':>12}{'random':>10}"
    )
    for result in results:
        case, plan, random = result["case"], result["plan"], result["random"]
        sizes = f"{case['global_batch_size']:>5}{case['world_size']:>4}{case['micro_batch_size']:>4}"
        print(
            f"{sizes}{case['bucket_window']:>8}{'':7}{plan['efficiency']:>8.3f}{random['efficiency']:>10.3f}"
            f"{result['efficiency_ratio']:>9.2f}x{plan['imbalance']:>12.3f}{random['imbalance']:>10.3f}"
        )


def synthetic(samples: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Every case on synthetic costs, and what a plan of 100 million samples takes."""
    base = DatasetConfig(shards=("none.tar",), tokenizer="none").plan
    results = []
    for case in CASES:
        settings = replace(base, global_batch_size=case.global_batch_size, bucket_window=case.bucket_window)
        results.append(compare(list(planned_steps(Plan(SyntheticTable(samples), settings), case)), case, settings))
    large = 100_000_000
    return results, time_plan(SyntheticTable(large), replace(base, global_batch_size=32), large)


def real(config: Config, name: str | None, index_dir: Path) -> list[dict[str, Any]]:
    """Every case on a dataset of the configuration."""
    name = name or next(iter(config.datasets))
    if name not in config.datasets:
        raise UsageError(f"--dataset {name}: expected one of {', '.join(config.datasets)}")
    settings = config.datasets[name].plan
    return [compare(list(served_steps(name, config, index_dir, case)), case, settings) for case in CASES]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="padding", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", type=Path, help="a configuration file")
    parser.add_argument("--dataset", help="its dataset; the first one by default")
    parser.add_argument("--shards", nargs="+", help="shards instead of a configuration; needs --tokenizer")
    parser.add_argument("--tokenizer", help="a tokenizers file or a hub id")
    parser.add_argument("--layout", default="owl3-240728")
    parser.add_argument("--index-dir", type=Path, help="where the index is kept; a temporary directory by default")
    parser.add_argument("--samples", type=int, default=8192, help="of a synthetic run")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results as JSON too")
    chosen = parser.parse_args(argv)
    if chosen.shards and (chosen.config or not chosen.tokenizer):
        parser.error("--shards needs --tokenizer and goes without --config")
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for."""
    chosen = arguments(argv)
    report: dict[str, Any] = {
        "benchmark": "padding",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}",
        "method": f"epoch 0 of the plan; random: mean of {SHUFFLES} shuffles of the same rows, cut to the same sizes",
    }
    try:
        if chosen.config or chosen.shards:
            config = load_config(chosen.config) if chosen.config else from_flags(chosen)
            with tempfile.TemporaryDirectory() as directory:
                report["results"] = real(config, chosen.dataset, chosen.index_dir or Path(directory))
        else:
            report["results"], report["large_plan"] = synthetic(chosen.samples)
    except OwlStreamError as exc:
        print(f"padding: {exc}", file=sys.stderr)
        return 2
    print(f"{report['machine']}\n{report['method']}\n{report['results'][0]['samples']} samples\n")
    show(report["results"])
    if large := report.get("large_plan"):
        print(
            f"\na plan of {large['samples']:,} samples: made in {large['plan_ms']:.2f} ms, "
            f"a cold step in {large['step_ms']:.2f} ms, dealt in {large['deal_ms']:.2f} ms (G 32, W 4, m 8)"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def from_flags(chosen: argparse.Namespace) -> Config:
    """A configuration of one dataset, paths relative to where the command runs."""
    dataset = {"shards": chosen.shards, "tokenizer": chosen.tokenizer, "layout": chosen.layout}
    return make_config({"datasets": {"data": dataset}}, origin="the command line", base=Path.cwd())


if __name__ == "__main__":
    sys.exit(main())
