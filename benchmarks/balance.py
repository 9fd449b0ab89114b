"""How evenly ranks are loaded and how little is padding, on rows drawn from real samples' costs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.padding import Case, Rows, as_rows, measure, planned_steps
from benchmarks.report import Line
from benchmarks.rounds import Ratio
from benchmarks.workload import Workload
from owl_stream.assemble import open_dataset
from owl_stream.config import DatasetConfig
from owl_stream.plan import Plan
from owl_stream.shards import Costs, Pool

SAMPLES = 10_000
CASE = Case(global_batch_size=32, world_size=4, micro_batch_size=8, bucket_window=32)


@dataclass(frozen=True)
class DrawnTable:
    """Rows drawn with repetition from real ones: what planning needs of an index. `rows`: text and vision tokens."""

    rows: Rows

    def pool_size(self, pool: Pool) -> int:
        """As Table."""
        return len(self._ids(pool))

    def pool_ids(self, pool: Pool, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """As Table."""
        return self._ids(pool)[positions]

    def pool_counts_by_shard(self, pool: Pool) -> NDArray[np.int64]:
        """As Table; one shard."""
        return np.array([self.pool_size(pool)])

    def costs(self, ids: NDArray[np.int64]) -> Costs:
        """As Table; an image's vision tokens are one unit."""
        text, vision = self.rows[ids].T
        zeros = np.zeros_like(text)
        return Costs.of(np.stack([text, zeros + 20, vision > 0, vision, zeros, zeros], axis=1))

    def _ids(self, pool: Pool) -> NDArray[np.int64]:
        return np.flatnonzero(self.costs(np.arange(len(self.rows))).in_pool(pool))


def measure_balance(workload: Workload, shards: Sequence[Path]) -> tuple[list[Line], dict[str, Any]]:
    """On the samples of `shards`, cut as `cut: single` cuts them; else on those of the workload."""
    patterns = tuple(str(path) for path in shards or workload.shards)
    config = DatasetConfig(shards=patterns, tokenizer=str(workload.tokenizer), global_batch_size=32, bucket_window=32)
    with tempfile.TemporaryDirectory() as directory:
        dataset = open_dataset("balance", config, Path(), Path(directory), processes=0)
        jobs = [dataset.job(0, step, micro, 0, 1, 8) for step in range(dataset.steps_per_epoch) for micro in range(4)]
        dataset.close()
    real = as_rows([row.size for job in jobs for row in job.rows if row is not None])
    drawn = real[np.random.default_rng(0).integers(0, len(real), SAMPLES)]
    outcome = measure(planned_steps(Plan(DrawnTable(drawn), config.plan), CASE), CASE, config.plan)
    lines = [
        Line("7", "slowest rank / mean rank, G 32, W 4, 10,000 rows", Ratio.of([outcome.imbalance]), at_most=1.10),
        Line("7", "padding efficiency of the same plan", Ratio.of([outcome.efficiency]), at_least=0.90),
    ]
    return lines, {"samples": len(real), "drawn": SAMPLES}
