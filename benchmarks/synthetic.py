"""Indexes of any size in the real on-disk format, made by writing tables as if shards had been scanned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from owl_stream.errors import WorkerError
from owl_stream.shards import Costs, Index, Measure, Shard, build_index
from owl_stream.shards.tables import SPAN, CostTable, IndexPlace, ScanTable, save_tables

RECIPE = "synthetic"
BLOCK = 512
SAMPLE_BLOCKS = 200
"""A sample of about 100 KB."""
CROP_TOKENS = 27**2
"""Vision tokens of a crop of mPLUG-Owl3."""


def imaginary_shards(directory: Path, samples: int, shards: int) -> list[Shard]:
    """Shards that no file stands for: planning reads no byte of a sample, and the tables say the rest."""
    size = -(-samples // shards) * SAMPLE_BLOCKS * BLOCK
    return [Shard(name, directory / name, size, 1) for name in (f"s-{number:05d}.tar" for number in range(shards))]


def write_imaginary_tables(index_dir: Path, shards: list[Shard], samples: int) -> Iterator[int]:
    """Write what scanning would have: 60 to 400 text tokens, every tenth sample text-only, else 1 to 6 crops.

    Yields the samples written so far, shard by shard.
    """
    place, per_shard, written = IndexPlace(index_dir), -(-samples // len(shards)), 0
    index_dir.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shards):
        count = min(per_shard, samples - written)
        spans, costs = _imaginary_columns(np.random.default_rng(number), count)
        save_tables(place, shard, RECIPE, ScanTable(spans, ()), CostTable(costs, ()))
        written += count
        yield written


def open_imaginary_index(index_dir: Path, shards: list[Shard]) -> Index:
    """The index over these tables, by the way every start takes."""
    return build_index(shards, _unmeasured, RECIPE, index_dir, processes=0, on_bad_sample="mask")


def _imaginary_columns(rng: np.random.Generator, count: int) -> tuple[NDArray[np.void], Costs]:
    spans = np.empty(count, dtype=SPAN)
    spans["block"] = np.arange(count, dtype=np.uint32) * SAMPLE_BLOCKS
    spans["length"] = SAMPLE_BLOCKS * BLOCK
    spans["digest"] = rng.integers(0, 1 << 63, count)
    text = rng.integers(60, 401, count)
    crops = np.where(rng.random(count) < 0.1, 0, rng.integers(1, 7, count))
    zeros = np.zeros_like(text)
    return spans, Costs.of(np.stack([text, zeros + 20, crops, crops * CROP_TOKENS, zeros, zeros], axis=1))


def _unmeasured() -> Measure:
    raise WorkerError("a synthetic index is complete: nothing may be measured")
