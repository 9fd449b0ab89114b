"""The benchmarks of scale, at a size that tests have time for: what they measure is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.plan_scale import MAX_BYTES, benchmark
from benchmarks.resume import write_aliased_index
from benchmarks.synthetic import imaginary_shards, open_imaginary_index, write_imaginary_tables
from owl_stream.assemble import open_dataset
from owl_stream.config import load_config
from tests.support.assembly import run_job
from tests.support.datasets import small_dataset

SMALL, LARGE = 20_000, 2_000_000
COST_COLUMN_MB = LARGE * 12 / (1 << 20)


def test_planning_holds_no_column_in_memory(tmp_path: Path) -> None:
    """A hundred times the samples take next to no more memory to open and plan, and at most 64 bytes each on disk."""
    small, large = (benchmark(tmp_path / str(samples), samples, 4, steps=3) for samples in (SMALL, LARGE))
    for stage in ("open", "plan"):
        assert large[stage]["peak_resident_mb"] - small[stage]["peak_resident_mb"] < COST_COLUMN_MB / 2, stage
    assert large["bytes_a_sample"] <= MAX_BYTES
    assert {case["window_rows"] for case in large["plan"]["cases"]} == {256, 8192}


def test_a_synthetic_index_is_one_that_opens_and_says_what_was_written(tmp_path: Path) -> None:
    """No shard is there to be measured, so opening it at all shows that its tables are taken for whole."""
    shards = imaginary_shards(tmp_path, 1000, 3)
    assert list(write_imaginary_tables(tmp_path, shards, 1000)) == [334, 668, 1000]
    with open_imaginary_index(tmp_path, shards) as index:
        costs = index.costs(np.arange(1000))
        assert (index.samples, index.pool_size("image")) == (1000, int((costs.crops > 0).sum()))
        images = index.pool_ids("image", np.arange(index.pool_size("image")))
        assert (images == np.flatnonzero(costs.crops)).all()


def test_every_entry_of_an_aliased_index_is_a_sample_that_can_be_read(tmp_path: Path) -> None:
    """Batches from anywhere in it are assembled and no row is masked: each entry names bytes with their digest."""
    data = small_dataset(tmp_path / "data").parent
    (tmp_path / "alias").mkdir()
    tars = [str(path) for path in sorted(data.glob("*.tar"))]
    config = load_config(write_aliased_index(tmp_path / "alias", tars, str(data / "tokenizer.json"), 20_000))
    dataset = open_dataset("train", config.datasets["train"], config.base, tmp_path / "alias", processes=0)
    try:
        assert dataset.samples == 20_000
        last = dataset.steps_per_epoch - 1
        for step in (0, int(last * 0.95), last):
            rows = run_job(dataset, dataset.job(3, step, 0, 0, 1, 8)).rows
            assert {row.status for row in rows} == {"ok"}
    finally:
        dataset.close()
