"""Through torchdata's StatefulDataLoader: its state, taken anywhere, resumes each worker where the trainer was."""

from __future__ import annotations

import pickle
from itertools import islice
from typing import Any

import pytest
from torchdata.stateful_dataloader import StatefulDataLoader

from owl_client import Batch
from owl_stream.errors import RequestError
from tests.client.peers import memory_dataset
from tests.client.test_loader import EPOCHS, OPTIONS, WORLD, places

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # depends on the machine
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata 0.11 and torch 2.13
]


def loader(workers: int, persistent: bool) -> StatefulDataLoader[Batch]:
    """A loader over a dataset of its own, as after the start of a process."""
    context: dict[str, Any] = {"multiprocessing_context": "fork"} if workers else {}
    dataset = memory_dataset(WORLD, **OPTIONS)
    return StatefulDataLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=persistent, **context)


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (3, False), (3, True)])
@pytest.mark.parametrize("read", [0, 4, 10, 13])
def test_a_state_taken_anywhere_resumes(workers: int, persistent: bool, read: int) -> None:
    """Before the first batch, where some workers have yielded and some not, at an epoch's end and in the next one."""
    first = loader(workers, persistent)
    before = [place for part in (min(read, 10), max(0, read - 10)) if part for place in places(islice(first, part))]
    assert before == EPOCHS[:read]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = loader(workers, persistent)
    second.load_state_dict(state)
    after = [*places(second), *places(second)]
    # Where an epoch is read but its end was not asked for, workers still owe that end: a pass without batches.
    assert len(after) == (10 if read == 10 and workers else 20 - read % 10)
    assert after == EPOCHS[read : read + len(after)]


def test_a_state_of_a_whole_epoch_resumes_with_the_next() -> None:
    """Also when the loop asked for the end and the loader noted that it had come."""
    for workers in (0, 2):
        first = loader(workers, False)
        assert places(first) == EPOCHS[:10]
        second = loader(workers, False)
        second.load_state_dict(first.state_dict())
        assert places(second) == EPOCHS[10:20]


def test_the_state_of_one_worker_is_refused_elsewhere() -> None:
    """It says what one of three workers had read, which is nothing that a whole dataset could go on from."""
    first = loader(3, False)
    next(iter(first))
    state = first.state_dict()["_snapshot"]["_worker_snapshots"]["worker_0"]["dataset_state"]
    assert state["part"][:2] == [0, 3]
    with pytest.raises(RequestError, match=r"worker 0 of 3.*num_workers=3"):
        memory_dataset(WORLD, **OPTIONS).load_state_dict(state)
