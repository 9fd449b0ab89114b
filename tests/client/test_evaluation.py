"""`evaluate=True`: every `for` is the same pass from its beginning, whoever reads and however far it gets.

Fault 121 of docs/faults.md.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from torch.utils.data import DataLoader

from owl_client import Batch, OwlStreamDataset, OwlStreamLoader
from owl_stream.errors import RequestError
from tests.client.peers import cut_at, memory_dataset
from tests.client.test_loader import places
from tests.client.world import World, keys_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # depends on the machine

WORLD = World(steps=5)
OPTIONS: dict[str, Any] = {"rank": 0, "world_size": 2, "micro_batch_size": 1, "evaluate": True}
PASS = [(0, step, micro) for step in range(5) for micro in range(2)]


def loader(workers: int, persistent: bool = False, **options: Any) -> DataLoader[Batch]:
    """A loader over a dataset for evaluation, or the dataset itself for -1 workers."""
    dataset = memory_dataset(WORLD, **{**OPTIONS, **options})
    context: dict[str, Any] = {"multiprocessing_context": "fork"} if workers > 0 else {}
    if workers < 0:
        return dataset  # type: ignore[return-value] # read just as a loader is
    return DataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=persistent, **context)


WAYS = [(-1, False), (0, False), (1, False), (3, False), (1, True), (3, True)]


@pytest.mark.parametrize(("workers", "persistent"), WAYS)
def test_every_for_begins_at_the_beginning(workers: int, persistent: bool) -> None:
    """Whole, left early by `limit_val_batches`, peeked at by `next(iter(...))`: the next one is the same."""
    reading = loader(workers, persistent)
    assert places(islice(iter(reading), 5)) == PASS[:5]
    assert places([next(iter(reading))]) == PASS[:1]  # type: ignore[arg-type] # a list is as good
    assert places(islice(iter(reading), 5)) == PASS[:5]
    assert places(reading) == PASS
    assert places(islice(iter(reading), 10)) == PASS  # a trainer that counts and never asks for the end
    assert places(reading) == PASS


def test_passes_are_the_same_bits() -> None:
    """Not places alone: every tensor, in this process and through workers."""
    first = keys_of(loader(-1))
    assert keys_of(loader(2)) == first == keys_of(list(loader(-1)))


def test_the_trained_dataset_and_the_evaluated_one_do_not_disturb_each_other() -> None:
    """Two objects of one server; evaluating in mid-epoch moves nothing of the training."""
    train = memory_dataset(WORLD, rank=0, world_size=2, micro_batch_size=1)
    evaluated = loader(-1)
    seen = []
    for batch in train:
        seen.append((batch.meta.epoch, batch.meta.step, batch.meta.micro))
        assert places(islice(iter(evaluated), 3)) == PASS[:3]
    assert seen == PASS


@pytest.mark.parametrize("workers", [-1, 2])
def test_set_epoch_changes_nothing(workers: int) -> None:
    """Accelerate calls it with counts of its own."""
    reading = loader(workers)
    dataset = reading if isinstance(reading, OwlStreamDataset) else reading.dataset
    assert isinstance(dataset, OwlStreamDataset)
    iterator = iter(reading)
    next(iterator)
    dataset.set_epoch(3)
    assert places(iterator) == PASS[1:]
    dataset.set_epoch(7)
    assert places(reading) == PASS


def test_there_is_no_state_to_load() -> None:
    """Its own state is always the beginning; loading one is refused, and says into what to load it."""
    dataset = memory_dataset(WORLD, **OPTIONS)
    beginning = dataset.state_dict()
    batch = next(iter(dataset))
    assert dataset.state_dict() == beginning
    assert (beginning["epoch"], beginning["step"], beginning["micro"]) == (0, 0, 0)
    assert dataset.state_dict(batch)["micro"] == 1
    for state in (beginning, dataset.state_dict(batch)):
        with pytest.raises(RequestError, match=r"evaluate=True begins at its beginning .* that is trained on"):
            dataset.load_state_dict(state)
    train = memory_dataset(WORLD, rank=0, world_size=2, micro_batch_size=1)
    train.load_state_dict(dataset.state_dict(batch))
    assert places(train) == PASS[1:]  # type: ignore[arg-type] # a dataset is as good as its loader


def test_a_cut_connection_goes_on_within_the_pass() -> None:
    """Failover is not a new pass: nothing comes twice."""
    assert places(memory_dataset(WORLD, cut_at(2500), **OPTIONS)) == PASS  # type: ignore[arg-type]


def test_through_our_own_loader() -> None:
    """It goes on behind its last batch for training, and not here."""
    reading = OwlStreamLoader(memory_dataset(WORLD, **OPTIONS), num_workers=2, multiprocessing_context="fork")
    assert places(islice(reading, 3)) == PASS[:3]
    assert places(reading) == PASS
