"""Loaders that would make batches of batches are refused; our own loader knows what it handed out.

Fault 118 of docs/faults.md.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy.random  # noqa: F401 # torch imports it in every worker; forks of a process with threads had better not
import pytest
import torch
from torch.utils.data import ChainDataset, DataLoader, default_collate
from torchdata.stateful_dataloader import StatefulDataLoader
from transformers import default_data_collator

from owl_client import OwlStreamDataset, OwlStreamLoader
from owl_stream.errors import ConfigError, RequestError
from tests.client.peers import memory_dataset
from tests.client.test_loader import EPOCHS, OPTIONS, WORLD, places

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # depends on the machine
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),  # torchdata 0.11 and torch 2.13
]


def first(batches: list[Any]) -> Any:
    """A collate function that hides the list."""
    return batches[0]


WRONG: dict[str, dict[str, Any]] = {
    "nothing said": {},
    "batch_size=1": {"batch_size": 1},
    "batch_size=4": {"batch_size": 4},
    "drop_last": {"batch_size": 2, "drop_last": True},
    "pin_memory": {"pin_memory": False, "batch_size": 1},
    "collate_fn of our own": {"batch_size": 1, "collate_fn": first},
    "collate_fn of Hugging Face": {"batch_size": 1, "collate_fn": default_data_collator},
    "default_collate by name": {"batch_size": 2, "collate_fn": default_collate},
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [DataLoader, StatefulDataLoader])
@pytest.mark.parametrize("options", WRONG.values(), ids=WRONG)
def test_a_loader_that_batches_is_refused(make: Any, options: dict[str, Any], workers: int) -> None:
    """Whatever collates, in this process and in workers: the error says batch_size=None."""
    context: dict[str, Any] = {"multiprocessing_context": "fork"} if workers else {}
    loader = make(memory_dataset(WORLD, **OPTIONS), num_workers=workers, **options, **context)
    with pytest.raises(RequestError, match="pass batch_size=None"):
        next(iter(loader))


def test_collating_batches_by_hand_is_refused() -> None:
    """Where a function of the trainer's calls torch's, and where torch collates a list within a batch."""
    batch = next(iter(memory_dataset(WORLD, **OPTIONS)))
    for wrong in ([batch], [batch, batch], [{"inner": batch}], [(batch, 1)]):
        with pytest.raises(RequestError, match="whole batch already"):
            default_collate(wrong)


def test_a_dataset_behind_another_one_that_is_batched_is_refused() -> None:
    """torch's ChainDataset asks for the iterator by itself: then the default collation refuses."""
    loader = DataLoader(ChainDataset([memory_dataset(WORLD, **OPTIONS)]), batch_size=1)
    with pytest.raises(RequestError, match="pass batch_size=None"):
        next(iter(loader))


def test_ordinary_data_are_collated_as_ever() -> None:
    """Dicts of tensors of anybody else's are no concern of ours."""
    assert default_collate([{"x": torch.ones(2)}] * 3)["x"].shape == (3, 2)


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (3, True)])
def test_our_loader_goes_on_behind_the_last_batch_it_handed_out(workers: int, persistent: bool) -> None:
    """Left early or peeked at: with workers too, no batch is lost or repeated."""
    loader = ours(memory_dataset(WORLD, **OPTIONS), workers, persistent)
    seen = places(islice(loader, 3))
    seen += places([next(iter(loader))])  # type: ignore[arg-type] # a list is as good
    seen += places(islice(loader, 6))  # the last of the epoch, its end not asked for
    seen += places(loader)
    assert seen == EPOCHS[:20]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("read", [0, 3, 10, 14])
def test_the_state_of_our_loader_resumes(workers: int, read: int) -> None:
    """Taken after any batch, loaded into a new loader with another number of workers."""
    loader = ours(memory_dataset(WORLD, **OPTIONS), workers)
    for part in (min(read, 10), read - 10):
        assert len(places(islice(loader, max(part, 0)))) == max(part, 0)
    again = ours(memory_dataset(WORLD, **OPTIONS), 2 - workers)
    again.load_state_dict(loader.state_dict())
    assert again.state_dict() == loader.state_dict()
    assert places(again) + places(again) == EPOCHS[read : read + 20 - read % 10]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "move",
    [lambda loader, state: loader.dataset.set_epoch(2), lambda loader, state: loader.load_state_dict(state)],
    ids=["set_epoch", "load_state_dict"],
)
def test_what_moves_the_dataset_wins(workers: int, move: Callable[[Any, Any], None]) -> None:
    """After a pass that was left early the loader does not undo what the trainer has asked for since."""
    other = memory_dataset(WORLD, **OPTIONS)
    for _ in range(2):
        list(other)
    loader = ours(memory_dataset(WORLD, **OPTIONS), workers)
    assert places(islice(loader, 3)) == EPOCHS[:3]
    move(loader, other.state_dict())
    assert loader.state_dict()["epoch"] == 2
    assert places(loader) == EPOCHS[20:]


@pytest.mark.parametrize(
    "option", [{"batch_size": 1}, {"shuffle": True}, {"drop_last": True}, {"collate_fn": first}, {"sampler": [0]}]
)
def test_our_loader_takes_nothing_that_batches(option: dict[str, Any]) -> None:
    """The option is named."""
    with pytest.raises(ConfigError, match=next(iter(option))):
        OwlStreamLoader(memory_dataset(WORLD, **OPTIONS), **option)


def test_a_pass_through_workers_that_begins_again_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """torch's own loader cannot go on; it does not begin again in silence. (The position is shared with workers.)"""
    position = memory_dataset(WORLD, **OPTIONS)._position
    with caplog.at_level(logging.WARNING, "owl_client"):
        for seed, ended in ((1, [0, 1]), (2, [0]), (3, [])):
            workers = [copy.copy(position) for _ in range(2)]
            for number, worker in enumerate(workers):
                worker.begin_pass(number, 2, seed)
            for number in ended:
                workers[number].finish_pass(number)
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "the last pass through DataLoader workers was left before its end, so this one begins again at epoch 1, step 0"
    ]


def ours(dataset: OwlStreamDataset, workers: int, persistent: bool = False) -> OwlStreamLoader:
    """Our loader, with workers that fork."""
    context: dict[str, Any] = {"multiprocessing_context": "fork"} if workers else {}
    return OwlStreamLoader(dataset, num_workers=workers, persistent_workers=persistent, **context)
