"""Through `torch.utils.data.DataLoader`: nothing twice, epochs advance, checkpoints resume, batches keep their meta."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from owl_client import Batch, OwlStreamDataset
from owl_client.position import Position
from owl_stream.errors import RequestError, StateMismatchError
from owl_stream.wire import Cursor
from tests.client.peers import NO_WAIT, MemoryTransport, cut_at, memory_dataset
from tests.client.world import World, keys_of

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # depends on the machine

WORLD = World(steps=5)
OPTIONS: dict[str, Any] = {"rank": 0, "world_size": 2, "micro_batch_size": 1}
EPOCHS = [(epoch, step, micro) for epoch in range(3) for step in range(5) for micro in range(2)]


def loader(dataset: OwlStreamDataset, workers: int, **options: Any) -> DataLoader[Batch]:
    """A DataLoader that forks, so that tests need not wait for interpreters."""
    context: dict[str, Any] = {"multiprocessing_context": "fork"} if workers else {}
    return DataLoader(dataset, batch_size=None, num_workers=workers, **context, **options)


def places(batches: Iterator[Batch] | DataLoader[Batch]) -> list[tuple[int, int, int]]:
    """Where each batch stands."""
    return [(batch.meta.epoch, batch.meta.step, batch.meta.micro) for batch in batches]


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, False), (3, False), (1, True), (3, True)])
def test_every_pass_is_one_epoch_in_order(workers: int, persistent: bool) -> None:
    """Workers divide an epoch among them without gap or repeat, and the next pass is the next epoch."""
    dataset = memory_dataset(WORLD, **OPTIONS)
    loading = loader(dataset, workers, persistent_workers=persistent)
    assert [place for _ in range(3) for place in places(loading)] == EPOCHS


def test_batches_through_workers_are_the_same_bits() -> None:
    """Crossing processes changes neither tensors nor meta."""
    plain = list(memory_dataset(WORLD, **OPTIONS))
    loaded = list(loader(memory_dataset(WORLD, **OPTIONS), 2))
    assert keys_of(loaded) == keys_of(plain)
    assert [batch.meta for batch in loaded] == [batch.meta for batch in plain]


def test_workers_ask_only_for_their_part() -> None:
    """Worker i of k begins i micro-batches on and strides by k: nothing is sent twice."""
    transport = MemoryTransport({"http://a": WORLD})
    dataset = OwlStreamDataset("http://a", transport=transport, backoff=NO_WAIT, **OPTIONS)
    asked = []
    for worker in range(3):
        position = copy.deepcopy(dataset)
        torch.utils.data._utils.worker._worker_info = torch.utils.data._utils.worker.WorkerInfo(
            id=worker, num_workers=3, seed=7 + worker, dataset=position
        )
        try:
            list(position)
        finally:
            torch.utils.data._utils.worker._worker_info = None
        request = position._settings.transport.opened[0][1]  # type: ignore[attr-defined]
        asked.append((request.cursor, request.stride))
    assert asked == [(Cursor(0, 0, 0), 3), (Cursor(0, 0, 1), 3), (Cursor(0, 1, 0), 3)]


@pytest.mark.parametrize("workers", [2, 4])
def test_more_workers_than_batches_are_idle(workers: int) -> None:
    """A worker without a part ends at once, and the epoch still advances."""
    dataset = memory_dataset(World(steps=1), **OPTIONS)
    loading = loader(dataset, workers)
    assert places(loading) + places(loading) == [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)]


@pytest.mark.parametrize("persistent", [False, True])
def test_the_state_of_a_batch_resumes_through_workers(persistent: bool) -> None:
    """`state_dict(batch)` is the state after the batch that was trained on, whatever workers have read ahead."""
    first = loader(memory_dataset(WORLD, **OPTIONS), 3, persistent_workers=persistent)
    batch = list(islice(first, 4))[-1]
    dataset = memory_dataset(WORLD, **OPTIONS)
    dataset.load_state_dict(dataset.state_dict(batch))
    second = loader(dataset, 2, persistent_workers=persistent)
    assert [place for _ in range(2) for place in places(second)] == EPOCHS[4:20]


def test_a_state_without_a_batch_is_refused_where_workers_read() -> None:
    """The parent cannot know how far the workers' batches have come, and says what to do."""
    dataset = memory_dataset(WORLD, **OPTIONS)
    assert dataset.state_dict()["step"] == 0
    batch = next(iter(loader(dataset, 1)))
    with pytest.raises(RequestError, match=r"state_dict\(batch\)"):
        dataset.state_dict()
    dataset.load_state_dict(dataset.state_dict(batch))
    assert dataset.state_dict() == batch.meta.state


def test_a_pass_that_was_abandoned_begins_again() -> None:
    """Workers read ahead, so only the trainer knows where it left: without a state, the same epoch starts over."""
    loading = loader(memory_dataset(WORLD, **OPTIONS), 2, persistent_workers=True)
    assert places(islice(loading, 3)) == EPOCHS[:3]
    assert places(loading) == EPOCHS[:10]
    assert places(loading) == EPOCHS[10:20]


@pytest.mark.parametrize("persistent", [False, True])
def test_a_trainer_that_counts_batches_need_not_ask_for_the_end(persistent: bool) -> None:
    """Hugging Face's does so: an epoch whose batches all came is over, though nobody saw StopIteration."""
    loading = loader(memory_dataset(WORLD, **OPTIONS), 3, persistent_workers=persistent)
    assert [place for _ in range(3) for place in places(islice(loading, 10))] == EPOCHS


def test_passes_with_one_seed_are_told_apart() -> None:
    """Whoever seeds torch alike before every epoch gives all its workers the same seeds."""
    loading, seen = loader(memory_dataset(WORLD, **OPTIONS), 2), []
    for _ in range(3):
        torch.manual_seed(0)
        seen += places(loading)
    assert seen == EPOCHS


@pytest.mark.parametrize("persistent", [False, True])
def test_set_epoch_reaches_workers(persistent: bool) -> None:
    """The parent's `set_epoch` moves workers, kept ones too."""
    dataset = memory_dataset(WORLD, **OPTIONS)
    loading = loader(dataset, 2, persistent_workers=persistent)
    assert places(loading) == EPOCHS[:10]
    dataset.set_epoch(2)
    assert places(loading) == EPOCHS[20:]
    dataset.set_epoch(0)
    assert places(loading) == EPOCHS[:10]


def test_workers_and_plain_loops_continue_each_other() -> None:
    """A dataset may be read in this process, then through workers, then here again."""
    dataset = memory_dataset(WORLD, **OPTIONS)
    assert places(islice(dataset, 3)) == EPOCHS[:3]
    assert places(loader(dataset, 2)) == EPOCHS[3:10]
    assert places(loader(dataset, 3)) == EPOCHS[10:20]
    assert places(iter(dataset)) == EPOCHS[10:20]


def test_workers_reconnect_on_their_own() -> None:
    """A connection cut under one worker disturbs nobody's order."""
    dataset = memory_dataset(WORLD, cut_at(3000), **OPTIONS)
    assert places(loader(dataset, 2)) == EPOCHS[:10]


def test_ragged_offsets_cross_processes_as_lists() -> None:
    """owl3-241101's list of tensors is the same on the other side."""
    dataset = memory_dataset(World(layout="owl3-241101"), dtype=torch.uint8)
    loaded = list(loader(dataset, 1))
    assert [row.tolist() for row in loaded[0]["media_offset"]] == [[], [0], [1, 2], []]
    assert keys_of(loaded) == keys_of(memory_dataset(World(layout="owl3-241101"), dtype=torch.uint8))


@pytest.mark.parametrize("world", [WORLD, replace(WORLD, videos=True)], ids=["images", "images and videos"])
def test_workers_leave_pixels_raw_for_another_device_and_to_finishes(world: World) -> None:
    """In workers nothing touches the device; `batch.to(device)` moves, normalises all pixels and keeps meta."""
    dataset = memory_dataset(world, device="cuda:0", dtype=torch.bfloat16, **OPTIONS)
    batch = next(iter(loader(dataset, 1)))
    assert {batch[name].dtype for name in batch if "pixel" in name} == {torch.uint8}
    finished = batch.to("cpu")
    expected = next(iter(memory_dataset(world, dtype=torch.bfloat16, **OPTIONS)))
    assert keys_of([finished]) == keys_of([expected])
    assert finished.meta == batch.meta
    assert torch.equal(finished.to("cpu")["pixel_values"], finished["pixel_values"])


def test_spawned_workers_read_the_same_and_advance() -> None:
    """A dataset is picklable, and a spawned worker shares its parent's place."""
    dataset = memory_dataset(WORLD, **OPTIONS)
    loading = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert places(loading) == EPOCHS[:10]
    assert places(iter(loader(dataset, 1))) == EPOCHS[10:20]


def test_workers_cannot_read_different_data() -> None:
    """Once one process has bound the loader to some data, another that finds other data on its server refuses."""
    position = Position()
    assert position.pin("f0/a0")
    dataset = memory_dataset(WORLD, **OPTIONS)
    dataset._position.pin("other/data")
    with pytest.raises(StateMismatchError, match="another process of this loader"):
        list(dataset)


def _begin(position: Position, worker: int, seed: int, answers: Any) -> None:
    answers.put((worker, position.begin_pass(worker, 4, seed)))
    position.finish_pass(worker)


def test_all_workers_of_a_pass_agree_on_where_it_begins() -> None:
    """However late a sibling starts, even when others have already finished, it gets the same start."""
    context = multiprocessing.get_context("fork")
    position, answers = Position(), context.Queue()
    position.move(Cursor(3, 2, 0))
    starts = []
    for seed in (11, 12, 13):
        for worker in range(4):
            process = context.Process(target=_begin, args=(position, worker, seed, answers))
            process.start()
            process.join()
        starts.append({answers.get()[1] for _ in range(4)})
    answers.close()
    answers.join_thread()
    assert starts == [{Cursor(3, 2, 0)}, {Cursor(4, 0, 0)}, {Cursor(5, 0, 0)}]


def test_too_many_workers_are_refused() -> None:
    """The shared place has room for a limited number, and says so."""
    with pytest.raises(RequestError, match="at most 1024"):
        Position().begin_pass(0, 2000, 1)
