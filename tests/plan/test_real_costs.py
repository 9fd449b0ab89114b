"""Padding and balance on the costs of real samples, as they were measured once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from owl_stream.plan import Plan
from tests.plan.tables import ColumnTable, settings

COSTS = json.loads((Path(__file__).parent / "real_costs.json").read_text())


def real_table() -> ColumnTable:
    """145 samples, 11 of them text-only, in five shards."""
    text_tokens = np.array(COSTS["text_tokens"], dtype=np.int64)
    return ColumnTable(text_tokens, np.array(COSTS["crops"], dtype=np.int64), np.arange(len(text_tokens)) // 32)


def efficiency(plan: Plan, epoch: int, world_size: int, micro_batch_size: int) -> float:
    """Attended / all text tokens of an epoch, filler rows left out."""
    attended = padded = 0
    for number in range(plan.steps_per_epoch):
        step = plan.step(epoch, number)
        for micro in step.deal(world_size, micro_batch_size).rows.reshape(-1, micro_batch_size):
            lengths = step.costs.text_tokens[micro[micro >= 0]]
            attended += int(lengths.sum())
            padded += len(lengths) * int(lengths.max(initial=0))
    return attended / padded


@pytest.mark.parametrize(
    ("global_batch_size", "world_size", "micro_batch_size", "bucket_window"),
    [(8, 1, 8, 32), (8, 1, 4, 32), (32, 4, 8, 4), (32, 4, 4, 4), (32, 4, 2, 4)],
)
def test_nine_in_ten_tokens_are_attended(
    global_batch_size: int, world_size: int, micro_batch_size: int, bucket_window: int
) -> None:
    """In every one of five epochs."""
    plan = Plan(real_table(), settings(global_batch_size=global_batch_size, bucket_window=bucket_window))
    assert min(efficiency(plan, epoch, world_size, micro_batch_size) for epoch in range(5)) >= 0.90


def test_the_dearest_rank_costs_little_more_than_the_mean() -> None:
    """G 32, W 4, m 8, over the full steps with images: 729 tokens a crop, up to 7 crops a sample."""
    plan = Plan(real_table(), settings(global_batch_size=32))
    steps = [plan.step(epoch, number) for epoch in range(5) for number in range(plan.steps_per_epoch)]
    costs = [step.deal(4, 8).rank_costs for step in steps if not step.fillers and step.pool == "image"]
    assert len(costs) == 20
    assert float(np.mean([ranks.max() / ranks.mean() for ranks in costs])) <= 1.03
