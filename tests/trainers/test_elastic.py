"""World size and micro-batch size may change between steps: the global steps stay, from any one rank's state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import pytest
import torch

from owl_client import OwlStreamDataset
from owl_stream.errors import RequestError
from tests.support.datasets import small_dataset
from tests.support.layouts import OWL, QWEN, others_long
from tests.support.server import ServerProcess

ROWS = 12
SHARES = [(w, m) for w, m in product(range(1, ROWS + 1), repeat=2) if ROWS % (w * m) == 0]
"""Every world size and micro-batch size that goes."""

Steps = dict[tuple[int, int], list[tuple[str, str]]]


@pytest.fixture(scope="module")
def url(layout: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with steps of 12 rows, the last of each pool completed by fillers."""
    settings = {"global_batch_size": ROWS, "bucket_window": 1, "server": {"workers": 0}}
    config = small_dataset(tmp_path_factory.mktemp("elastic"), layout=layout, samples=44, **settings)
    with ServerProcess(config) as server:
        yield server.url


@pytest.fixture(scope="module")
def whole(url: str) -> Steps:
    """The samples of every step of three epochs, as one rank gets them."""
    dataset = reader(url, 1, ROWS)
    return samples_of([batch for _ in range(3) for batch in dataset])


def reader(url: str, world_size: int, micro_batch_size: int, rank: int = 0) -> OwlStreamDataset:
    """One rank's dataset."""
    return OwlStreamDataset(
        url, rank=rank, world_size=world_size, micro_batch_size=micro_batch_size, dtype=torch.uint8, prefetch=1
    )


def samples_of(batches: list[Any]) -> Steps:
    """Which samples were in which step: a row given again stands for none, or for the one it replaces."""
    steps: Steps = {}
    for batch in batches:
        rows = [(row.shard, row.key) for row in batch.meta.rows if row.status in ("ok", "masked")]
        steps.setdefault((batch.meta.epoch, batch.meta.step), []).extend(rows)
    return {step: sorted(rows) for step, rows in steps.items()}


@others_long
def test_the_comparison_means_something(layout: str, whole: Steps) -> None:
    """An epoch holds each of the 44 samples once, and steps differ but for those that are all of their pool."""
    assert [sum(len(rows) for step, rows in whole.items() if step[0] == epoch) for epoch in range(3)] == [44] * 3
    assert len({tuple(rows) for rows in whole.values()}) == {OWL: 3 * 3 + 1, QWEN: 3 * 2 + 3}[layout]


@others_long
@pytest.mark.parametrize(("world_size", "micro_batch_size"), SHARES)
def test_fault_19_any_ranks_state_of_any_share_resumes_at_every_share(
    url: str, whole: Steps, world_size: int, micro_batch_size: int
) -> None:
    """A state taken between steps, also at an epoch's end: all ranks of the new share go on with the same steps."""
    chance = random.Random(world_size * 100 + micro_batch_size)
    was_world, was_micro = chance.choice(SHARES)
    per_epoch = len(whole) // 3
    steps = chance.randint(0, per_epoch)
    before = reader(url, was_world, was_micro, rank=chance.randrange(was_world))
    for _ in islice(before, steps * before.micros_per_step):
        pass
    state = before.state_dict()
    batches = []
    for rank in range(world_size):
        after = reader(url, world_size, micro_batch_size, rank)
        after.load_state_dict(state)
        batches += [*islice(after, 2 * after.micros_per_step)]
        after.close()
    before.close()
    # Reading ends with the epoch that it began in.
    left = [(steps // per_epoch, steps % per_epoch + ahead) for ahead in range(2)]
    first = [place for place in left if place in whole]
    assert samples_of(batches) == {step: whole[step] for step in first}


def test_in_the_middle_of_a_step_only_the_same_share_goes_on(url: str, whole: Steps) -> None:
    """Its other micro-batches were cut for that share; the error says so and names both."""
    half = reader(url, 2, 2, rank=1)
    seen = [*islice(half, 4)]
    state = half.state_dict()
    assert state["micro"] == 1
    half.close()
    for share in ((1, 2), (2, 3), (4, 3)):
        with pytest.raises(RequestError, match=r"world size 2 and micro-batches of 2.*only between steps"):
            reader(url, *share).load_state_dict(state)
    same = reader(url, 2, 2, rank=1)
    same.load_state_dict(state)
    other = [*reader(url, 2, 2, rank=0)]
    assert samples_of([*seen, *same, *other]) == {step: rows for step, rows in whole.items() if step[0] == 0}
